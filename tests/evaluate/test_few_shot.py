"""Few-shot methods over protocols: what is averaged, spreads, costs, which to take, pages."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from clipjax.configs import few_shot_ablations
from clipjax.data.readers.coop import FOLDERS
from clipjax.evaluate.few_shot import Cell, costs, gathered, harmonic, over_seeds, takes
from clipjax.evaluate.report import few_shot as report
from clipjax.evaluate.report import few_shot_ablations as apart
from clipjax.evaluate.report import few_shot_tables as compared
from clipjax.evaluate.report.few_shot_published import (
    ABLATIONS,
    BASE_NEW,
    CROSS,
    ELEVEN,
    METHODS,
    NOTES,
    pairs,
    published,
)
from clipjax.evaluate.report.few_shot_published import VARIANTS as VARIANTS_OF_IMAGENET
from clipjax.evaluate.rows import row
from tools import few_shot_page

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
    of = compared.comparison(FOUND, VARIANTS)
    cells = {table.title.partition(":")[0]: table.lines for table in compared.tables(of)}
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
    of = compared.comparison(FOUND, VARIANTS)
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
    (table,) = (
        t for t in compared.tables(compared.comparison(base, {})) if t.title.startswith("Each")
    )
    told = ["eurosat", "coop", "90.0", "50.0", "64.3", "92.2 / 54.7 / 68.7", "–", "–"]
    assert [*told, "51.8 / 49.7"] in table.lines
    every = {Cell("coop", name, "base", 16, 1): of_base("coop", 0.9, 0.5) for name in ELEVEN}
    one = {Cell("coop", "imagenet", "base", 16, 1): of_base("coop", 0.9, 0.5)}
    rows = {("coop", "last", "all", d): 0.5 for d in ("imagenet", *VARIANTS_OF_IMAGENET)}
    rows |= {("zero_shot", *key[1:]): 0.4 for key in rows}
    one[Cell("coop", "imagenet", "all", 16, 1)] = results("coop", "imagenet", rows)
    halves = compared.halves(compared.comparison(every, {}), "bng")
    assert halves.lines[1][-1] == "82.7 / 63.2 / 71.7"
    of = compared.comparison(one, {})
    assert compared.dg(of).lines[1][-1] == "71.5 / 64.2 / 48.0 / 49.7 / 75.2"
    assert compared.cost(of).lines[1][-1] == "12.5K / 1 h / 10 GB"
    assert compared.halves(of, "bng").header[-1] == "harmonic mean"  # eleven on the mean, not one


def test_ablations_are_tables_and_figures_of_base_to_new():
    groups, variants = few_shot_ablations.groups(), few_shot_ablations.variants()
    # One run a setting: what two groups compare has one name, and every row is of a method.
    entries = list(few_shot_ablations.methods().values())
    assert not [a for i, a in enumerate(entries) if a in entries[:i]]
    rows = {row for group in groups.values() for row in group}
    made = {variants.get(row, (row,))[0] for row in rows}
    assert made == set(few_shot_ablations.methods()) and set(apart.TITLES) == set(groups)
    for group in ABLATIONS.values():
        assert set(group) <= rows | {"zero_shot"}

    names = ("cite_dva", "cite_last_1", "cite_last_3", "cite_lambda3", "cite_dva_vld", "cite_all")
    found = {Cell(name, "imagenet", "base", 16, 1): of_base(name, 0.9, 0.5) for name in names}
    for cell, each in found.items():
        for c, x in (("all", 0.7), ("new", 0.5)):
            drawn = {(cell.method, "wise_0.5", c, "a"): x}
            each["rows"] += results(cell.method, "a", drawn)["rows"]
    of = compared.comparison(found, variants)
    made = {table.title: table.lines for table in apart.tables(of, groups)}
    lines = {line[0]: line for line in made[apart.TITLES["losses"]]}
    assert lines["cite_all"] == "cite_all 70.0 50.0 58.3 90.0 50.0 64.3".split() + [
        "78.4 / 71.1 / 74.6"
    ]
    assert lines["zero_shot"][4:] == ["–", "–", "–", "72.4 / 68.1 / 70.2"]
    shares = made[apart.TITLES["alpha"]]
    assert [line[:4] for line in shares[1:]] == [
        ["alpha 0.5", "70.0", "50.0", "58.3"],
        ["alpha 1", "90.0", "50.0", "64.3"],
    ]
    assert len(made[apart.TITLES["lambda"]]) == 4 and len(made[apart.TITLES["terms"]]) == 2
    drawn = "".join(apart.figures(of, groups).values())
    assert drawn.count("<svg") == 6 and ET.fromstring(f"<x>{drawn}</x>") is not None
    assert "harmonic mean, 3: 58.33" in drawn and "lambda" in drawn
    assert "alpha 0.5" in apart.page(of, groups)
    text = apart.markdown(of, groups)
    assert "| cite_dva |" in text and "have 74.38, not 72.11" in text
    # On other data than the paper's no column is the paper's.
    other = {cell._replace(data="one"): each for cell, each in found.items()}
    table = apart.tables(compared.comparison(other, variants), groups)[0]
    assert table.header[-1] == "as trained: harmonic mean"


def test_the_docs_page_and_the_recipes_take_a_study_s_numbers():
    """By tools/few_shot_page.py: a table below its heading, lines of other runs, a docstring."""
    of = compared.comparison(FOUND, VARIANTS)
    page = "# Few\n\n### FSL (`fsl`)\n\nTold.\n\n| a |\n| --- |\n| head |\n| own | 2 |\n\nEnd."
    new = few_shot_page.with_table(page, "### FSL", compared.fsl(of)).split("\n")
    assert new[:5] == page.split("\n")[:5] and new[-2:] == ["", "End."]
    rows = [line.split("|")[1].strip() for line in new[6:-2]]
    assert rows == ["images a class", "---", "zero_shot", "own", "head", "tuned", "tuned alpha 1"]
    with pytest.raises(SystemExit, match="no heading '### BNG'"):
        few_shot_page.with_table(page, "### BNG", compared.fsl(of))
    old = (
        "1.0 ± 0.1, 2.0 ± 0.2, 3.0 ± 0.3; trained on\nbase classes 4.0 ± 0.4 on these and 5.0 ± 0.5"
    )
    three = {("a", seed): 60.0 + seed for seed in (1, 2, 3)}
    keys = {("fsl", k): three for k in (1, 4, 16)} | {("bng", k): three for k in ("base", "new")}
    told = few_shot_page.with_numbers(f"{old} on new ones.", of._replace(every={"x": keys}), "x")
    assert told.count("62.0 ± 1.0") == 5 and told.endswith("on new ones.")
    assert few_shot_page.with_numbers("Nothing.", of, "x") == "Nothing."
