"""The choice among methods: its guard, its vote, its marks, and what rules were worth."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score

from clipjax.evaluate import choice, judged, terminal
from clipjax.evaluate import results as report
from clipjax.evaluate.report import page
from clipjax.evaluate.rows import marked, row

FINE = {"source_val": [0.5, 0.5], "effective_classes": [8.0, 8.0]}


def one_hot(answers, classes=4):
    return 20.0 * np.eye(classes, dtype=np.float32)[np.asarray(answers)]


def candidate(*seeds, **scores):
    return choice.Candidate(np.stack([one_hot(seed) for seed in seeds]), FINE | scores)


ANSWERS = [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_guard_refuses_what_collapsed_but_not_what_lost_on_the_source():
    scores = {
        "zero_shot": {"source_val": [0.2], "effective_classes": [8.0]},
        "fine": FINE | {"source_val": [0.49, 0.51]},
        "narrow": FINE | {"effective_classes": [3.0, 4.0]},
        "lost": FINE | {"source_val": [0.1, 0.15]},
        "unmeasured": {"source_val": [None, 0.1], "effective_classes": [None, 1.0]},
        "near": FINE | {"zero_shot_agreement": [0.5, 0.7]},
        "away": FINE | {"zero_shot_agreement": [0.5, 0.6]},
    }
    assert choice.refused(scores) == {
        "narrow": "predicts 3.5 effective classes, zero-shot 8.0",
        "away": "answers 55 % of the target's images as zero-shot",
    }


def test_choosing_is_an_ensemble_in_which_every_method_has_one_vote():
    """Three seeds have no more to say than zero-shot's one answer, the refused nothing."""
    wrong = [1, 2, 3, 0, 1, 2, 3, 0]
    half = [0, 1, 2, 3, 1, 2, 3, 0]
    candidates = {
        "zero_shot": candidate(ANSWERS),
        "same": candidate(ANSWERS, ANSWERS, half),
        "far": candidate(wrong, wrong, wrong),
        "narrow": candidate(wrong, wrong, effective_classes=[1.0]),
    }
    found = choice.choose(candidates)
    share = lambda answers: accuracy_score(ANSWERS, answers)
    assert found["scores"]["same"]["ensemble_agreement"] == [1.0, 1.0, share(half)]
    assert found["scores"]["far"]["zero_shot_agreement"] == [share(wrong)] * 3
    assert found["scores"]["far"]["ensemble_agreement"] == [share(wrong)] * 3
    assert list(found["refused"]) == ["far", "narrow"]
    assert (found["pick"], found["rule"], found["n"]) == ("zero_shot", "source_val", 8)
    assert found["scores"]["narrow"].keys() == found["scores"]["same"].keys()
    json.dumps(found)


def test_the_order_of_images_and_methods_changes_nothing_and_nothing_is_changed():
    rng = np.random.default_rng(0)
    logits = {name: rng.normal(size=(2, 40, 4)) for name in ("zero_shot", "one", "two")}
    made = {name: choice.Candidate(x, dict(FINE)) for name, x in logits.items()}
    found = choice.choose(made)
    order = rng.permutation(40)
    again = choice.choose(
        {n: c._replace(logits=c.logits[:, order]) for n, c in reversed(made.items())}
    )
    assert found["pick"] == again["pick"]
    for name, own in found["scores"].items():
        for rule, values in own.items():
            assert again["scores"][name][rule] == pytest.approx(values, abs=1e-6), rule
    assert all(each.scores == FINE for each in made.values())


def run(accuracies, scores, *, refused=(), seeds=1):
    """Results of a run: target accuracy of each method, and {rule: {method: score}}."""
    rows = [
        row(name, domain, "test", 50, {"accuracy": [value] * seeds, "macro_accuracy": [value]})
        for name, value in accuracies.items()
        for domain in ("real", "sketch")
    ]
    own = {name: {rule: [each[name]] for rule, each in scores.items()} for name in accuracies}
    found = {"rule": "ensemble_agreement", "n": 50, "scores": own, "pick": None}
    for name in refused:
        own[name]["zero_shot_agreement"] = [0.1]
    found["refused"] = choice.refused(own)
    found["pick"] = choice.taken(own, found["rule"], refused)
    about = {"experiment": "e", "model": "tiny", "classes": 4, "seeds": [0], "selection": "last"}
    about["data"] = {"name": "photos", "source": "real", "target": "sketch"}
    about["majority"] = {"sketch": 0.31}
    return report.collect(about, rows, {}, {}, {}) | {"choice": found}


def scored(zero, dann, blend):
    return {"zero_shot": zero, "dann": dann, "blend": blend}


RUNS = [
    run(
        scored(0.3, 0.2, 0.4),
        {"ensemble_agreement": scored(0.8, 0.6, 0.9), "atc": scored(0.2, 0.9, 0.1)},
    ),
    run(
        scored(0.5, 0.1, 0.45),
        {"ensemble_agreement": scored(0.8, 0.9, 0.7), "atc": scored(0.5, 0.1, 0.4)},
        refused=["dann"],
    ),
]


