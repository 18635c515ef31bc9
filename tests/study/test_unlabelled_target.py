"""A target without labels: it is trained on, scored without labels, mapped and predicted."""

import csv
import dataclasses
import math
import shutil

import numpy as np
import pytest

from clipjax.commands.choose import compare
from clipjax.commands.suite import Choices, pair_studies
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import ConfigError, DataError
from clipjax.evaluate import judged, measures, terminal
from clipjax.study import Data, Encoder, Study, Training, parse, run
from clipjax.study.epochs import training_rows
from clipjax.study.export import export
from clipjax.study.measured import score
from clipjax.study.plan import matched_data, prepare
from tests.conftest import make_photos, read_json

HEADS = {"adapter": (4,), "classifier": (), "discriminator": (4,)}
METHODS = {"dann": {"loss": "dann", "heads": HEADS}, "gda": {"loss": "gda"}}
BOUND = {"upper_bound": {"loss": "logistic", "data": {"labels": "target"}}}


def study_of(root, wee_clip, target="scan", stages=tuple(METHODS), **changes):
    data = {"root": str(root), "source": "real", "target": target}
    training = {"seeds": (0, 1), "epochs": 2, "batch_size": 4, "save_every": 1}
    return Study(
        encoder=Encoder(model=str(wee_clip)),
        data=Data(**data | changes.pop("data", {})),
        training=Training(**training | changes),
        methods=METHODS | BOUND,
        stages=stages,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`real` with labels, `scan` with the same pictures as plain files, `sketch` with labels."""
    root = make_photos(tmp_path_factory.mktemp("unlabelled") / "photos")
    (root / "scan").mkdir()
    for file in root.glob("sketch/*/*.png"):
        shutil.copy(file, root / "scan" / f"{file.parent.name} {file.name}")
    return root


@pytest.fixture(scope="module")
def finished(root, wee_clip, tmp_path_factory):
    said = []
    workdir = tmp_path_factory.mktemp("unlabelled_run") / "run"
    study = study_of(root, wee_clip, stages=(*METHODS, *BOUND))  # as the main config has them
    return run(study, workdir, said.append), said


def table_of(workdir):
    with (workdir / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_but_what_needs_labels_is_measured(finished):
    found, said = finished
    rows = [row for row in found.rows if row["domain"] == "scan"]
    assert {row["method"] for row in rows} == {"zero_shot", *METHODS} and len(rows) == 8
    for row in rows:
        assert row["not_measured"] == "no labels"
        needs = [k for k in row if "accurac" in k or k in ("ece", "members")]
        assert all(row[key] is None for key in needs) and len(needs) == 6, row
        assert all(0 < share <= 1 for share in row["top_class_share"])
    others = [row for row in found.rows if row["domain"] != "scan"]
    assert others and all("not_measured" not in row for row in others)
    assert all(0 <= a <= 1 for row in others for a in row["accuracies"])
    results = found.results
    assert results["domain_gap"] == dict.fromkeys(["zero_shot", *METHODS])
    assert results["majority"]["scan"] is None and 0 < results["majority"]["real"] < 1
    assert results["verdict"]["n"] == 0 and results["verdict"]["margins"] == {}
    free = results["choice"]["scores"]["dann"]
    for rule in ("information_maximization", "atc", "mano", "source_val"):
        assert all(map(math.isfinite, free[rule])), rule
    rules = results["selection_rules"]["dann"]
    assert "oracle" not in rules and rules["last"]["target"] == [None, None]
    assert any("note: no labels in scan: " in line for line in said)
    left_out = "upper_bound is left out: it trains on labels of 'scan'"
    assert any(left_out in line for line in said) and results["target_labels"] == []
    line = next(line for line in terminal.show(results).split("\n") if line.startswith("dann"))
    assert "–" in line and "nan" not in terminal.show(results).lower()
    assert "no labels: not measured on scan" in terminal.show(results)


def test_the_page_and_its_maps_show_it(finished):
    found, _ = finished
    page = (found.workdir / "report.html").read_text()
    evidence = read_json(found.workdir / "evidence.json")
    labels = evidence["tsne"]["labels"]
    assert set(labels[len(evidence["tsne"]["source"]) :]) == {-1} and -1 not in labels[:3]
    assert evidence["worst"] == {"zero_shot": [], "dann": [], "gda": []}
    assert set(evidence["per_class"]["n"]) == {0}
    assert "no label, scan" in page and "nan" not in page.split("</style>")[1].lower()
    assert "No labels: not measured on scan." in page
    header, lines = measures.cells(read_json(found.workdir / "results.json"))
    assert header == ["macro accuracy", "real (source)", "sketch"]
    assert [line[0] for line in lines] == ["zero_shot", "dann", "gda", "gda debiased"]
    assert "Macro accuracy, %" in page


def test_a_finished_run_is_read_and_exported_without_what_was_left_out(finished, tmp_path):
    found, _ = finished
    again = run(study_of_run(found), found.workdir)
    assert again.results == found.results and set(again.params) == set(METHODS)
    export(found.workdir, tmp_path / "out")
    export(found.workdir, tmp_path / "dann", "dann")
    with pytest.raises(ConfigError, match="no method 'upper_bound'; it has dann, gda, zero_shot"):
        export(found.workdir, tmp_path / "other", "upper_bound")


def study_of_run(found):
    """The study as its folder has it."""
    return parse(read_json(found.workdir / "config.json"))


def test_every_image_is_predicted(finished, root):
    found, _ = finished
    lines = table_of(found.workdir)
    assert {line["method"] for line in lines} == {"zero_shot", *METHODS}
    for method in ("zero_shot", *METHODS):
        own = [line for line in lines if line["method"] == method]
        assert sorted(line["path"] for line in own) == sorted(map(str, (root / "scan").iterdir()))
        for line in own:
            assert line["class"] != line["runner_up"]
            assert {line["class"], line["runner_up"]} < {"blue", "green", "red"}
            p, q = float(line["probability"]), float(line["runner_up_probability"])
            assert p >= q >= 0 and p >= 1 / 3 - 1e-4 and p + q <= 1.0002
    rows = {(row["method"], row["split"]): row for row in found.rows if row["domain"] == "scan"}
    for method in ("zero_shot", "gda"):  # one seed, or all alike
        own = [
            line["class"] for line in lines if line["method"] == method and line["split"] == "test"
        ]
        share = max(map(own.count, own)) / len(own)
        assert share == pytest.approx(rows[method, "test"]["top_class_share"][0], abs=1e-6)


def test_predictions_are_right_where_labels_tell(root, wee_clip, tmp_path):
    """The same pictures with labels: the file's classes have the accuracy of results.json."""
    study = study_of(root, wee_clip, "sketch", ("gda",), seeds=(0,))
    found = run(study, tmp_path / "run")
    rows = {(row["method"], row["split"]): row for row in found.rows if row["domain"] == "sketch"}
    for method in ("zero_shot", "gda"):
        own = [line for line in table_of(tmp_path / "run") if line["method"] == method]
        assert len(own) == 18
        tested = [line for line in own if line["split"] == "test"]
        hits = [line["class"] == line["path"].split("/")[-2] for line in tested]
        assert np.mean(hits) == pytest.approx(rows[method, "test"]["accuracies"][0], abs=1e-6)


BARE_SOURCE = "'scan' is data.source, and none of its images has a label"
REFUSED = [
    ({"data": {"source": "scan", "target": "real"}}, DataError, BARE_SOURCE),
    ({"data": {"source": ("real", "scan"), "target": "sketch"}}, DataError, BARE_SOURCE),
    ({"data": {"labels": "target"}}, ConfigError, "of 'scan', whose training images have none"),
    ({"selection": "oracle"}, ConfigError, "of 'scan', whose validation images have none"),
]


@pytest.mark.parametrize("changes, error, said", REFUSED)
def test_labels_that_are_asked_for_must_be_there(root, wee_clip, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        run(study_of(root, wee_clip, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("domain", ["scan", "real"])
def test_images_that_are_all_unreadable_are_refused_first(root, wee_clip, tmp_path, domain):
    shutil.copytree(root, tmp_path / "photos")
    for file in (tmp_path / "photos" / domain).rglob("*.png"):
        file.write_bytes(b"no image")
    said = rf"none of the \d+ images of {domain}/train can be read; the first: .*png"
    with pytest.raises(DataError, match=said):
        run(study_of(tmp_path / "photos", wee_clip), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_images_without_labels_in_the_source_are_left_out(root, wee_clip, tmp_path):
    """They are no examples of the last class, nor of one of their own."""
    shutil.copytree(root, tmp_path / "photos")
    shutil.copytree(root / "scan", tmp_path / "photos" / "real" / "unlabeled")
    plain = study_of(root, wee_clip, "sketch", data={"shots": 2})
    study = dataclasses.replace(
        plain, data=dataclasses.replace(plain.data, root=str(tmp_path / "photos"))
    )
    dataset, notes = matched_data(study)
    before, _ = matched_data(plain)
    for split in ("train", "val", "test"):
        one, two = (each.source("real", split) for each in (before, dataset))
        assert one.labels.tolist() == two.labels.tolist()
    assert any("18 has no label, and its domain is data.source" in note for note in notes)
    prepare(study)


@pytest.fixture
def mixed(root, tmp_path):
    """As `root`, and `sketch` has 10 further images without a label."""
    shutil.copytree(root, tmp_path / "photos")
    (tmp_path / "photos" / "sketch" / "unlabeled").mkdir()
    for number, file in enumerate(sorted((root / "scan").iterdir())[:10]):
        shutil.copy(file, tmp_path / "photos" / "sketch" / "unlabeled" / f"{number}.png")
    return tmp_path / "photos"


def test_a_target_of_both_kinds_is_measured_where_it_has_labels(root, mixed, wee_clip, tmp_path):
    """All else as without the further images, which are predicted, too; nothing is trained."""
    plain = run(study_of(root, wee_clip, "sketch", ()), tmp_path / "plain")
    both = run(study_of(mixed, wee_clip, "sketch", ()), tmp_path / "both")
    key = ("sketch", "test")
    row_of = lambda found: next(r for r in found.rows if (r["domain"], r["split"]) == key)
    assert row_of(both) == row_of(plain) and "not_measured" not in row_of(both)
    lines = {split: 0 for split in ("train", "val", "test")}
    for line in table_of(tmp_path / "both"):
        lines[line["split"]] += 1
        assert line["split"] == "train" or "unlabeled" not in line["path"]
    assert sum(lines.values()) == 28 and lines["train"] >= 10


def test_target_labels_are_trained_on_where_there_are_some(mixed, wee_clip):
    study = study_of(mixed, wee_clip, "sketch", ("upper_bound",))
    plan = prepare(study)
    labels = plan.dataset.source("sketch", "train").labels
    rows = training_rows(study.trained[0].data, labels, plan.dataset.classes)
    assert (labels[rows] >= 0).all() and 0 < len(rows) == len(labels) - 10
    shots = dataclasses.replace(study.trained[0].data, shots=2)
    assert np.bincount(labels[training_rows(shots, labels, ())]).tolist() == [2, 2, 2]


def test_a_part_of_both_kinds_has_the_scores_of_its_labelled_images():
    """Given test parts may be such: the others count in no measure that needs labels."""
    rng = np.random.default_rng(3)
    members, labels = rng.normal(size=(2, 12, 3)).astype(np.float32), rng.integers(0, 3, 12)
    logits, some = members.mean(axis=0), np.where(np.arange(12) % 3 == 0, NO_LABEL, labels)
    known = some != NO_LABEL
    found = score(logits, members, some)
    alone = score(logits[known], members[:, known], some[known])
    everything = score(logits, members, labels)
    for name in ("accuracy", "macro_accuracy", "ece", "members"):
        assert found[name] == alone[name]
    for name in ("top_class_share", "disagreement"):
        assert found[name] == everything[name]
    without = score(logits, members, np.full(12, NO_LABEL))
    assert without.keys() == {"top_class_share", "disagreement"}


def test_what_compares_by_target_labels_leaves_such_runs_and_domains_out(finished, root):
    found, _ = finished
    assert not judged.measured(found.results)
    with pytest.raises(DataError, match="1 finished runs and none that .* target with labels"):
        compare(found.workdir)
    given = Choices(data="folder", root=str(root), model="tiny")
    pairs = pair_studies(given)
    assert set(pairs) == {("real", "sketch"), ("sketch", "real")}
    with pytest.raises(ConfigError, match="--target=scan has no training images with labels"):
        pair_studies(given._replace(target="scan"))
