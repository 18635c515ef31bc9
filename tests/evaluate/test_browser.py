"""The page as a browser shows it: light and dark, wide and narrow."""

import re

import pytest

from clipjax.evaluate.report import page
from clipjax.evaluate.report.tables import Chapter
from tests.evaluate import browser, synthetic

WIDTHS = (400, 1200)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser.executable() is None,
        reason=f"no browser; install one of {', '.join(browser.NAMES)} (apt-get install chromium)",
    ),
]


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request):
    """(scheme, measures by width, console) of a page with everything on it."""
    results = synthetic.results() | {"selection_rules": synthetic.selection_rules()}
    results = synthetic.with_verdict(results | {"choice": synthetic.choice()})
    text = page.run_page(results, synthetic.metrics(), synthetic.found(), {"long": "x" * 500})
    return request.param, *browser.look(text, WIDTHS, dark=request.param == "dark")


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
    parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_the_console_stays_silent(seen):
    assert seen[2] == []


def test_a_broken_page_would_be_heard():
    script = "<script>console.warn('something is wrong')</script>"
    text = page.document("t", "", [], [Chapter("a", "A", ["b"])])
    chart = '<svg viewBox="0 0 9 9"><text>c</text></svg>'
    broken = text.replace("</main>", f"{chart}<p style='width:3000px'>wide</p>{script}</main>")
    found, said = browser.look(broken, (400,), dark=False)
    assert any("something is wrong" in line for line in said)
    assert found["400"]["overflow"] > 100


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_visible_and_nothing_sticks_out(seen, width):
    found = seen[1][str(width)]
    assert found["inner"] == width and found["overflow"] == 0
    names = [name for name, *_ in found["sections"]]
    assert names == [
        "verdict", "results", "learning", "features", "confusions", "calibration", "classes",
        "mistakes", "methods", "selection", "run", "reading",
    ]  # fmt: skip
    assert all(w > 300 and h > 50 for _, w, h in found["sections"])
    assert all(w > 250 and h > 30 for w, h in found["charts"]) and len(found["charts"]) > 15
    assert len(found["tracks"]) == 3 + 3 + 2  # two axes of three methods, and their numbers
    assert all(w > 250 and h > 15 for w, h in found["tracks"])
    assert found["broken"] == 0
    assert found["outside"] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_pointing_at_a_dot_shows_its_image_on_every_map(seen, width):
    found = seen[1][str(width)]["pointed"]
    assert found["before"] and not found["hidden"] and found["inside"] and found["after"]
    assert found["image"].startswith('url("data:image/webp') and found["marked"] == 6
    assert found["words"].endswith((", real", ", sketch"))


def test_text_can_be_read(seen):
    scheme, found = seen[0], seen[1]["1200"]
    dark = scheme == "dark"
    assert (luminance(found["page"]) < 0.1) == dark and (luminance(found["card"]) < 0.1) == dark
    assert (luminance(found["ink"]) > 0.5) == dark
    for words in ("ink", "muted", "chart"):
        for ground in ("page", "card"):
            assert contrast(found[words], found[ground]) >= 4.5, (words, ground)
