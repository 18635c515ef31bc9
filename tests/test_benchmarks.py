"""The script for a GPU, failing sections and tables; numbers fitted with pairs left out."""

import json

import numpy as np
import pytest

from benchmarks import blend_weight, gpu
from benchmarks.gpu_rows import CHECKS, NOT_RUN, RATES, Check, Place, Rate, tables
from tests.conftest import REPO

DRY = Place(dry=True, torch="not asked for")


def test_a_section_that_fails_is_told_and_the_others_still_run(capsys):
    def broken(place):
        yield Check("one", 0.5, 1.0)
        raise ValueError("two is\nbroken")

    def fine(place):
        yield Rate("three", "images/s", 10.0, 4.0)

    kept = []
    sections = {"parity": broken, "cached": fine}
    found, good = gpu.run_sections(sections, DRY, 100.0, lambda x: kept.append(json.dumps(x)))
    assert not good and len(kept) == 2
    assert found["parity"]["error"] == "ValueError: two is broken" and found["parity"]["rows"]
    assert found["cached"]["rows"][0]["torch"] == 4.0 and "error" not in found["cached"]
    assert "PyTorch 4.0 (2.50)" in capsys.readouterr().out


def test_a_check_that_does_not_hold_and_a_section_without_time_are_told():
    wrong = lambda place: iter([Check("one", np.nan, 1.0)])
    found, good = gpu.run_sections({"parity": wrong}, DRY, 100.0, lambda x: None)
    assert not good and len(found["parity"]["rows"]) == 1
    found, good = gpu.run_sections({"parity": wrong}, DRY, 20.0, lambda x: None)
    assert good and found["parity"]["skipped"] == "skipped: 20 s were left, it may take 60"
    assert f"| {CHECKS['parity'][0]} | skipped: 20 s were left" in tables(found)


def test_the_page_has_the_tables_of_the_script():
    """Where nothing was run, every cell says so; else all rows are there."""
    page = (REPO / gpu.PAGE).read_text()
    written = page.partition("<!-- gpu: begin -->")[2].partition("<!-- gpu: end -->")[0]
    if NOT_RUN in written:
        assert written.strip() == gpu.page_table({}, {})
    names = [name for rows in (CHECKS, RATES) for each in rows.values() for name in each]
    assert all(f"| {name} |" in written for name in names)
    assert sum(gpu.SECONDS.values()) <= 340 and set(gpu.SECONDS) == {*CHECKS, *RATES}


def test_a_number_is_fitted_to_pairs_that_share_neither_end():
    """On stencil as target a weight of 2 is best, elsewhere 1, which is what others tell of it."""
    styles = ("flat", "render", "stencil", "sketch")

    def pair(target):
        best = 2.0 if target == "stencil" else 1.0
        at = lambda weight: np.array([45.0 - abs(weight - best), 40.0])
        return blend_weight.Pair({"zero-shot": np.array([44.5, 40.0])}, at, {})

    pairs = {(s, t): pair(t) for s in styles for t in styles if s != t}
    gains, taken = blend_weight.left_out(pairs, lambda pair, weight: weight, (1.0, 2.0))
    of_stencil = [number for (_, t), number in zip(pairs, taken, strict=True) if t == "stencil"]
    assert of_stencil == [1.0, 1.0, 1.0]
    lowest = min(float(gain[0]) for gain in gains)
    assert lowest == pytest.approx(-0.5) and len(gains) == len(pairs)
    # A number that costs a pair more than 1.5 points is taken only where none costs less.
    bad = pair("flat")._replace(at=lambda weight: np.array([45.0 if weight > 1 else 42.0, 40.0]))
    assert blend_weight.best([pair("flat"), bad], lambda pair, weight: weight, (1.0, 2.0)) == 2.0
