"""Few-shot methods over protocols: what is averaged, spreads, costs, which to take, pages."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from clipjax.configs import few_shot_ablations
from clipjax.data.readers.coop import FOLDERS
from clipjax.evaluate.few_shot import Cell, costs, gathered, harmonic, over_seeds, takes
from clipjax.evaluate.report import few_shot as report
from clipjax.evaluate.report import few_shot_ablations as apart
from clipjax.evaluate.report.few_shot_published import (
    BASE_NEW,
    CROSS,
    METHODS,
    NOTES,
    pairs,
    published,
)
from clipjax.evaluate.rows import row

VARIANTS = {"tuned": ("tuned", "wise_0.5"), "tuned alpha 1": ("tuned", "last")}


def results(method, source, rows, seconds=1.0):
    """results.json's content: rows are (method, variant, classes, domain): accuracy."""
    made = [
        row(m, domain, "test", 100, {"accuracy": [x], "macro_accuracy": [x]},
            variant=variant, classes=classes)
        for (m, variant, classes, domain), x in rows.items()
    ]  # fmt: skip
    spent = {
        "iterations": 20,
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "peak_bytes": 5e8,
        "parameters": 1234,
    }
    about = {"model": "tiny", "data": {"name": "made", "source": source}}
    return {**about, "rows": made, "cost": {method: spent}}


def of_all(method, own, other, **more):
    rows = {("zero_shot", "last", "all", "a"): 0.5, ("zero_shot", "last", "all", "b<"): 0.4}
    rows |= {(method, "last", "all", "a"): own, (method, "last", "all", "b<"): other}
    return results(method, "a", rows, **more)


def of_base(method, base, new, data=(0.6, 0.4), **more):
    rows = {("zero_shot", "last", c, "a"): x for c, x in zip(("all", "new"), data, strict=True)}
    rows |= {(method, "last", "all", "a"): base}
    rows |= {(method, "last", "new", "a"): new} if new else {}
    return results(method, "a", rows, **more)


TUNED = {
    ("tuned", v, "all", "a"): x for v, x in (("last", 0.7), ("wise_0.5", 0.75), ("average", 0.1))
}
FOUND = {
    Cell("head", "one", "all", 1, 1): of_all("head", 0.51, 0.3, seconds=9.0),
    Cell("head", "one", "all", 4, 1): of_all("head", 0.60, 0.3, seconds=9.0),
    Cell("head", "one", "all", 4, 2): of_all("head", 0.64, 0.4, seconds=3.0),
    Cell("head", "one", "all", 4, 3): of_all("head", 0.62, 0.2, seconds=2.0),
    Cell("head", "one", "base", 4, 1): of_base("head", 0.9, None),
    Cell("tuned", "one", "all", 4, 1): results("tuned", "a", TUNED, seconds=30.0),
    Cell("tuned", "one", "base", 4, 1): of_base("tuned", 0.8, 0.5),
}


def test_rows_are_methods_or_a_variant_of_one():
    every = gathered(FOUND, VARIANTS)
    assert list(every) == ["zero_shot", "head", "tuned", "tuned alpha 1"]
    assert every["tuned"]["fsl", 4] == {("one", 1): 75.0}
    assert every["tuned alpha 1"]["fsl", 4] == {("one", 1): 70.0}
    assert every["head"]["fsl", 4] == pytest.approx(
        {("one", 1): 60, ("one", 2): 64, ("one", 3): 62}
    )
    assert every["head"]["dg", (4, "b<")]["one", 2] == pytest.approx(40)
    # A head that holds the base classes has nothing to say of new ones.
    assert (
        every["head"]["bng", "base"] == {("one", 1): 90.0} and ("bng", "new") not in every["head"]
    )
    assert every["zero_shot"]["bng", "new"] == {("one", 1): 40.0}


def test_harmonic_means_are_of_averages_and_spreads_over_seeds():
    """Seed 004, table 1: CLIP-CITE's printed averages, and what a mean of means would give."""
    base, new = {("x", 1): 85.48}, {("x", 1): 77.08}
    assert round(harmonic(base, new).mean, 2) == 81.06
    base, new = {("x", 1): 90.0, ("y", 1): 30.0}, {("x", 1): 40.0, ("y", 1): 80.0}
    assert harmonic(base, new).mean == 60.0  # not the 49.5 that both have on the mean
    two = {("x", 1): 50.0, ("y", 1): 70.0, ("x", 2): 52.0, ("y", 2): 72.0}
    assert over_seeds(two) == pytest.approx((61.0, 2**0.5))
    assert harmonic(two, two) == pytest.approx((61.0, 2**0.5))


def test_costs_are_medians_of_the_largest_subset():
    found = costs(FOUND, VARIANTS)
    assert found["head"].seconds == 3.0 and found["head"].parameters == 1234
    assert found["tuned"] == found["tuned alpha 1"] and found["tuned"].seconds == 30.0


