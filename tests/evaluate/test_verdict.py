"""The verdict: the margins and how sure they are, warnings, the next step, where it is told."""

import html
import json

import numpy as np
import pytest
from scipy.stats import bootstrap

from clipjax.evaluate import results as report
from clipjax.evaluate import rule_table, steps, terminal, verdict
from clipjax.evaluate.report import page
from clipjax.evaluate.rows import marked
from tests.conftest import REPO
from tests.evaluate.test_choice import RUNS, run

N = 200


def hits(*shares, seed=0):
    """Which of N images are right, bool [seeds, N]: about these shares of them, one a seed."""
    ease = np.random.default_rng(seed).uniform(size=N)
    noise = np.random.default_rng(seed + 1).normal(0, 0.1, (len(shares), N))
    return ease + noise < np.asarray(shares)[:, None]


RIGHT = {"zero_shot": hits(0.3), "dann": hits(0.1, 0.2), "blend": hits(0.45, 0.5)}
COMMAND = "python -m experiments.main --config=configs/dann.py"


def decided(results=RUNS[0], right=RIGHT, **options):
    """Results with their verdict."""
    results = {"command": COMMAND} | results
    return results | {"verdict": verdict.decide(results, right, **options)}


def test_a_margin_is_the_paired_bootstraps_of_the_images():
    found = decided(source_only=["dann"])["verdict"]
    json.dumps(found)
    assert (found["method"], found["source_only"], found["n"]) == ("blend", "dann", N)
    for end, name in (("zero_shot", "zero_shot"), ("source_only", "dann")):
        margin = found["margins"][end]
        each = RIGHT["blend"].astype(float) - RIGHT[name]
        assert margin["points"] == pytest.approx(100 * each.mean(), abs=1e-3)
        assert margin["each"] == pytest.approx(100 * each.mean(axis=1), abs=1e-3)
        assert margin["seed_std"] == pytest.approx(100 * each.mean(axis=1).std(ddof=1), abs=1e-3)
        known = bootstrap(
            (each.mean(axis=0),), np.mean, n_resamples=9999, method="percentile", rng=1
        ).confidence_interval
        assert (margin["low"], margin["high"]) == pytest.approx(
            (100 * known.low, 100 * known.high), abs=0.5
        )
        # Two accuracies apart would say less: the images are the same.
        ends = [found["accuracies"][method] for method in ("blend", name)]
        apart = sum((end["high"] - end["low"]) ** 2 for end in ends) ** 0.5
        assert margin["high"] - margin["low"] < apart
        assert margin["clear"]
    assert verdict.decide(RUNS[0], RIGHT) == verdict.decide(RUNS[0], RIGHT)  # the same draws


@pytest.mark.parametrize(
    "blend, clear, rule",
    [
        (hits(0.6, 0.65), True, "deploy"),
        (hits(0.3, 0.3, seed=5), False, "within_noise"),
        (np.stack([hits(0.9)[0], hits(0.25)[0]]), False, "seeds_differ"),
        (hits(0.05, 0.1), True, "worse"),
    ],
)
def test_a_margin_within_the_noise_of_images_or_seeds_is_not_clear(blend, clear, rule):
    found = decided(right=RIGHT | {"blend": blend})
    assert found["verdict"]["margins"]["zero_shot"]["clear"] == clear
    assert found["verdict"]["next"]["rule"] == rule
    assert terminal.show(found).count(", within the noise") == (not clear)


def test_the_best_source_only_method_is_the_one_of_the_source():
    found = dict(RUNS[0], rows=[dict(row) for row in RUNS[0]["rows"]])
    best = {"dann": 0.2, "blend": 0.4}
    found["rows"] += [
        dict(row, split="val", accuracy_mean=best.get(row["method"], 0.9))
        for row in found["rows"]
        if row["domain"] == "real"
    ]
    assert decided(found, source_only=["dann", "blend"])["verdict"]["source_only"] == "blend"
    assert decided(found, source_only=["dann"])["verdict"]["source_only"] == "dann"
    alone = decided(found, source_only=[])["verdict"]
    assert alone["source_only"] is None and list(alone["margins"]) == ["zero_shot"]


