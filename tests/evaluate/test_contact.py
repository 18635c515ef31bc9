"""Contact sheets, and chapters on a terminal and on a page."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from clipjax.evaluate.report import contact_sheet as contact
from clipjax.evaluate.report import page
from clipjax.evaluate.report import tables as chapters
from clipjax.evaluate.report.tables import Chapter, Listing, Note, Table
from clipjax.io import write_atomically
from clipjax.log import writable
from tests.evaluate import browser

RED, GREEN = (250, 0, 0), (0, 250, 0)


def plain(colour, side=32):
    return np.full((side, side, 3), colour, np.uint8)


def shown(chapter):
    """The HTML of a chapter on a page."""
    return page.document("t", "", [], [chapter]).split("<main>")[1]


def strips():
    return [
        contact.Strip("cat", 2, [plain(RED), plain(GREEN)]),
        contact.Strip("<owl> " + "x" * 80, 0, []),
    ]


def test_a_sheet_shows_every_image_and_every_name():
    sheet = Image.open(io.BytesIO(contact.sheet_png("photo/train", strips()))).convert("RGB")
    pixels = np.asarray(sheet)
    for colour in (RED, GREEN):
        assert (pixels == colour).all(axis=-1).sum() == 32 * 32
    dark = (pixels < 100).all(axis=-1)
    assert dark[:30].any() and dark[30:].any()  # the title; the names
    assert not dark[:, -4:].any()  # a long name does not run out of the sheet
    assert contact.sheet_png("photo/train", strips()) == contact.sheet_png("photo/train", strips())


def test_large_images_are_reduced_and_tall_ones_fit():
    tall = np.full((300, 100, 3), RED, np.uint8)
    one = contact.Strip("cat", 1, [tall, plain(GREEN, 224)])
    sheet = Image.open(io.BytesIO(contact.sheet_png("t", [one])))
    assert max(sheet.size) < 500


def test_a_sheet_of_nothing_is_still_a_picture():
    for empty in ([], [contact.Strip("cat", 0, [])]):
        assert Image.open(io.BytesIO(contact.sheet_png("t", empty))).size[0] > 50
    assert not contact.sheet("photo", [])


def test_html_holds_every_image_and_escapes_names():
    text = shown(Chapter("c", "C", items=[contact.sheet("photo", strips())]))
    assert len(re.findall(r'<img src="data:image/webp;base64,', text)) == 2
    assert "<owl>" not in text and "&lt;owl&gt;" in text and "2 images" in text
    assert "http" not in text


def test_choices_are_seeded_and_within_bounds():
    classes = contact.choose_classes(345, seed=1, limit=20)
    assert classes == sorted(set(classes)) and len(classes) == 20 and max(classes) < 345
    assert classes == contact.choose_classes(345, 1, 20) != contact.choose_classes(345, 2, 20)
    assert contact.choose_classes(3, 0) == [0, 1, 2]
    labels = np.array([0, 1, 1, 1, 0])
    rows = contact.choose_rows(labels, 1, seed=0, limit=2)
    assert len(set(rows)) == 2 and set(rows) <= {1, 2, 3}
    assert contact.choose_rows(labels, 2, seed=0) == []


def test_bytes_are_written_whole(tmp_path):
    write_atomically(tmp_path / "a.png", b"new")
    write_atomically(tmp_path / "a.png", b"newer")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"newer"


def numbered(n):
    return [[f"class {i}", str(i)] for i in range(n)]


def test_a_terminal_gets_the_ends_of_long_tables_and_the_page_all():
    table = Table(["class", "n"], numbered(100), "Counts:", head=3, tail=2)
    listing = Listing("Files:", [f"file {i}" for i in range(50)], head=4)
    chapter = Chapter("c", "Counts", ["A sentence."], [table, listing, Note("more")])
    text = chapters.as_text(chapter)
    assert "class 2 " in text and "class 98" in text and "class 50" not in text
    assert "95 more" in text and "46 more" in text and "\nmore" not in text
    body = shown(chapter)
    assert all(f"class {i}<" in body for i in range(100))
    assert all(f"file {i}" in body for i in range(50)) and ">more</p>" in body


def test_short_tables_are_whole_everywhere_and_empty_items_are_left_out():
    short = Table(["class", "n"], numbered(4), head=3)  # one line more than `head`
    text = chapters.as_text(Chapter("c", "C", (), [short, Listing("None:", [])]))
    assert "class 3" in text and "more" not in text and "None" not in text
    assert chapters.as_text(Chapter("c", "C", items=[Note("x")])) == ""
    assert not Chapter("c", "C", items=[Listing("None:", []), Note("")])


def test_the_page_escapes_what_files_are_called():
    items = [Listing("<t>", ["<a>"]), Table(["<h>"], [["<c>"]], "<s>")]
    body = shown(Chapter("c", "C", ["<n>"], items))
    assert sorted(re.findall(r"&lt;(\w)&gt;", body)) == sorted("ntahcs")
    assert not re.search(r"<[ntashc]>", body)


def test_names_that_are_no_text_become_escapes():
    odd = "gr\udcfcn"
    assert writable(odd) == r"gr\udcfcn" and writable("grün") == "grün"
    sheet = contact.sheet(odd, [contact.Strip(odd, 1, [plain(200)])])
    items = [Listing(odd, [odd]), Table(["h"], [[odd]], odd), sheet]
    body = shown(Chapter("c", "C", [odd], items))
    assert body.count(r"gr\udcfcn") == 8 and body.encode()
    assert contact.sheet_png(odd, [contact.Strip(odd, 1, [plain(200)])])


@pytest.mark.slow
@pytest.mark.skipif(browser.executable() is None, reason="no browser (apt-get install chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_sticks_out_or_is_broken(scheme):
    long = "folder/" * 40 + "image.jpg"
    wide = Table([f"column {i}" for i in range(12)], [["x" * 30] * 12] * 30, "Wide:")
    items = [wide, Listing("Files:", [long] * 30)]
    sheet = contact.sheet("photo/train", [*strips(), *strips()])
    chapter = Chapter("c", "Everything", ["A sentence.", long], [*items, sheet])
    text = page.document("Title", "about", [], [chapter])
    found, said = browser.look(text, (400, 1200), dark=scheme == "dark")
    assert said == []
    for width in ("400", "1200"):
        assert found[width]["overflow"] == 0 and found[width]["broken"] == 0
        assert all(w > 300 and h > 200 for _, w, h in found[width]["sections"])
