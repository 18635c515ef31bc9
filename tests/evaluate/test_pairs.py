"""Methods over pairs of domains: gains against zero-shot, upper bounds apart, and the charts."""

import re
import xml.etree.ElementTree as ET

import numpy as np

from clipjax.evaluate import pairs
from clipjax.evaluate.report.matrices import Group, heat_map
from clipjax.evaluate.rows import row
from tests.evaluate.synthetic import EVIL


def run(source, target, accuracies, labelled=()):
    """results.json's content of a pair: {method: target accuracies over seeds}."""
    rows = [
        row(method, domain, "test", 50, {"accuracy": values, "macro_accuracy": values})
        for method, values in accuracies.items()
        for domain in (source, target)
    ]
    data = {"name": "made", "source": source, "target": target}
    about = {"classes": 4, "seeds": [0, 1], "model": "tiny", "target_labels": list(labelled)}
    return {**about, "data": data, "rows": rows}


FOUND = {
    ("a", "b"): run(
        "a", "b", {"zero_shot": [0.4], "blend": [0.5, 0.5], "best": [0.9, 0.9]}, ["best"]
    ),
    ("b", "a"): run(
        "b", "a", {"zero_shot": [0.6], "blend": [0.5, 0.6], "best": [0.8, 0.8]}, ["best"]
    ),
}


def test_standings_compare_with_zero_shot_and_keep_upper_bounds_apart():
    order = pairs.standings(FOUND)
    assert [s.method for s in order] == ["blend", "zero_shot", "best"]  # 52.5, 50, labels
    blend = order[0]
    np.testing.assert_allclose(blend.accuracy, [50, 55])
    np.testing.assert_allclose(blend.gain, [10, -5], atol=1e-9)
    np.testing.assert_allclose(blend.spread, [0, 100 * np.std([0.5, 0.6], ddof=1)], atol=1e-4)
    _, lines = pairs.cells(FOUND, order)
    assert lines[0][4:] == ["+2.5", "1 of 2", "-5.0 (b to a)", "+10.0 (a to b)"]
    assert lines[2][0] == "best (target labels)"
    assert "none ends below" in pairs.sentence(FOUND, order)


def test_a_method_that_a_pair_lacks_is_left_out():
    rows = [r for r in FOUND["b", "a"]["rows"] if r["method"] != "blend"]
    found = FOUND | {("b", "a"): FOUND["b", "a"] | {"rows": rows}}
    assert [s.method for s in pairs.standings(found)] == ["zero_shot", "best"]


def test_the_page_shows_every_method_and_pair():
    page, text = pairs.page(FOUND), pairs.markdown(FOUND)
    assert page.count("<svg") == 4 and "b to a" in page and "blend, a to b: +10.0" in page
    assert "| blend | 52.5 |" in text


def test_a_heat_map_is_coloured_by_sign_and_strength():
    values = np.array([[1.0, -2.0, 0.0]])
    columns = [Group(EVIL, ["x", "y"]), Group("other", ["z"])]
    tree = ET.fromstring(heat_map("gains", ["method"], columns, values))
    cells = list(tree.iter("rect"))
    assert [c.get("class") for c in cells] == ["good", "bad", "good"]
    assert [c.get("fill-opacity") for c in cells] == ["0.50", "1.00", "0.00"]
    assert [re.sub(".*: ", "", c.find("title").text) for c in cells] == ["+1.0", "−2.0", "+0.0"]