def test_zero_shot_is_a_verdict_too():
    """Where no method may be taken, its margin is over the source-only one."""
    found = decided(RUNS[1], source_only=["dann"])["verdict"]
    assert found["method"] == "zero_shot" and list(found["margins"]) == ["source_only"]
    assert verdict.headline(found) == "take zero_shot, without adaptation for sketch"
    assert found["why"].startswith("no method is better by ensemble agreement among methods that")
    barred = dict(RUNS[1], choice=RUNS[1]["choice"] | {"refused": {"dann": "answers 12 %"}})
    why = decided(barred, source_only=["dann"])["verdict"]["why"]
    assert why == f"{found['why'].split(' (not')[0]} (not taken: dann answers 12 %)"
    only = run({"zero_shot": 0.3}, {})
    del only["choice"]
    told = decided(only, {"zero_shot": RIGHT["zero_shot"]})["verdict"]
    assert (told["method"], told["margins"], told["next"]["rule"]) == (
        "zero_shot", {}, "zero_shot_only"
    )  # fmt: skip


def test_without_labels_of_the_target_the_verdict_rests_on_what_needs_none():
    for right in ({}, {name: np.zeros((1, 0), bool) for name in RIGHT}):
        found = decided(right=right)
        told = found["verdict"]
        assert (told["method"], told["n"], told["margins"]) == ("blend", 0, {})
        assert told["next"]["rule"] == "unlabelled"
        said = verdict.told(found)
        assert said[1] == "test accuracy on sketch: no labels, not measured"
        assert said[2].startswith("best ensemble agreement among methods")


def test_a_rule_that_reads_target_labels_chooses_nothing():
    found = {key: value for key, value in RUNS[0].items() if key != "choice"}
    told = decided(found)
    assert verdict.told(told)[0] == "nothing was chosen for sketch"
    assert told["verdict"]["next"]["add"] == "--config.selection=label_free"


CHOSEN = {
    "prompts": ({"prompts": "simple", "model": "tiny"}, f"{COMMAND} --config.prompts=ensemble"),
    "larger_model": ({"prompts": "ensemble"}, f"{COMMAND} --config.model={steps.LARGER}"),
    "labels": (
        {"prompts": "ensemble", "model": steps.LARGER},
        f"{COMMAND} --config.data.labels=target",
    ),
    "not_anchored": ({"losses": ["dann"]}, "python -m experiments.main --config=closed_form"),
    "collapsed": (
        {"lam_max": {"blend": 1.0, "dann": 0.3}},
        f"{COMMAND} --config.methods.dann.lam_max=0.1",
    ),
}


@pytest.mark.parametrize("rule", CHOSEN)
def test_the_next_step_where_zero_shot_is_best(rule):
    hints, command = CHOSEN[rule]
    found = dict(RUNS[1], choice=dict(RUNS[1]["choice"]))
    if rule == "collapsed":
        found["choice"]["refused"] = {"dann": "predicts 1.0 effective classes, zero-shot 5.0"}
    told = decided(found, hints=hints)["verdict"]["next"]
    assert (told["rule"], told["command"]) == (rule, command)
    assert steps.told(told).endswith(f": {command}")


def test_every_next_step_is_in_the_docs():
    page_of = (REPO / "docs" / "choosing.md").read_text()
    table = [line for line in page_of.splitlines() if line.startswith("| `")]
    listed = [line.split("`")[1] for line in table if line.count("|") == 4]
    rules = [step.rule for step in steps.STEPS]
    assert [name for name in listed if name in rules] == rules


@pytest.mark.parametrize(
    "command, add, wanted",
    [
        ("python -m a --config.x=1 --workdir=w", "--config.x=2", "python -m a --config.x=2"),
        ("clipjax run dann --config.x=1", "--config.x=2", "clipjax run dann --config.x=2"),
        ("clipjax run dann smoke x=1", "--config.x=2", "clipjax run dann smoke x=2"),
        ("clipjax run x=1", "--config=uda", "clipjax run uda x=1"),
        ("python -m a", "--config=uda", "python -m a --config=uda"),
        ("python -m a --workdir w", "--config.x=2", ""),
        ("", "--config.x=2", ""),
        ("python -m a", "--config.seeds=(0,1)", "python -m a '--config.seeds=(0,1)'"),
    ],
)
def test_the_runs_command_with_another_option(command, add, wanted):
    assert steps.again(command, add) == wanted


