"""Ways of fine-tuning over shares of the data: what is picked, spreads, differences, pages."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from clipjax.evaluate.report import robust as report
from clipjax.evaluate.report.page import standalone
from clipjax.evaluate.robust import called, gains, measures, points, summary
from clipjax.evaluate.rows import row

OTHERS = ("flat", "ink & <wash>")


def run(accuracies):
    """results.json's content of a run: {(method, variant): ID validation, ID and OOD accuracy}."""
    rows = []
    for (method, variant), (val, own, other) in accuracies.items():
        parts = {("render", "val"): val, ("render", "test"): own, ("flat", "val"): 0.99}
        parts |= {("flat", "test"): other - 0.1, (OTHERS[1], "test"): other + 0.1}
        rows += [
            row(method, *part, 50, {"accuracy": [x], "macro_accuracy": [x], "macro_f1": [x / 2]},
                variant=variant)
            for part, x in parts.items()
        ]  # fmt: skip
    about = {"classes": 4, "model": "tiny", "timing_s": {"encode": 30.0}}
    about["machine"] = {"devices": "1 x cpu", "processor": "a chip", "cores": 2, "system": "Linux"}
    return {**about, "data": {"name": "made", "source": "render"}, "rows": rows}


def cell(ce=0.6, **changes):
    """Of a run with data: linear probes of two rates, and CE with its variants."""
    return run(
        {
            ("zero_shot", "last"): (0.5, 0.5, 0.4),
            ("linear_probe lr=0.01", "last"): (0.7, 0.6, 0.2),
            ("linear_probe lr=0.1", "last"): (0.6, 0.8, 0.3),
            ("ce", "last"): (0.6, ce, 0.3),
            ("ce", "average"): (0.6, ce + 0.02, 0.35),
            ("ce", "wise_0.5"): (0.6, 0.58, 0.5),
            **changes,
        }
    )


ZERO = run({("zero_shot", "last"): (0.5, 0.5, 0.4), ("random_head", "last"): (0.1, 0.1, 0.1)})
FOUND = {
    (0.0, 0, 0): ZERO,
    (0.1, 0, 0): cell(0.6),
    (0.1, 0, 1): cell(0.64),
    (0.1, 1, 0): cell(0.7),
    (0.1, 1, 1): cell(0.74),
    (1.0, 0, 0): cell(0.8),
    (1.0, 0, 1): cell(0.82),
}


def test_measures_are_of_the_source_and_the_mean_over_the_others():
    found = measures(FOUND[0.1, 0, 0])["ce", "last"]
    assert found == pytest.approx({"val": 60, "id": 60, "ood": 30, "id_f1": 30, "ood_f1": 15})
    more = [{**r, "classes": "new", "accuracy_mean": 0.0} for r in FOUND[0.1, 0, 0]["rows"]]
    both = FOUND[0.1, 0, 0] | {"rows": FOUND[0.1, 0, 0]["rows"] + more}
    assert measures(both)["ce", "last"] == found  # other classes are another evaluation's


def test_id_validation_picks_and_the_oracle_stands_beside():
    probe = points(FOUND)["linear probe"][1]
    assert [called(c) for c in (probe.pick, probe.oracle)] == ["lr=0.01", "lr=0.1"]
    assert summary(probe.found["ood"]).mean == pytest.approx(20)
    assert summary(probe.seen["ood"]).mean == pytest.approx(30)
    # Of equals on validation the share nearest to zero-shot, which itself is a candidate.
    wise = points(FOUND)["CE + WiSE"][1]
    assert wise.pick == ("ce", "wise_0.5") == wise.oracle
    worse = cell() | {
        "rows": [r | {"accuracy_mean": 0.1} if r["method"] == "ce" else r for r in cell()["rows"]]
    }
    assert points({(0.1, 0, 0): worse})["CE + WiSE"][0].pick == ("zero_shot", "last")


def test_without_data_all_is_zero_shot_but_what_starts_at_random():
    first = {way: summary(path[0].found["id"]).mean for way, path in points(FOUND).items()}
    assert first.pop("linear probe") == first.pop("vision-only") == pytest.approx(10)
    assert set(first.values()) == {50.0} and "FLYP" in first


def test_spreads_are_over_seeds_on_a_subset_and_over_subsets_with_a_seed():
    few, full = points(FOUND)["CE"][1:]
    found = summary(few.found["id"])
    assert found == pytest.approx((67, np.std([60, 64], ddof=1), np.std([60, 70], ddof=1)))
    assert summary(full.found["id"]).subsets is None
    assert report.spread_out(summary(full.found["id"])) == "81.0 ± 1.4 / –"


def test_differences_are_between_the_same_runs():
    found = {(g.way, g.other): g for g in gains(points(FOUND))}
    swa = found["CE + SWA", "CE"]
    np.testing.assert_allclose(swa.id, 2.0, atol=1e-4)
    assert len(swa.ood) == 6 and ("FLYP", "CE") not in found  # no run with data has FLYP
    line = next(line for line in report.differences(points(FOUND))[1] if "SWA" in line[0])
    assert line == ["CE + SWA against CE", "+2.0", "0.0", "6 of 6", "+5.0", "0.0", "6 of 6"]


def test_the_pages_show_every_way_and_share():
    text, page = report.markdown(FOUND), report.page(FOUND)
    assert "| CE | 50.0 | 67.0 | 81.0 | 2.1 | 7.1 |" in text
    assert "| 10 %, linear probe | 60.0 ± 0.0 / 0.0 |" in text
    assert "| lr=0.01 | lr=0.1 | 30.0 |" in text and "| linear probe | 10.0 | 30.0 | 30.0 |" in text
    assert "6 runs with data" in text and "4 minutes of work together, on 1 x cpu, a chip" in text
    assert page.count("<svg") == 3 and "CE, 10 %: 67" in page
    for title, header, lines in report.terminal(FOUND):
        assert title and all(len(line) == len(header) for line in lines)


def test_the_figures_are_files_of_their_own():
    drawn = report.charts(points(FOUND))
    assert tuple(drawn) == report.FIGURES
    for svg in drawn.values():
        tree = ET.fromstring(standalone(svg))
        assert tree.tag.endswith("}svg") and "--card" in tree[0].text
    names = [t.text for t in ET.fromstring(drawn["id"]).iter("text")]
    assert ["0 %", "10 %", "100 %"] == [name for name in names if name.endswith(" %")][:3]
