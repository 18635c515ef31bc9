"""Charts: well-formed, within their frame, and saying what they show."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from clipjax.evaluate.report.axis import Guide, track
from clipjax.evaluate.report.charts import (
    COLOURS,
    Bar,
    bars,
    colour,
    escape,
    line_chart,
    number,
    spread,
    ticks,
)
from clipjax.evaluate.report.figures import reliability_chart, scatter
from clipjax.evaluate.report.matrices import confusion_map, pair_map
from tests.evaluate.synthetic import EVIL


def parsed(text):
    """The drawing as a tree: raises if it is not well-formed."""
    tree = ET.fromstring(text)
    assert tree.tag == "svg" and tree.get("role") == "img" and tree.find("title").text
    return tree


def titles(tree):
    return [t.text for t in tree.iter("title")][1:]


def path_places(tree, kind):
    """Points of the first path of a class."""
    path = next(p for p in tree.iter("path") if kind in p.get("class").split())
    return np.array([[float(v) for v in p.split()] for p in path.get("d").strip("MZ").split("L")])


@pytest.mark.parametrize(
    "low, high", [(0, 1), (0, 100), (-76.5, 61.5), (3e-7, 9e-7), (1e6, 3.3e6), (0.9999, 1.0001)]
)
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 9 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0] * (1 + 1e-9)))
    assert min(abs(mantissa - np.array([1, 2, 5, 10]))) < 1e-6
    assert len({number(v) for v in found}) == len(found) or high - low < 1e-3


def test_a_range_is_never_empty():
    assert spread([2.0, 2.0]) == (1.0, 3.0) and spread([0.0]) == (-0.5, 0.5)
    assert spread([1.0, float("nan"), 3.0]) == (1.0, 3.0)


def test_a_line_goes_where_its_numbers_say():
    chart = line_chart("t", {"a": ([0, 5, 10], [0, 1, 0.5])}, "x", "y", y_range=(0, 1))
    line = [p for p in parsed(chart).iter("path") if p.get("class") == "line c0"][-1]
    places = np.array([[float(v) for v in p.split()] for p in line.get("d")[1:].split("L")])
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.2) and y1 < y0  # up is less
    assert titles(parsed(chart)) == ["a, 0: 0", "a, 5: 1", "a, 10: 0.5"]


def test_a_band_encloses_its_line_and_is_said():
    chart = line_chart("t", {"a": ([1, 2], [2, 3], [1, 2], [4, 4])}, "epoch", "loss")
    tree = parsed(chart)
    band = path_places(tree, "band")
    assert len(band) == 4 and band[0, 1] < band[3, 1]  # high above low at the first x
    assert "a, 1: 2 (1 to 4)" in titles(tree)
    same = line_chart("t", {"a": ([1, 2], [2, 3], [2, 3], [2, 3])}, "x", "y")
    assert "band" not in same


def test_gaps_single_points_and_nothing():
    assert line_chart("t", {}, "x", "y") == ""
    assert line_chart("t", {"a": ([1], [float("nan")])}, "x", "y") == ""
    single = parsed(line_chart("t", {"a": ([3], [0.5])}, "x", "y"))
    assert any("alone" in (g.get("class") or "") for g in single.iter("g"))
    gap = parsed(line_chart("t", {"a": ([1, 2, 3], [1, float("inf"), 3])}, "x", "y"))
    assert len(titles(gap)) == 2
    flat = line_chart("t", {"a": ([1, 2], [0.3, 0.3])}, "x", "y")
    assert "nan" not in flat.lower() and "inf" not in flat


def test_long_curves_are_thinned_and_keep_their_ends():
    chart = parsed(line_chart("t", {"a": (range(5000), range(5000))}, "x", "y"))
    said = titles(chart)
    assert len(said) <= 100 and said[0] == "a, 0: 0" and said[-1] == "a, 4999: 4999"


def test_guide_and_legend_are_written():
    chart = line_chart(
        "t", {"a": ([1, 2], [1, 2]), "b": ([1, 2], [3, 4])}, "x", "y", guide=(9.0, "half")
    )
    words = [t.text for t in parsed(chart).iter("text")]
    assert {"a", "b", "half", "t", "x", "y"} <= set(words)


def test_nothing_leaves_the_drawing():
    names = [f"a method with a long name {i}" for i in range(12)]
    series = {n: ([0, 100], [-1e9, 1e9 * i]) for i, n in enumerate(names)}
    tree = parsed(line_chart("t", series, "x", "y"))
    _, _, width, height = map(float, tree.get("viewBox").split())
    for dot in tree.iter("circle"):
        assert 0 <= float(dot.get("cx")) <= width and 0 <= float(dot.get("cy")) <= height
    assert max(float(t.get("y")) for t in tree.iter("text")) <= height


def test_a_ninth_series_differs_from_the_first():
    kinds = {colour(i) for i in range(2 * COLOURS)}
    assert len(kinds) == 2 * COLOURS


def test_scatter_keeps_points_groups_and_proportions():
    points = [[0, 0], [10, 0], [0, 10], [10, 10]]
    chart = scatter("t", points, [0, 0, 1, -1], ["p", "q"], shapes=[0, 1, 0, 0], notes=list("abcd"))
    tree = parsed(chart)
    assert sorted(titles(tree)) == list("abcd")
    at = {
        c.find("title").text: (float(c.get("cx")), float(c.get("cy")))
        for c in tree.iter("circle")
        if c.find("title") is not None
    }
    assert at["b"][0] - at["a"][0] == pytest.approx(at["a"][1] - at["c"][1], abs=0.2)
    clouds = {g.get("class"): len(g) for g in tree.iter("g") if "cloud" in (g.get("class") or "")}
    assert clouds == {"cloud other": 1, "cloud c0": 1, "cloud c0 ring": 1, "cloud c1": 1}
    assert scatter("t", [], [], []) == ""
    parsed(scatter("t", [[1, 1], [1, 1]], [0, 0], ["same place"]))


def test_bars_start_at_zero_and_keep_their_order():
    tree = parsed(bars("t", [Bar("up", 20.0), Bar("down", -10.0), Bar("none", 0.0)], signed=True))
    up, down, none = list(tree.iter("rect"))
    end = float(down.get("x")) + float(down.get("width"))
    assert float(up.get("x")) == pytest.approx(end, abs=0.2)  # both touch zero
    assert float(up.get("width")) == pytest.approx(2 * float(down.get("width")), abs=0.3)
    assert float(none.get("width")) < 1
    assert titles(tree) == ["up: +20.0", "down: −10.0", "none: 0"]
    assert bars("t", []) == "" and bars("t", [Bar("a", float("nan"))]) == ""


def test_whiskers_reach_their_ends():
    tree = parsed(bars("t", [Bar("a", 50.0, 40.0, 60.0), Bar("b", 60.0)]))
    whisker = next(p for p in tree.iter("path") if p.get("class") == "whisker")
    left, right = map(float, re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", whisker.get("d"))[0])
    a, b = tree.iter("rect")
    assert right == pytest.approx(float(b.get("x")) + float(b.get("width")), abs=0.2)
    assert left < float(a.get("x")) + float(a.get("width")) < right


def test_a_map_of_pairs_leaves_missing_ones_empty_and_writes_the_others():
    values = np.array([[np.nan, 2.0], [-4.0, np.nan]])
    tree = parsed(pair_map("t", ["a", "b"], ["a", "b"], values, signed=True))
    assert titles(tree) == ["a to b: +2.0", "b to a: −4.0"]
    strengths = {r.get("class"): float(r.get("fill-opacity")) for r in tree.iter("rect")}
    assert set(strengths) == {"good", "bad"} and strengths["bad"] > strengths["good"]
    assert pair_map("t", ["a"], ["a"], np.full((1, 1), np.nan)) == ""


def test_confusions_say_shares_and_leave_out_what_never_happened():
    tree = parsed(confusion_map("t", ["a", "b"], [[3, 1, 0], [0, 1, 1]]))
    assert titles(tree) == [
        "a, right: 75 % (3 of 4)", "a, taken for b: 25 % (1 of 4)",
        "b, right: 50 % (1 of 2)", "b, taken for others: 50 % (1 of 2)",
    ]  # fmt: skip
    assert [r.get("class") for r in tree.iter("rect")] == ["good", "bad", "good", "bad"]


@pytest.mark.parametrize("name", [EVIL, "\"&'<", "\x00\x1b", "\udc80", "]]>", "日本 🐈"])
def test_any_name_is_only_text(name):
    for chart in (
        line_chart(name, {name: ([1, 2], [1, 2])}, name, name, guide=(1.5, name)),
        scatter(name, [[0, 0], [1, 1]], [0, -1], [name], notes=[name, name], shape_names=[name]),
        bars(name, [Bar(name, 1.0, note=name)], unit=name),
        confusion_map(name, [name, name], [[1, 1, 0], [0, 2, 1]]),
        pair_map(name, [name], [name], np.ones((1, 1))),
        reliability_chart(name, [(0.5, 0.5, 1.0)]),
        track(name, [50.0], rings=[60.0], ends=(0.0, 100.0), guides=[Guide(10.0, name, "chance")]),
    ):
        tree = parsed(chart)
        assert not list(tree.iter("script"))
        chart.encode("utf-8")
    assert "<" not in escape(name).replace("&lt;", "")