def test_the_cheapest_of_what_the_test_cannot_tell_apart_is_named():
    every, cost = gathered(FOUND, VARIANTS), costs(FOUND, VARIANTS)
    one, four = takes(every, cost, 100)
    assert (one.shots, one.best, one.cheapest) == (1, "head", "zero_shot")
    assert (four.best, four.cheapest) == ("tuned", "tuned")
    assert four.noise == pytest.approx(100 * (2 * 0.75 * 0.25 / 100) ** 0.5)
    assert takes(every, cost, 5)[1].cheapest == "zero_shot"  # five images tell nothing apart


def test_tables_say_mean_and_spread_and_what_is_missing():
    of = report.comparison(FOUND, VARIANTS)
    cells = {table.title.partition(":")[0]: table.lines for table in report.tables(of)}
    few, halves = cells["Few-shot learning"], cells["Base to new"]
    assert ["head", "51.0", "62.0 ± 2.0"] in few and few[0] == ["zero_shot", "50.0", "50.0"]
    assert ["head", "90.0", "–", "–"] in halves
    assert ["tuned alpha 1", "80.0", "50.0", "61.5"] in halves
    assert ["head", "62.0 ± 2.0", "30.0 ± 10.0", "30.0 ± 10.0"] in cells["Other domains"]
    (head,) = (
        line for line in cells["What training costs, on the largest subset"] if line[0] == "head"
    )
    assert head == ["head", "20", "3.00", "6.00", "500", "1,234", "62.0 ± 2.0", "–"]
    assert "answer no new ones: head." in " ".join(report.notes(of))
    assert report.sentence(of).startswith("Images a class: with 1 head (51.0 %), which the test")


def test_pages_are_well_formed_and_escape_names():
    of = report.comparison(FOUND, VARIANTS)
    page = report.page(of)
    assert "b&lt;" in page and "<td>b<" not in page
    assert [ET.fromstring(svg).tag for svg in report.curves(of)] == ["svg"]
    text = report.markdown(of)
    assert "| head | 51.0 | 62.0 ± 2.0 |" in text and text.startswith("# Few-shot methods: one")


def test_what_the_paper_reports_is_in_its_form_and_its_slips_are_said():
    known = pairs(BASE_NEW)
    average = dict(zip(METHODS, known.pop("average"), strict=True))
    columns = dict(zip(METHODS, np.mean(list(known.values()), axis=0).round(2), strict=True))
    for name in METHODS[:4]:
        assert average[name] == pytest.approx(columns[name])
    assert columns["clip_cite"].tolist() == [85.44, 77.07]  # printed as 85.48 and 77.08
    assert "85.44 and 77.07, not 85.48 and 77.08" in NOTES[0] and len(known) == 11
    names = {name.lower() for name in FOLDERS} | {"aircraft", "imagenet"}
    assert set(pairs(CROSS)) <= set(known) == names
    first = published()[0]
    assert ["clip_cite", "85.5", "77.1", "81.1"] in first.lines


def test_published_numbers_stand_beside_ours_of_the_same_dataset():
    base = {Cell("coop", "eurosat", "base", 16, 1): of_base("coop", 0.9, 0.5)}
    (table,) = (t for t in report.tables(report.comparison(base, {})) if t.title.startswith("Each"))
    assert ["eurosat", "coop", "90.0", "50.0", "64.3", "92.2 / 54.7"] in table.lines


def test_ablations_are_tables_and_figures_of_base_to_new():
    names = ("cite_dva", "cite_last_1", "cite_last_2", "cite_lambda7_eta1", "cite_lambda0_eta1")
    found = {Cell(name, "one", "base", 16, 1): of_base(name, 0.9, 0.5) for name in names}
    both = of_base("cite_alpha", 0.8, 0.6)
    for c, x in (("all", 0.7), ("new", 0.5)):
        both["rows"] += results("cite_alpha", "a", {("cite_alpha", "wise_0.5", c, "a"): x})["rows"]
    found[Cell("cite_alpha", "one", "base", 16, 1)] = both
    groups = {group: tuple(rows) for group, rows in few_shot_ablations.groups().items()}
    groups["alpha"] = tuple(few_shot_ablations.VARIANTS)
    of = report.comparison(found, few_shot_ablations.VARIANTS)
    made = {table.title: table.lines for table in apart.tables(of, groups)}
    assert [line[0] for line in made[apart.TITLES["alpha"]]] == [
        "zero_shot",
        "alpha 0.5",
        "alpha 1",
    ]
    assert ["alpha 0.5", "70.0", "50.0", "58.3"] in made[apart.TITLES["alpha"]]
    assert ["cite_dva", "90.0", "50.0", "64.3"] in made[apart.TITLES["losses"]]
    assert len(made[apart.TITLES["weights"]]) == 3 and apart.TITLES["terms"] not in made
    drawn = apart.figures(of, groups)
    assert len(drawn) == 4 and all(ET.fromstring(svg) is not None for svg in drawn)
    assert "late blocks frozen, 2: 64.29" in "".join(drawn) and "lambda 0.7" in "".join(drawn)
    assert "alpha 0.5" in apart.page(of, groups) and "| cite_dva |" in apart.markdown(of, groups)
