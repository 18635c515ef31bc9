"""NaN and infinity: refused where they spoil answers, null where a measure has no value."""

import types

import numpy as np
import pytest

from clipjax.errors import CheckpointError, NonFiniteError
from clipjax.evaluate import results as report
from clipjax.evaluate.report import sections
from clipjax.study.evaluator import check_answers
from clipjax.study.report_data import training_curves
from clipjax.study.restore import check_params


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_are_no_class(value):
    logits = np.zeros((4, 3), np.float32)
    check_answers("dann", "sketch/test", logits, logits)
    bad = logits.copy()
    bad[2, 1] = value
    with pytest.raises(NonFiniteError, match="dann gives NaN or infinity for sketch/test"):
        check_answers("dann", "sketch/test", logits, bad)


def test_trained_parameters_that_are_not_finite_are_named(tmp_path):
    team = types.SimpleNamespace(workdir=tmp_path, training=types.SimpleNamespace(selection="last"))
    params = {"classifier": {"layer_0": {"bias": np.zeros((2, 3), np.float32)}}}
    check_params(team, "dann", params)
    params["classifier"]["layer_0"]["bias"][1, 2] = np.nan
    with pytest.raises(CheckpointError, match="'dann'.*classifier/layer_0/bias"):
        check_params(team, "dann", params)


def test_measures_without_a_value_leave_the_others_as_they_are():
    records = [
        {"phase": "dann", "epoch": 1, "lam": [0.5, 0.5], "loss": [1.0, None]},
        {"phase": "dann", "epoch": 1, "evaluation": {"grad_ratio": [None, 4.0]}},
    ]
    (curve,) = training_curves(records, {"dann": "dann"})
    assert curve["grad_ratio"] == [2.0] and curve["lam"] == [0.5, 0.5] and curve["loss"] == [1.0]


def test_distances_without_a_value_are_left_out_of_the_mean():
    found = {"zero_shot": [1.5], "dann": [0.5, None], "finetune": [None]}
    results = {"data": {"source": "a", "target": "b"}, "proxy_a_distance": found, "rows": []}
    (line,) = report._distances(results)
    assert line.endswith("zero_shot 1.50, dann 0.50")
    assert "0.50" in sections.distances(results) and "finetune" not in sections.distances(results)
    results["proxy_a_distance"] = {"dann": [None, None]}
    assert report._distances(results) == [] and sections.distances(results) == ""