def test_rules_are_judged_by_what_they_would_have_chosen():
    found = {each.rule: each for each in judged.judge(RUNS)}
    assert list(found) == [
        "atc", "ensemble_agreement", "always blend", "always zero_shot", "always dann", "oracle"
    ]  # fmt: skip
    ensemble = found["ensemble_agreement"]  # takes blend, then dann; guarded zero_shot
    ranks = [spearmanr(*each)[0] for each in (([8, 6, 9], [3, 2, 4]), ([8, 9, 7], [50, 10, 45]))]
    assert ensemble.rank == pytest.approx(np.mean(ranks))
    assert (ensemble.runs, ensemble.below) == (2, 1)
    assert ensemble.accuracy == pytest.approx((40 + 10) / 2)
    assert ensemble.regret == pytest.approx((0 + 40) / 2)
    assert ensemble.worst == pytest.approx(10 - 50)
    assert ensemble.guarded == pytest.approx(((40 + 50) / 2, 0, 0))
    assert found["atc"].accuracy == pytest.approx((20 + 50) / 2)
    assert found["always blend"].worst == pytest.approx(-5)
    assert found["oracle"].accuracy == pytest.approx(45) and found["oracle"].regret == 0
    header, lines = judged.cells(judged.judge(RUNS))
    assert all(len(line) == len(header) for line in lines)
    assert lines[1] == [
        "ensemble_agreement", "2", "0.25", "25.0", "20.0", "-40.0", "1", "45.0", "+0.0", "0"
    ]  # fmt: skip


def test_scores_that_some_runs_lack_are_judged_by_the_others():
    more = run(scored(0.3, 0.2, 0.4), {"mano": scored(0.1, 0.2, 0.3)})
    found = {each.rule: each for each in judged.judge([*RUNS, more])}
    assert (found["mano"].runs, found["atc"].runs, found["oracle"].runs) == (1, 2, 3)
    assert judged.judge([]) == []


def test_a_choice_among_some_methods_leaves_the_others_out():
    few = [judged.among(each, ["dann"]) for each in RUNS]
    found = {each.rule: each for each in judged.judge(few)}
    assert {name for name in found if name.startswith("always")} == {
        "always zero_shot",
        "always dann",
    }
    assert found["oracle"].accuracy == pytest.approx((30 + 50) / 2)
    assert "blend" in RUNS[0]["choice"]["scores"]
    with pytest.raises(ValueError, match="a run has no method 'dan'; it has zero_shot, dann"):
        judged.among(RUNS[0], ["dan"])


def test_the_page_gets_the_table_and_keeps_its_words():
    made = judged.markdown(RUNS)
    assert made.startswith("2 runs, photos, model tiny, 1 seeds: real → sketch. Methods: zero_shot")
    assert "| oracle | 2 |" in made and made.count("\n|") == 2 + 6
    page_of = f"# A\n{judged.BEGIN}\n{judged.END}\nB\n"
    once = judged.filled(page_of, made)
    assert once.startswith("# A\n") and once.endswith("\nB\n") and made in once
    assert judged.filled(once, made) == once
    for text in ("no mark", judged.BEGIN, f"{judged.END} {judged.BEGIN}"):
        with pytest.raises(ValueError, match="to write between"):
            judged.filled(text, made)


def test_ranks_are_spearmans_with_ties():
    one, two = [3, 1, 2, 2, 5, 5, 5], [1, 1, 4, 0, 2, 7, 7]
    assert judged.spearman(one, two) == pytest.approx(spearmanr(one, two)[0])
    assert judged.spearman([1], [2]) is None


def test_lines_below_zero_shot_are_marked_everywhere():
    found = RUNS[1]
    marked = {
        r["method"]: r.get("below_zero_shot") for r in found["rows"] if r["domain"] == "sketch"
    }
    assert marked == {"zero_shot": None, "dann": True, "blend": True}
    assert not any("below_zero_shot" in r for r in found["rows"] if r["domain"] == "real")
    lines = terminal.show(found).splitlines()
    assert lines[1].split()[-2:] == ["gap", "mark"]
    marks = ["", "below zero-shot, below majority", "below zero-shot"]
    assert all(line.endswith(mark) for line, mark in zip(lines[3:6], marks, strict=True))
    assert all(f"| {mark} |" in report.markdown(found) for mark in marks[1:])
    tag = '<span class="tag bad">below zero-shot</span>'
    assert page.run_page(found, [], {}, {}).count(tag) == 2
    above = run(scored(0.3, 0.4, 0.3), {})
    assert "below zero-shot" not in terminal.show(above) + page.run_page(above, [], {}, {})


def test_marks_are_of_each_methods_own_target():
    rows = [
        row(name, domain, "test", 9, {"accuracy": [value], "macro_accuracy": [value]})
        for name, values in {"zero_shot": (0.5, 0.2), "to_b": (0.1, 0.3)}.items()
        for domain, value in zip("ab", values, strict=True)
    ]
    about = {"data": {"source": "a", "target": "a"}}
    for targets, expected in (({"to_b": "b"}, [False]), ({}, [True])):
        found = report.collect(about, rows, {}, {}, {}, targets)["rows"]
        assert [r["below_zero_shot"] for r in found if "below_zero_shot" in r] == expected
    assert not any("below_zero_shot" in each for each in rows)  # as it was given


def test_marks_compare_with_zero_shots_own_result_not_its_variants():
    made = lambda name, value, variant: row(
        name, "b", "test", 9, {"accuracy": [value], "macro_accuracy": [value]}, variant=variant
    )
    rows = [made("zero_shot", 0.4, "last"), made("zero_shot", 0.3, "debiased")]
    found = marked([*rows, made("dann", 0.35, "last")], "b", {})
    assert [each.get("below_zero_shot") for each in found] == [None, True, True]


def test_the_most_frequent_class_stands_below_the_methods():
    found = RUNS[0] | {"majority_macro": {"sketch": 0.25}}
    assert "| most frequent class |  | 31.0 |  | 25.0 |  |" in report.markdown(found)
    (line,) = (x for x in terminal.show(found).splitlines() if x.startswith("most frequent class"))
    assert line.split()[3:] == ["31.0", "25.0"]
    older = {key: value for key, value in RUNS[0].items() if key != "majority"}
    assert "most frequent" not in terminal.show(older) + report.markdown(older)
