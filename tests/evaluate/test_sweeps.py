"""Settings side by side: what is picked, by what, and what is never looked at."""

import pytest

from clipjax.evaluate import sweeps
from clipjax.evaluate.report import sections
from clipjax.evaluate.report.figures import sweep_chart
from clipjax.evaluate.rows import row

SETTINGS = {
    "dann lr=1": ("dann", {"optim.lr": 1.0}),
    "dann lr=2": ("dann", {"optim.lr": 2.0}),
    "dann shots=4": ("dann", {"optim.lr": 1.0, "data.shots": 4}),
}
MEASURES = ("accuracy", "macro_accuracy")


def results(selection="last", scored=tuple(SETTINGS), **scores):
    rows = [
        row(name, domain, "test", 10, dict.fromkeys(MEASURES, each), variant=variant)
        for name, accuracy in zip(SETTINGS, (0.8, 0.2, 0.5), strict=True)
        for variant, each in {"last": [accuracy, accuracy + 0.1], "average": [0.0, 0.0]}.items()
        for domain in ("real", "sketch")
    ]
    history = {
        "information_maximization": ([1.0, 2.0], [3.0, 2.0], [9.0, 9.0]),
        "proxy_a_distance": ([1.0, 1.2], [1.5, 1.5], [2.0, 2.0]),
    } | scores
    each = {
        name: {rule: values[i] for rule, values in history.items()}
        for i, name in enumerate(SETTINGS)
        if name in scored
    }
    targets = dict.fromkeys(SETTINGS, "sketch")
    found = sweeps.sweep_table(SETTINGS, rows, each, targets, selection=selection, source="real")
    return {"sweep": found, "rows": rows}


def test_validation_picks_against_test_accuracy():
    found = results()["sweep"]
    assert found["rule"] == "information_maximization"
    assert found["best"] == {"dann": "dann lr=2", "dann data.shots=4": "dann shots=4"}
    row = found["rows"][0]
    assert row["score_mean"] == 1.5 and row["target"]["each"] == [0.8, 0.9]
    assert row["target"]["std"] == pytest.approx(0.0707, abs=1e-4)


def test_a_distance_is_better_where_it_is_smaller():
    assert results("proxy_a_distance")["sweep"]["best"]["dann"] == "dann lr=1"


def test_a_score_that_was_not_measured_is_no_candidate():
    found = results(information_maximization=([1.0, 1.0], [None, 9.0], [1.0, 1.0]))["sweep"]
    assert found["rows"][1]["score_mean"] is None and found["best"]["dann"] == "dann lr=1"


def test_a_closed_form_is_shown_and_not_ranked():
    found = results(scored=("dann lr=1",))
    assert found["sweep"]["best"] == {"dann": "dann lr=1"}
    assert [row["score"] for row in found["sweep"]["rows"][1:]] == [None, None]
    assert sweeps.cells(found)[1][1] == ["dann", "2.0", "", "", "25.0 ± 7.1", "25.0 ± 7.1"]
    assert len(sweeps.sentences(found)) == 1


def test_the_table_and_the_chart():
    header, lines = sweeps.cells(results())
    assert header[:3] == ["method", "optim.lr", "data.shots"]
    assert [line[0] for line in lines] == ["dann", "dann *", "dann *"]
    assert lines[1][-1] == "25.0 ± 7.1"
    assert "<svg" in sweep_chart(results(), "optim.lr")
    assert sweep_chart(results(), "data.shots") == ""  # one value is no curve
    (one, _) = sweeps.sentences(results())
    assert "best of dann by information_maximization on validation data: dann lr=2" in one


def test_the_candidate_is_the_checkpoint_that_the_rule_picks():
    history = [[{"epoch": 1, "source_val": 0.9}, {"epoch": 2, "source_val": 0.5}]]
    assert sweeps.candidate(history, "last") == {"source_val": [0.5]}
    assert sweeps.candidate(history, "source_val") == {"source_val": [0.9]}


def test_a_sweep_over_targets_draws_what_the_best_settings_gain():
    found = results() | {"data": {"source": "real", "target": "sketch"}}
    assert sections.gains(found) == ""  # one target
    zero = row("zero_shot", "sketch", "test", 10, dict.fromkeys(MEASURES, [0.5]))
    there = row("zero_shot", "inked", "test", 10, dict.fromkeys(MEASURES, [0.7]))
    one, two, _ = found["sweep"]["rows"]  # of 85 and 25 %
    sweep = {"rows": [one, two | {"target_domain": "inked"}]}
    sweep["best"] = {
        "dann data.target=sketch": one["method"],
        "dann data.target=inked": "dann lr=2",
    }
    drawn = sections.gains(found | {"sweep": sweep, "rows": [*found["rows"], zero, there]})
    assert "dann to sketch: +35.0" in drawn and "dann to inked: −45.0" in drawn
