"""Places that cannot be written: one sentence before any work; of caches, one line and no more.

Tests run as root too, whom no permission stops: files stand where folders are to be.
"""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from clipjax.aot import report as scaling_report
from clipjax.commands import suite
from clipjax.configs import dann, pretrain
from clipjax.data.features import cache as features
from clipjax.data.readers.folder_index import find_files
from clipjax.errors import ConfigError, DataError
from clipjax.evaluate import results as report
from clipjax.inspect import survey as inspect
from clipjax.inspect import verdict as subject
from clipjax.io import check_writable, default_cache_dir, write_atomically
from clipjax.model.hf.weights import write_tensors
from clipjax.runtime import claim, cli
from clipjax.study import export, run, study
from clipjax.study.encode import once
from clipjax.study.workdir import config_text
from tests.conftest import REPO, parsed
from tests.evaluate.test_metrics import results

WAYS = {
    "a file above": lambda tmp: tmp / "file" / "a" / "b",
    "a file": lambda tmp: tmp / "file",
    "no file system": lambda tmp: pathlib.Path("/proc/clipjax"),
    "a long name": lambda tmp: tmp / ("x" * 300),
}


@pytest.fixture(params=WAYS)
def place(request, tmp_path):
    """A folder that nobody can make."""
    (tmp_path / "file").write_text("kept")
    yield WAYS[request.param](tmp_path)
    assert (tmp_path / "file").read_text() == "kept" and len(list(tmp_path.iterdir())) <= 2


@pytest.fixture
def no_work(monkeypatch):
    """Whoever opens data or model fails."""

    def work(*args, **options):
        raise AssertionError("work was done")

    for module, name in ((study, "prepare"), (subject, "opened"), (export, "_export")):
        monkeypatch.setattr(module, name, work)
    monkeypatch.setattr("clipjax.study.pretrain.prepare", work)


def finished(tmp_path):
    (tmp_path / "run").mkdir()
    report.write(tmp_path / "run", results())
    return tmp_path / "run"


