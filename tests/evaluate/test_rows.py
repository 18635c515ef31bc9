"""Rows of results: what each has, variants that stand in nobody's way, files of other versions."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from clipjax.data.features.cache import Features
from clipjax.errors import DataError
from clipjax.evaluate import results as report
from clipjax.evaluate import terminal
from clipjax.evaluate.report import page
from clipjax.evaluate.rows import lines_of, own_rows, row
from clipjax.study import evaluator
from clipjax.study.export import choose
from tests.evaluate import synthetic

# As version 1 wrote them.
OLD_ROW = {"split": "test", "n": 4, "accuracy_mean": 0.5, "accuracy_std": 0.0, "ece": [0.1]}
OLD_ROWS = [
    OLD_ROW | {"method": method, "domain": domain, "accuracies": [0.5] * seeds}
    for method, seeds in (("zero_shot", 1), ("dann", 2))
    for domain in ("real", "sketch")
]
OLD_ROWS += [OLD_ROWS[2] | {"split": "val", "accuracies": [0.25, 0.75]}]


def old_results():
    new = synthetic.results() | {"rows": OLD_ROWS, "domain_gap": {"zero_shot": 0.0, "dann": 0.0}}
    return {key: value for key, value in new.items() if key not in ("version", "variant_gap")}


def measured(variants):
    """Rows of a method: variant -> accuracies over seeds; half of that on the target."""
    return [
        row("ridge", domain, split, 9, {"accuracy": each, "macro_accuracy": each}, variant=variant)
        for variant, values in variants.items()
        for domain, each in (("real", values), ("sketch", [v / 2 for v in values]))
        for split in ("test", "val")
    ]


VARIANTS = {"strength_1": [0.8, 0.6], "strength_0.1": [0.2, 0.4], "strength_10": [0.0, 0.0]}


def collected():
    zero = dict.fromkeys(("accuracy", "macro_accuracy"), [0.4])
    rows = [row("zero_shot", d, "test", 9, zero) for d in ("real", "sketch")] + measured(VARIANTS)
    keys = ("experiment", "model", "data", "classes", "seeds", "selection")
    about = {key: value for key, value in synthetic.results().items() if key in keys}
    return report.collect(about, rows, {}, {}, {})


def test_a_methods_own_result_is_its_first_variant():
    rows = measured(VARIANTS)
    test = own_rows(rows)
    assert {key: each["accuracy_mean"] for key, each in test.items()} == {
        ("ridge", "real"): 0.7,
        ("ridge", "sketch"): 0.35,
    }
    measures = {"accuracy": [1.0], "macro_accuracy": [1.0]}
    among = [row("ridge", "real", "test", 4, measures, classes=c) for c in ("base", "new")]
    assert lines_of(among + rows + among) == lines_of(rows)
    names = ["ridge", "ridge strength_0.1", "ridge strength_10"]
    assert [line.name for line in lines_of(rows)] == names


def test_gaps_are_of_each_variant():
    found = collected()
    assert found["version"] == 2
    assert found["domain_gap"] == {"zero_shot": 0.0, "ridge": 35.0}
    assert found["variant_gap"] == {"ridge": {"strength_0.1": 15.0, "strength_10": 0.0}}


def test_tables_have_the_variants_below_their_method():
    text = terminal.show(collected()).splitlines()
    head = (
        "method              real (source)         macro  sketch (target)       macro   gap  mark"
    )
    assert text[1:3] == [head, "─" * 99]
    assert [" ".join(line.split()) for line in text[3:7]] == [
        "zero_shot 40.0 40.0 40.0* 40.0* 0.0",
        "ridge 70.0 ± 14.1* 70.0 ± 14.1* 35.0 ± 7.1 35.0 ± 7.1 35.0 below zero-shot",
        "ridge strength_0.1 30.0 ± 14.1 30.0 ± 14.1 15.0 ± 7.1 15.0 ± 7.1 15.0 below zero-shot",
        "ridge strength_10 0.0 ± 0.0 0.0 ± 0.0 0.0 ± 0.0 0.0 ± 0.0 0.0 below zero-shot",
    ]
    assert sum(line.startswith("macro accuracy in %: ") for line in text) == 1
    line = "| ridge strength_0.1 | 30.0 ± 14.1 | 15.0 ± 7.1 | 15.0 | 15.0 ± 7.1 | below"
    assert f"{line} zero-shot |\n" in report.markdown(collected())


def test_ensembles_are_told_apart_by_variant():
    found = collected()
    for each in found["rows"]:
        if each["method"] == "ridge":
            each |= {"members": [[0.1] * 5], "disagreement": [0.0], "ece": [0.0]}
    said = [line.split(" on sketch: ") for line in report.notes(found) if "5 members" in line]
    assert [(name, text.split("average, ")[1][:6]) for name, text in said] == [
        ("ridge", "35.0 %"),
        ("ridge strength_0.1", "15.0 %"),
        ("ridge strength_10", "0.0 % "),
    ]


def test_an_export_takes_the_seed_of_the_methods_own_result():
    rows = measured({"last": [0.1, 0.9], "average": [0.9, 0.1]})
    found = {"rows": rows, "seeds": [3, 5], "data": {"source": "real"}}
    assert choose(found, ["ridge"])[:2] == ("ridge", 1)


def test_files_of_the_first_version_are_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(old_results()))
    found = report.read(tmp_path)
    for old, new in zip(OLD_ROWS, found["rows"], strict=True):
        more = {key: value for key, value in new.items() if key not in old}
        assert {key: new[key] for key in old} == old
        assert more == {
            "metric": "accuracy",
            "variant": "last",
            "classes": "all",
            "macro_accuracy_mean": None,
            "macro_accuracy_std": None,
            "macro_accuracies": None,
            "macro_f1_mean": None,
            "macro_f1_std": None,
            "macro_f1s": None,
        }
    shown = (terminal.show(found), report.markdown(found), page.run_page(found, [], {}, {}))
    for text in shown:
        assert "50.0 ± 0.0" in text and "None" not in text
    assert "macro" not in f"{shown[0]}{shown[1]}".lower()
    assert shown[0].split("\n")[1].split() == "method real (source) sketch (target) gap".split()
    assert choose(found, ["dann"])[:2] == ("dann", 1)


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"version": 3, "lines": []}))
    with pytest.raises(DataError, match=r"results.json is of version 3, .* up to version 2; "):
        report.read(tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "Expecting"),
        ("[]", "it holds no results"),
        ("null", "it holds no results"),
        ("{}", "it lacks experiment, model"),
        ('{"version": "2"}', "its version is '2'"),
        ('{"version": true}', "its version is True"),
        ('{"version": 0}', "its version is 0"),
        (json.dumps(old_results() | {"rows": {}}), "its rows are none"),
        (json.dumps(old_results() | {"rows": [[]]}), "its rows are none"),
        (json.dumps(old_results() | {"rows": [{"method": "dann"}]}), "a row lacks domain, split"),
    ],
)
def test_what_is_no_results_is_damaged(tmp_path, text, said):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match="results.json is damaged") as caught:
        report.read(tmp_path)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.fixture
def encoded():
    """Two domains of which some classes have no image in a split, as a run encodes them."""
    rng, parts = np.random.default_rng(0), {}
    for domain in ("real", "sketch"):
        for split, n in (("train", 12), ("val", 10), ("test", 16)):
            features = rng.normal(size=(n, 4)).astype(np.float32)
            parts[domain, split] = Features(features, rng.choice([0, 0, 0, 1, 3], size=n))
    data = types.SimpleNamespace(source_name="real", target="sketch", score_among="all")
    study = types.SimpleNamespace(
        data=data, whole_domains=True, training=types.SimpleNamespace(seeds=(0, 1))
    )
    weights = rng.normal(size=(5, 4)).astype(np.float32)

    def source(domain, split):
        """Groups of the sketches, as a source has them; of the photos there are none."""
        groups = np.arange(len(parts[domain, split].labels)) % 3 - 1
        given = {"groups": groups, "group_names": ("Asia", "Europe")}
        return types.SimpleNamespace(**given if domain == "sketch" else {})

    return types.SimpleNamespace(
        parts=parts,
        study=study,
        scale=10.0,
        text_weights=weights,
        source=source,
        others={},
        has_texts=True,
    )


def balanced(weights, *parts):
    """scikit-learn's macro accuracy of a linear classifier on parts together."""
    features, labels = map(np.concatenate, zip(*parts, strict=True))
    return balanced_accuracy_score(labels, (features @ weights.T).argmax(1))


