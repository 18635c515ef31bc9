"""The grid of Domino: its rows and controls, what they are compared with, the curve of mixing."""

import dataclasses

import numpy as np
import pytest

from clipjax.commands.choices import Choices
from clipjax.commands.domino import domino_study
from clipjax.errors import ConfigError
from clipjax.evaluate import segmentation_grid, segmentation_table
from clipjax.evaluate.report.segments import legend
from clipjax.study.segmentation_data import open_data
from clipjax.study.segmentation_plan import check_described, check_mixing

CONDITIONS = ["clear", "fog", "night", "rain", "snow"]


@pytest.fixture(scope="module")
def found():
    """What a run of the grid would write, with differences that are known."""
    study, rng = domino_study(Choices()), np.random.default_rng(0)
    level = {"none": 0.03, "constant": 0.02, "shuffled": 0.03, "oracle": 0.05}
    seeds = rng.normal(0, 0.02, (len(study.seeds),))  # the same for all rows
    methods = {}
    for method in study.decoders:
        own = 0.2 + (level[method.control] if method.uses_domain else 0)
        noise = rng.normal(0, 1e-4, (5, len(study.seeds)))
        miou = {c: (own + seeds + e).tolist() for c, e in zip(CONDITIONS, noise, strict=True)}
        against = method.decoder if method.uses_domain else ""
        iou = {c: [[0.5, None]] * len(study.seeds) for c in CONDITIONS}
        methods[method.name] = {"miou": miou, "foreground": miou, "iou": iou, "against": against}
        methods[method.name]["fields"] = dataclasses.asdict(method)
    curve = {c: [[0.2, 0.3], [0.4, 0.4]] for c in CONDITIONS}
    mixing = {"method": "linear", "domain": "tinted", "shares": [0.0, 1.0], "miou": curve}
    known = {"conditions": CONDITIONS, "not_measured": {}}
    return known | {"methods": methods, "mixing": mixing}


def test_every_row_that_reads_images_has_all_controls(found):
    names = {
        "linear_domino", "mask_add", "mask_sub", "mask_domino", "mask_add_domino", "mask_sub_domino"
    }  # fmt: skip
    of = segmentation_grid.controls_of(found)
    assert set(of) == names and len(found["methods"]) == 26
    for name, others in of.items():
        assert others["no W"] == name.partition("_")[0]
        controls = {key: other for key, other in others.items() if key != "no W"}
        assert controls == {key: f"{name}_{key}" for key in ("constant", "shuffled", "oracle")}
    study = domino_study(Choices())
    data = open_data(study.data)
    check_described(study, data)  # oracle has every description that it needs
    check_mixing(study, data)


def test_gains_over_controls_are_by_seed(found):
    header, lines = segmentation_grid.grid(found, CONDITIONS[1:])
    assert header[2:] == ["- no W", "- constant", "- shuffled", "- oracle"]
    for line in lines:
        means = [float(cell.split(" ± ")[0]) for cell in line[2:]]
        errors = [float(cell.split(" ± ")[1]) for cell in line[2:]]
        np.testing.assert_allclose(means, [3, 1, 0, -2], atol=0.05)
        assert max(errors) < 0.05  # seeds, which differ by 2 points, are paired
    row, other = ({"miou": {"fog": x}} for x in ([0.3, 0.5, 0.4], [0.2, 0.3, 0.3]))
    mean, error = segmentation_grid.apart(row, other, ["fog"])
    wanted = np.std([10, 20, 10], ddof=1) / 3**0.5
    np.testing.assert_allclose([mean, error], [40 / 3, wanted])
    told = segmentation_grid.sentence(found)
    assert told.startswith("Of 6 rows that read W off images 6 are above and 0 below constant W, ")
    alone = found["methods"] | {
        "linear": found["methods"]["linear"] | {"miou": {c: [0.2] for c in CONDITIONS}}
    }
    assert segmentation_grid.sentence(found | {"methods": alone}) == ""
    assert segmentation_grid.sentence(found | {"conditions": ["clear"]}) == ""


def test_the_curve_of_mixing_has_a_point_for_each_share(found):
    header, lines = segmentation_grid.mixing(found)
    assert header[0] == "tinted images" and [line[0] for line in lines] == ["0 %", "100 %"]
    assert lines[0][1] == "25.0 ± 7.1" and lines[1][-1] == "100.0 ± 0.0"
    header, lines = segmentation_grid.mixing(found | {"conditions": ["clear"]})
    assert header == ["tinted images", "clear"] and lines[1] == ["100 %", "40.0 ± 0.0"]
    chart = segmentation_grid.mixing_chart(found)
    assert chart.count('<path class="line') >= len(CONDITIONS)
    assert segmentation_grid.mixing_chart(found | {"mixing": None}) == ""
    assert [table.lines[0][0] for table in segmentation_table.compared(found)] == 2 * [
        "linear_domino"
    ]
    names = ("background", *"abcdefgh")
    assert len({colour for _, colour in legend(names[:8])}) == 8


def test_flags_of_the_suite_reach_the_run():
    given = Choices(target="fog", model="/clip", smoke=True)
    study = domino_study(given)
    assert study.data.targets == ("fog",) and study.model == "/clip" and len(study.seeds) == 1
    assert domino_study(Choices(root="/data", source="a")).mixing.shares == ()
    with pytest.raises(ConfigError, match="source is not named"):
        domino_study(Choices(root="/data"))


def test_a_source_without_any_right_pixel_has_no_share_that_is_kept(found):
    known = {"classes": ["road"], "split": "test", "constant": {}, "majority": None}
    row = next(iter(found["methods"].values()))
    lost = row | {"miou": row["miou"] | {"clear": [0.0] * 5}}
    header, (line,) = segmentation_table.cells(found | known | {"methods": {"linear": lost}})
    assert line[header.index("mIoU%")] == "–" and line[1] == "0.0 ± 0.0"