OPTIONS = inspect.Options()
COMMANDS = {
    "main": lambda place, tmp: run(parsed(dann.get_config("smoke")), place),
    "pretrain": lambda place, tmp: run(parsed(pretrain.get_config("smoke")), place),
    "suite": lambda place, tmp: suite.run_suite(place, {"1": parsed(dann.get_config())}, False),
    "inspect": lambda place, tmp: inspect.inspect(
        parsed(dann.get_config()), place, inspect.Options()
    ),
    "export": lambda place, tmp: export.export(finished(tmp), place / "out", "", None),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_nobody_can_write_ends_a_command_before_its_work(
    command, place, tmp_path, no_work
):
    with pytest.raises(ConfigError, match="cannot be (written|reached) ") as caught:
        COMMANDS[command](place, tmp_path)
    assert str(place) in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_disk_that_refuses_ends_a_run_before_its_work(number, tmp_path, no_work, monkeypatch):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(claim.os, "open", refuse)
    with pytest.raises(ConfigError, match=os.strerror(number)):
        run(parsed(dann.get_config("smoke")), tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoints", "config.json", "metrics.jsonl", "report.html"])
def test_what_stands_in_the_way_inside_a_workdir_is_named(name, tmp_path, no_work):
    place = tmp_path / name
    place.mkdir() if "." in name else place.touch()
    with pytest.raises(ConfigError, match=f"{name} is a (file|folder), and a run"):
        run(parsed(dann.get_config("smoke")), tmp_path)
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("text", ["{", "[]", "", "3"])
def test_a_damaged_record_of_a_config_is_named(text, tmp_path, no_work):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="config.json is damaged"):
        run(parsed(dann.get_config("smoke")), tmp_path)


def test_a_page_in_the_way_is_named(tmp_path, no_work):
    (tmp_path / "inspect.html").mkdir()
    with pytest.raises(ConfigError, match="inspect.html is a folder"):
        inspect.inspect(parsed(dann.get_config()), tmp_path, inspect.Options())
    (tmp_path / "suite.md").mkdir()
    with pytest.raises(ConfigError, match="suite.md is a folder"):
        suite.run_suite(tmp_path, {"1": parsed(dann.get_config())}, False)


def test_rows_of_a_table_that_cannot_be_kept_are_no_rows(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: begin -->\n<!-- table: end -->\n")
    with pytest.raises(ConfigError, match="page.md cannot be written .Not a directory."):
        scaling_report.write_table(parsed(dann.get_config()), ["no question"], page, page)


def test_check_writable_leaves_nothing(tmp_path, place):
    with pytest.raises(ConfigError, match=f"{place} cannot be written"):
        check_writable(place)
    check_writable(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_an_error_of_the_system_later_is_one_sentence_too(number):
    said = cli._machine_at_fault(OSError(number, os.strerror(number), "/place/file"))
    assert os.strerror(number) in said and "/place/file" in said
    assert cli._machine_at_fault(OSError(errno.ENOENT, "not there", "/place")) == ""


KEEP = "from clipjax.runtime.devices import *; keep_compiled(); import jax, jax.numpy as jnp; "
KEEP += "print([float(jax.jit(lambda x: x * k)(jnp.ones(3)).sum()) for k in (2., 3.)])"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["CLIPJAX_CACHE", "JAX_COMPILATION_CACHE_DIR"])
def test_programs_that_cannot_be_kept_cost_one_line(variable, tmp_path):
    (tmp_path / "file").touch()
    kept = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    env = {key: value for key, value in os.environ.items() if key not in kept}
    env |= {"PYTHONPATH": str(REPO), variable: str(tmp_path / "file")}
    done = subprocess.run([sys.executable, "-c", KEEP], env=env, capture_output=True, text=True)
    assert done.stdout == "[6.0, 9.0]\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"clipjax: compiled programs are not kept: {tmp_path / 'file'}")


def test_features_that_cannot_be_kept_cost_one_line(tmp_path, photos):
    from clipjax.data.features.encode import ImageEncoder
    from clipjax.data.images.preprocess import Preprocess
    from clipjax.data.open import open_dataset

    (tmp_path / "file").touch()
    dataset, said = open_dataset("folder", str(photos)), []
    encode = lambda images: np.asarray(images, np.float32).mean(axis=(1, 2))
    encoder, options = ImageEncoder(encode, Preprocess(size=8), 8), {"say": once(said.append)}
    for cache in (tmp_path / "file", None):
        found = [
            features.cached_features(
                encoder, dataset.source(d, "train"), weights="w", cache_dir=cache, **options
            ).features.features
            for d in dataset.domains
        ]
        if cache:
            (line,) = [one for one in said if "cannot be written" in one]
            assert line.startswith(f"feature cache {tmp_path / 'file'} cannot be written (Not a")
            first = found
    assert all(np.array_equal(one, other) for one, other in zip(first, found, strict=True))


def test_an_index_that_cannot_be_kept_costs_one_line(tmp_path, photos, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("clipjax.data.readers.folder_index.is_settled", lambda found: True)
    with pytest.warns(UserWarning, match="no file index is kept: .*File exists") as told:
        found = find_files(photos, tmp_path / "file", least=1)
    assert len(told) == 1 and len(found.names) == 36


def test_where_caches_go(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLIPJAX_CACHE", "~/mine")
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("CLIPJAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "clipjax"

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", no_home)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(default_cache_dir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "clipjax"


def test_a_finished_run_is_told_where_nothing_can_be_written(tmp_path, capsys, monkeypatch):
    config = dann.get_config("smoke,root=/no/such/folder")  # nor are its data there any more
    config = parsed(config)
    (tmp_path / "config.json").write_text(config_text(config))
    report.write(tmp_path, results())

    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(claim.os, "open", refuse)
    run(config, tmp_path, print)
    said = capsys.readouterr().out
    assert "55.0 ± 7.1" in said and "this run is finished" in said


def test_results_that_are_damaged_are_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match="results.json is damaged"):
        run(parsed(dann.get_config("smoke")), tmp_path)


def test_a_suite_reads_what_its_last_table_found_before_it_works_on_the_first(tmp_path, no_work):
    (tmp_path / "table2").mkdir()
    (tmp_path / "table2" / "results.json").write_text('{"version": 3}')
    config = parsed(dann.get_config("smoke"))
    with pytest.raises(DataError, match="table2/results.json is of version 3"):
        suite.run_suite(tmp_path, {"1": config, "2": config}, False)


@pytest.mark.parametrize("writer", ["text", "tensors"])
def test_a_disk_that_runs_full_leaves_the_old_file_alone(tmp_path, monkeypatch, writer):
    def half(path):
        pathlib.Path(path).write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "file"
    file.write_text("old")
    if writer == "text":
        monkeypatch.setattr(pathlib.Path, "write_bytes", lambda path, data: half(path))
        write = lambda: write_atomically(file, "new")
    else:
        monkeypatch.setattr("safetensors.numpy.save_file", lambda tensors, path, **_: half(path))
        write = lambda: write_tensors(file, {"w": np.zeros(2)})
    with pytest.raises(OSError, match="No space left"):
        write()
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