def check_f1_and_worst_group(row, encoded, splits, weights):
    """Compare a row, and its mean over linear classifiers, with scikit-learn."""
    parts = [encoded.parts[row["domain"], split] for split in splits]
    features, labels = map(np.concatenate, zip(*parts, strict=True))
    answers = [(features @ w.T).argmax(1) for w in weights]
    f1 = [f1_score(labels, a, average="macro", labels=np.unique(labels)) for a in answers]
    assert row["macro_f1s"] == pytest.approx(f1, abs=1e-6)
    assert row["macro_f1_mean"] == pytest.approx(np.mean(f1), abs=1e-6)
    if row["domain"] == "real":
        assert "worst_group_accuracies" not in row and "worst_groups" not in row
        return
    groups = np.concatenate([encoded.source(row["domain"], split).groups for split in splits])
    share = lambda a, g: accuracy_score(labels[groups == g], a[groups == g])
    each = [[share(a, g) for g in (0, 1)] for a in answers]
    assert row["worst_group_accuracies"] == pytest.approx([min(e) for e in each], abs=1e-6)
    assert row["worst_group_accuracy_mean"] == pytest.approx(np.mean([min(e) for e in each]))
    assert row["worst_groups"] == [("Asia", "Europe")[int(np.argmin(e))] for e in each]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_zero_shot_rows_have_both_accuracies(encoded):
    rows = evaluator.zero_shot_rows(encoded)
    assert len(rows) == 6  # test, val and whole domains
    for each in rows:
        assert (each["variant"], each["metric"], each["classes"]) == ("last", "accuracy", "all")
        splits = ("train", "val", "test") if each["split"] == "all" else (each["split"],)
        parts = [encoded.parts[each["domain"], split] for split in splits]
        expected = balanced(encoded.text_weights, *parts)
        assert each["macro_accuracies"] == [pytest.approx(expected, abs=1e-6)]
        assert each["n"] == sum(len(part.labels) for part in parts)
        check_f1_and_worst_group(each, encoded, splits, [encoded.text_weights])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_rows_of_every_variant_have_both_accuracies(encoded):
    variants = {
        name: {"w": np.random.default_rng(i).normal(size=(2, 5, 4)).astype(np.float32)}
        for i, name in enumerate(("last", "average"))
    }

    def answer(params, features):
        logits = jnp.asarray(features @ params["w"].T)
        return logits, jnp.stack([logits, -logits]), features

    view = types.SimpleNamespace(
        placed=lambda params: params, features=lambda params, part: encoded.parts[part]
    )
    trained = types.SimpleNamespace(answer=answer, view=view, variants=variants, shared={})
    rows, _ = evaluator.measure_method("dann", trained, encoded.study.data, encoded)
    assert len(rows) == 2 * 4
    for each in rows:
        part, weights = encoded.parts[each["domain"], each["split"]], variants[each["variant"]]["w"]
        expected = [balanced(w, part) for w in weights]
        assert each["macro_accuracies"] == pytest.approx(expected, abs=1e-6)
        assert each["macro_accuracy_mean"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert each["macro_accuracy_std"] == pytest.approx(np.std(expected, ddof=1), abs=1e-6)
        assert len(each["members"][0]) == 2 and len(each["accuracies"]) == 2
        check_f1_and_worst_group(each, encoded, [each["split"]], weights)
    assert len({(each["variant"], each["domain"], each["split"]) for each in rows}) == 8
