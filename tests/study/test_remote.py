"""A workdir in an object store: every file of it, and no folder called `gs:` on this machine."""

import importlib.util
import os

import jax.numpy as jnp
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clipjax.configs import finetune, pretrain
from clipjax.errors import ConfigError
from clipjax.evaluate import results as report
from clipjax.io import as_path
from clipjax.log import MetricsLog, read_log
from clipjax.model.prompts import read_class_names
from clipjax.study import run
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.restore import absolute
from tests.conftest import parsed


class Bucket(MemoryFileSystem):
    """What fsspec calls for `gs://`, without Google."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]
    cachable = False

    def __init__(self, *args, finalize_on_close=False, **options):
        super().__init__(*args, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    from etils.epath import backend

    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", ["", "/bucket"])
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
    monkeypatch.chdir(tmp_path)  # where a path taken for a local one would make `gs:`
    yield as_path("gs://bucket/run")
    assert os.listdir(tmp_path) == []


def test_a_log_in_a_bucket_grows_and_forgets(bucket):
    log = MetricsLog(bucket / "metrics.jsonl")
    log.append({"step": 1})
    log.append({"step": 2})
    assert read_log("gs://bucket/run/metrics.jsonl") == [{"step": 1}, {"step": 2}]
    log.rewind(lambda record: record["step"] < 2)
    assert read_log(log.path) == [{"step": 1}]


def test_class_names_may_lie_in_a_bucket(bucket):
    names = bucket / "names.json"
    names.write_bytes('{"cat": "café"}'.encode("utf-16"))
    assert read_class_names("gs://bucket/run/names.json", ["cat"]) == {"cat": "café"}
    with pytest.raises(ConfigError, match="class_names file gs://bucket/run/none.json cannot be"):
        read_class_names("gs://bucket/run/none.json", ["cat"])


class HttpError(Exception):
    """What gcsfs raises when the store answers 503; no OSError."""


def test_a_store_that_refuses_for_a_while_ends_no_training(bucket, monkeypatch, capsys):
    log, answers = MetricsLog(bucket / "metrics.jsonl"), iter([True, False])
    real = Bucket.open

    def open_later(self, path, mode="rb", **options):
        if "w" in mode and next(answers, False):
            raise HttpError("503 Service Unavailable")
        return real(self, path, mode, **options)

    monkeypatch.setattr(Bucket, "open", open_later)
    log.append({"step": 1})
    assert "metrics.jsonl could not be written (503 Service" in capsys.readouterr().err
    log.append({"step": 2})
    assert read_log(log.path) == [{"step": 1}, {"step": 2}]


def test_a_checkpoint_that_a_store_refuses_ends_no_training(bucket, monkeypatch, tmp_path_factory):
    def refuse(*args, **options):
        raise HttpError("503 Service Unavailable")

    said = []
    # Orbax asks Google itself what kind of bucket it is: the manager's own folder is a local one.
    with Checkpointer(tmp_path_factory.mktemp("here"), say=said.append) as checkpointer:
        checkpointer.save(1, {"w": jnp.ones(3)})
        checkpointer.wait()
        monkeypatch.setattr(checkpointer, "directory", bucket / "checkpoints")
        monkeypatch.setattr(checkpointer._manager, "save", refuse)
        checkpointer.save(2, {"w": jnp.ones(3)})
    (line,) = said
    assert "checkpoints/2 could not be written (503 Service Unavailable); training goes on" in line
    assert line.endswith("last good checkpoint: step 1.")


@pytest.mark.slow
def test_a_run_leaves_its_files_in_the_bucket(bucket, photos, wee_clip, capsys):
    config = finetune.get_config(f"smoke,root={photos},source=real,target=sketch,model={wee_clip}")
    config.stages = ()
    for _ in range(2):
        run(parsed(config), bucket, print)
    assert "this run is finished: gs://bucket/run/results.json" in capsys.readouterr().out
    assert report.read(bucket)["data"]["source"] == "real"
    names = {path.name for path in bucket.iterdir()}
    assert {"config.json", "images.json", "results.json", "results.md", "report.html"} <= names
    config.data.target, config.data.source = "real", "sketch"
    with pytest.raises(ConfigError, match="gs://bucket/run holds a run of another config"):
        run(parsed(config), bucket, print)


@pytest.mark.slow
def test_what_needs_this_machine_is_refused(bucket, photos):
    with pytest.raises(ConfigError, match="a pretraining run cannot go to gs://bucket/run"):
        run(parsed(pretrain.get_config("smoke")), bucket)
    config = finetune.get_config(f"smoke,root={photos},source=real,target=sketch,model=tiny")
    config.track = "tensorboard"
    with pytest.raises(
        ConfigError, match="what track=tensorboard writes cannot go to gs://bucket/run"
    ):
        run(parsed(config), bucket, print)


@pytest.mark.slow
def test_a_store_that_is_not_there_is_said_in_one_sentence(monkeypatch, photos):
    monkeypatch.setenv("EPATH_USE_TF", "false")
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    config = finetune.get_config(f"smoke,root={photos},source=real,target=sketch,model=tiny")
    with pytest.raises(ConfigError, match="gs://bucket/run needs a package: pip install gcsfs"):
        run(parsed(config), as_path("gs://bucket/run"), print)
    with pytest.raises(ConfigError, match="pip install gcsfs"):
        Checkpointer("gs://bucket/run")
    with pytest.raises(ConfigError, match="memory://x is no path .* known: gs://, s3://"):
        as_path("memory://x")


def test_a_checkpoint_directory_keeps_its_scheme(bucket):
    assert str(absolute("gs://bucket/run")) == "gs://bucket/run"
    assert absolute("run").is_absolute()
