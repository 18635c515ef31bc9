"""Whole runs over data that is not as one would like it, and over parts of it."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from clipjax.errors import ConfigError, DataError
from clipjax.study import Data, Encoder, Study, Training, run
from clipjax.study.plan import prepare
from tests.conftest import make_photos, parsed, read_json
from tests.study.test_study import TRUNK, TWO_STAGE, config_of, row_of, trained

HEAD = {"loss": "finetune", "heads": {"classifier": (4,)}}


@pytest.fixture
def own_photos(tmp_path):
    """A copy to spoil."""
    return make_photos(tmp_path / "photos")


@pytest.mark.slow
def test_unreadable_images_are_left_out_of_everything(own_photos, wee_clip, tmp_path, capsys):
    broken = own_photos / "sketch" / "red" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    config = config_of(own_photos, wee_clip, dann=TWO_STAGE, head=HEAD)
    with pytest.raises(DataError, match=r"1 of .*cannot be read.*red/0.png.*max_unreadable"):
        run(parsed(config), tmp_path / "refused", print)
    config.data.max_unreadable = 0.05
    run(parsed(config), tmp_path / "run", print, pages=False)
    assert "are left out: " in capsys.readouterr().out
    source = prepare(parsed(config)).dataset.source("sketch", "test")
    names = [source[i].name for i in range(len(source))]
    spoiled = str(broken) in names
    n = row_of(read_json(tmp_path / "run" / "results.json"), "head")["n"]
    assert n == len(source) - spoiled
    (tmp_path / "run" / "results.json").unlink()
    broken.write_bytes(whole)
    with pytest.raises(DataError, match="images of .*sketch.* are not those that the run"):
        run(parsed(config), tmp_path / "run", print, pages=False)
    # a repaired file is seen by a new run
    config.stages = ("head",)
    run(parsed(config), tmp_path / "again", pages=False)
    assert row_of(read_json(tmp_path / "again" / "results.json"), "head")["n"] == len(source)


def test_empty_files_count_as_unreadable_and_notes_beside_images_do_not(own_photos, wee_clip):
    (own_photos / "real" / "red" / "empty.png").write_bytes(b"")
    (own_photos / "real" / "red" / "notes.txt").write_text("taken on holiday")
    config = config_of(own_photos, wee_clip, head=HEAD)
    with pytest.raises(DataError, match="1 of .*empty.png.*0 bytes"):
        prepare(parsed(config))
    config.data.max_unreadable = 0.1
    assert "notes.txt" in " ".join(prepare(parsed(config)).notes)


@pytest.mark.slow
def test_parts_of_the_data_in_half_precision_by_worker_processes(own_photos, wee_clip, tmp_path):
    config = config_of(own_photos, wee_clip, dann={"loss": "dann", "heads": TRUNK}, head=HEAD)
    config.data.shots, config.data.balanced, config.data.epoch = 1, True, "longest"
    config.data.workers, config.features.dtype, config.epochs = 1, "bfloat16", 2
    run(parsed(config), tmp_path / "run", print, pages=False)
    plan = prepare(parsed(config))
    sizes = [len(plan.dataset.source(domain, "train")) for domain in ("real", "sketch")]
    steps = max(1, -(-sizes[1] // 4))  # three labelled images are one batch of 4
    log = [r for r in run_log(tmp_path / "run") if r["phase"] == "dann" and r["epoch"] == 2]
    assert {r["step"] for r in log} == {2 * steps} and sizes[0] > 3
    assert np.isfinite(trained(config, tmp_path / "run").history[0][-1]["source_val"])


@pytest.mark.slow
def test_shots_cut_training_and_no_evaluation(own_photos, wee_clip, tmp_path):
    config = config_of(own_photos, wee_clip, dann=TWO_STAGE)
    config.data.shots, config.whole_domains, config.seeds = 1, True, (0,)
    run(parsed(config), tmp_path / "run", print, pages=False)
    rows = read_json(tmp_path / "run" / "results.json")["rows"]
    whole = {r["domain"]: r["n"] for r in rows if r["split"] == "all"}
    assert whole == {"real": 18, "sketch": 18}
    steps = {r["step"] for r in run_log(tmp_path / "run") if r["epoch"] == 5}
    assert steps == {5}  # three labelled images: one step an epoch, on features and from pixels


def run_log(workdir):
    from clipjax.log import read_log

    return [r for r in read_log(workdir / "metrics.jsonl") if "epoch" in r]


@pytest.mark.slow
def test_classes_are_matched_by_name(own_photos, wee_clip, tmp_path, capsys):
    shutil.copytree(own_photos / "sketch" / "red", own_photos / "sketch" / "zebra")
    config = config_of(own_photos, wee_clip, head=HEAD)
    with pytest.raises(ConfigError, match="zebra.*data.classes=intersection"):
        prepare(parsed(config))
    config.data.classes, config.epochs = "intersection", 1
    run(parsed(config), tmp_path / "run", print, pages=False)
    assert "zebra" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "results.json")["classes"] == 3


@pytest.mark.slow
def test_only_the_domains_asked_for_are_evaluated(own_photos, wee_clip, tmp_path):
    for name in ("blue", "green", "red"):
        shutil.copytree(own_photos / "real" / name, own_photos / "scan" / name)
        Image.new("RGB", (9, 9)).save(own_photos / "scan" / name / "x.png")
    config = config_of(own_photos, wee_clip)
    config.data.domains = ("sketch",)
    run(parsed(config), tmp_path / "run", print, pages=False)
    rows = read_json(tmp_path / "run" / "results.json")["rows"]
    assert {row["domain"] for row in rows} == {"real", "sketch"}


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("shots", 100, r"data.shots=100, but class '\w+' has \d+ examples"),
        ("domains", ("scan",), "no domain 'scan'"),
        ("fractions", (1.0, 2.0), "data.fractions"),
        ("name", "tfds:no_such_dataset", "no_such_dataset"),
        (
            "name",
            "pascal",
            "known: auto, emoji, emoji_regrouped, folder, lists, domainnet, parquet, coop, "
            ".*, tfds:NAME",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(photos, wee_clip, field, value, words):
    config = config_of(photos, wee_clip, head=HEAD)
    with config.unlocked():
        config.data[field] = value
    with pytest.raises((ConfigError, DataError), match=words):
        prepare(parsed(config))


@pytest.mark.slow
@pytest.mark.parametrize("augment", [None, {"smallest": 0.9}])
def test_labels_of_the_target_train_on_the_target(wee_clip, folder_dataset, augment):
    """Of one method from cached features, of the run from pixels: as if that were the source."""

    def trained(source, target, labels, *, shared):
        method = {"loss": "finetune", "heads": {}, "augment": augment}
        method |= {} if shared else {"data": {"labels": labels}}
        data = {"source": source, "target": target, "shots": 2}
        data |= {"labels": labels} if shared else {}
        study = Study(
            encoder=Encoder(model=str(wee_clip)),
            data=Data(root=str(folder_dataset), **data),
            training=Training(seeds=(0,), epochs=2, batch_size=4),
            methods={"head": method},
            stages=("head",),
        )
        return run(study)

    bound = trained("real", "sketch", "target", shared=augment is not None)
    plain = trained("sketch", "real", "source", shared=True)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(compare, bound.params["head"], plain.params["head"])
    assert bound.results["target_labels"] == ["head"] and not plain.results["target_labels"]