def test_the_verdict_comes_first_everywhere():
    found = decided(source_only=["dann"])
    said = verdict.told(found, "runs/a b")
    assert said[0] == "take blend for sketch"
    assert said[-1].endswith("experiments.export --workdir='runs/a b' --out=adapted")
    text = terminal.show(found, "runs/a b", columns=400).splitlines()
    words, typed = said[-1].split(": ")[1:]
    wanted = [said[0], *(f"  {line}" for line in (*said[1:-1], f"next: {words}:"))]
    assert text[1 : len(said) + 2] == [*wanted, f"    {typed}"]
    lines = report.markdown(found, "runs/a b").splitlines()
    assert lines[2] == "**Take blend for sketch.**"
    assert lines[4].startswith("- ") and lines[3 + len(said) - 1].endswith("--out=adapted`.")
    shown = html.unescape(page.run_page(found, [], {}, {}))
    assert shown.index("Take blend for sketch") < shown.index("<svg")
    older = {key: value for key, value in found.items() if key != "verdict"}
    assert verdict.told(older) == [] and "take" not in terminal.show(older)


def test_what_looks_better_than_it_is_is_a_warning_everywhere():
    rows = [dict(each) for each in RUNS[0]["rows"]]
    shares = {"zero_shot": [0.2], "dann": [0.96, 0.98], "blend": [0.7, 0.99]}
    for each in rows:
        each["top_class_share"] = shares[each["method"]] if each["domain"] == "sketch" else [1.0]
    found = decided(RUNS[0] | {"rows": rows})
    words = [
        "dann predicts one class for 97 % of the target's test images",
        "zero_shot, dann: no better than always the most frequent class of sketch (31.0 %)",
        "dann: below zero-shot on sketch",
    ]
    assert [each["words"] for each in found["verdict"]["warnings"]] == words
    shown = html.unescape(page.run_page(found, [], {}, {}))
    for line in words:
        assert f"warning: {line}" in terminal.show(found)
        assert f"Warning: {line}." in report.markdown(found) and f"Warning: {line}." in shown


def test_rows_without_accuracy_are_marked_as_nothing():
    marks = ("below_zero_shot", "below_majority")
    rows = [{k: v for k, v in each.items() if k not in marks} for each in RUNS[0]["rows"]]
    measured = marked(rows, "sketch", {}, {"sketch": 0.3})
    assert sum(each.get("below_majority", False) for each in measured) == 2
    unmeasured = [dict(each, accuracy_mean=None) for each in rows]
    assert marked(unmeasured, "sketch", {}, {"sketch": 0.3}) == unmeasured


def test_all_other_rules_are_one_table():
    rules = {
        "last": {"epoch": [5, 5], "source": [0.7, 0.8], "target": [0.5, 0.6]},
        "atc": {"epoch": [5, 5], "source": [0.7, 0.8], "target": [0.5, 0.6]},
        "oracle": {"epoch": [3, 4], "source": [0.6, 0.6], "target": [None, None]},
    }
    found = RUNS[0] | {"selection_rules": {"dann": rules}}
    header, lines = rule_table.cells(found)
    assert header == ["chosen", "pick", "real (source)", "sketch (target)", "by"]
    assert lines == [
        ["epoch of dann", "5", "75.0", "55.0", "last *, atc"],
        ["epoch of dann", "3/4", "60.0", "–", "oracle"],
        ["method", "blend", "40.0", "40.0", "ensemble_agreement *"],
        ["method", "dann", "20.0", "20.0", "atc"],
    ]
    assert report.markdown(found).count("\n| epoch of dann |") == 2
    assert "atc" not in terminal.show(found)
    assert rule_table.cells(found | {"sweep": {}})[1] == []
