"""The command line as a user meets it: real processes, real exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax.configs import common, dann
from clipjax.errors import ClipjaxError, ConfigError, DataError
from clipjax.study import again, run
from tests import forked
from tests.conftest import REPO, parsed, read_json

SMOKE = "--config=configs/dann.py:smoke"


def main(*arguments, timeout=300, **env):
    return subprocess.run(
        [sys.executable, "-m", "experiments.main", *map(str, arguments)],
        cwd=REPO,
        env=os.environ | {"CI": "true"} | env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def fails(*arguments, word):
    done = forked.run(["-m", "experiments.main", *arguments], CI="true")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert word in done.stderr, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def smoke(photos, wee_clip):
    """The argument of configs/dann.py: its smoke run on a folder of images."""
    return f"smoke,source=real,target=sketch,root={photos},model={wee_clip}"


def as_command(smoke, workdir):
    """The words of the smoke run."""
    return f"--config=configs/dann.py:{smoke}", f"--workdir={workdir}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, smoke):
    """One smoke run on images of one's own, shared by the tests that only look at it."""
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    done = main(*as_command(smoke, workdir))
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(finished, photos):
    workdir, done = finished
    results = read_json(workdir / "results.json")
    about = {"name": photos.name, "source": "real", "target": "sketch", "classes": "closed"}
    assert results["data"] == about
    assert results["classes"] == 3
    assert {"experiment", "model", "data", "seeds", "selection", "rows", "domain_gap"} <= set(
        results
    )
    methods = {r["method"] for r in results["rows"]}
    trained = {"finetune", "source_only", "dann", "blend", "upper_bound"}
    assert methods == {"zero_shot"} | trained
    test_rows = [r for r in results["rows"] if r["split"] == "test"]
    assert len(test_rows) == 7 * 2  # the upper bound has a variant
    assert all(r["n"] == 3 for r in test_rows)  # of 6 images a class 4, 1 and 1
    assert all(0 <= a <= 1 for r in results["rows"] for a in r["accuracies"])
    for name in ("config.json", "metrics.jsonl", "results.md"):
        assert (workdir / name).exists()
    page, evidence = (workdir / "report.html").read_text(), read_json(workdir / "evidence.json")
    for part in ("results", "learning", "features", "classes", "mistakes", "run"):
        assert f'<section id="{part}">' in page
    # Of the methods, those with an adapter have features of their own.
    assert set(evidence["tsne"]["maps"]) == {"zero_shot", "source_only", "dann"}
    assert len(evidence["tsne"]["labels"]) == 2 * 3
    # Results and evidence speak of the same predictions.
    n = np.array(evidence["per_class"]["n"])
    for name, accuracy in evidence["per_class"]["accuracy"].items():
        row = next(r for r in test_rows if (r["method"], r["domain"]) == (name, "sketch"))
        mean = (n * np.array(accuracy, float)).sum() / n.sum()
        assert mean == pytest.approx(row["accuracy_mean"], abs=1e-3)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    last = [r for r in records if r["phase"] == "dann" and "evaluation" not in r][-1]
    assert {"class_loss", "domain_loss", "domain_accuracy_target", "lam", "grad_norm"} <= set(last)
    assert "zero_shot" in done.stdout and "gap" in done.stdout
    few = "fewer than 5 images of 3 of 3 classes (of blue 1) in "
    short = "an epoch of finetune, source_only, dann has 1 step"
    assert f"note: {few}" in done.stdout and f"note: {short}" in done.stdout
    for words in (few, short):
        assert sum(words in note for note in results["notes"]) == 1
        assert words[1:] in (workdir / "results.md").read_text() and words[1:] in page


@pytest.mark.slow
def test_what_a_piped_run_prints(finished):
    """A header, then the verdict before any table; plain lines that fit into 120 columns."""
    workdir, done = finished
    out, lines = done.stdout, done.stdout.splitlines()
    assert lines[0].startswith("clipjax ") and lines[0].endswith(": dann")
    heads = [line.split()[0] for line in lines[1:7]]
    assert heads == ["data", "device", "model", "images", "steps", "files"]
    assert " of 2 domains, 3 classes" in lines[4] and str(workdir) in lines[6]
    assert "finetune, source_only, dann: 2 epochs of 1 steps; blend, upper_bound: closed" in out
    result = read_json(workdir / "results.json")["verdict"]
    assert out.index(f"\ntake {result['method']}") < out.index("\nmethod ")
    assert result["n"] == 3 and result["source_only"] in ("finetune", "source_only")
    assert set(result["accuracies"]) >= {"zero_shot", result["source_only"], result["method"]}
    assert f"  next: {result['next']['words']}" in out
    long = [line for line in lines if len(line) > 120]
    assert all(max(map(len, line.split())) > 80 for line in long)  # of a path that is that long
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out + done.stderr)


@pytest.mark.slow
def test_a_finished_run_says_so(finished, smoke):
    workdir, _ = finished
    before = (workdir / "results.json").read_bytes()
    done = forked.run(["-m", "experiments.main", *as_command(smoke, workdir)], CI="true")
    assert done.returncode == 0 and "finished" in done.stdout
    assert (workdir / "results.json").read_bytes() == before


@pytest.mark.slow
def test_its_pages_are_written_again_of_what_it_left(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    told = (workdir / "results.md").read_bytes()
    # Written before its own time was known.
    page = lambda: re.sub(r"encode [\d.]+ s, .*?<", "", (workdir / "report.html").read_text())
    before = page()
    for name in ("results.md", "report.html"):
        (workdir / name).unlink()
    results, files = again.write_again(workdir)
    assert results == read_json(workdir / "results.json")
    assert files == [workdir / "results.md", workdir / "report.html"]
    assert (workdir / "results.md").read_bytes() == told
    assert page() == before
    (workdir / "evidence.json").write_text("[")
    with pytest.raises(DataError, match="evidence.json cannot be read"):
        again.write_again(workdir)
    with pytest.raises(ConfigError, match="holds no finished run"):
        again.write_again(tmp_path)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(finished, smoke, tmp_path):
    """kill -9 as soon as each kind of file appears, and at a random time; then run to the end."""
    workdir = tmp_path / "killed"
    command = ["-m", "experiments.main", *as_command(smoke, workdir)]
    env = {"CI": "true", "CLIPJAX_CACHE": str(tmp_path / "cache")}
    moments = (
        lambda: (workdir / "config.json").exists(),
        lambda: (tmp_path / "cache").exists() and len(list((tmp_path / "cache").rglob("*"))) > 4,
        lambda: any(workdir.glob("checkpoints/finetune/*")),
        lambda: any(workdir.glob("checkpoints/dann/*")),
    )
    started, wait = [time.monotonic()], np.random.default_rng(0).uniform(2, 6)
    moments += (lambda: time.monotonic() > started[0] + wait,)
    killed = 0
    # In the order in which the files appear: a process then gets as far as the next one, and none
    # is killed where the one before was.
    for moment in moments:
        process = forked.start(command, **env)
        started[0] = time.monotonic()
        while not moment() and process.poll() is None and time.monotonic() < started[0] + 200:
            time.sleep(0.01)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed >= 4
    done = forked.run(command, **env)
    assert done.returncode == 0, done.stderr
    one, two = read_json(finished[0] / "results.json"), read_json(workdir / "results.json")
    assert one["rows"] == two["rows"]
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "s_per_epoch"}
            for line in (d / "metrics.jsonl").open()
        ]
        for d in (finished[0], workdir)
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_bad_input_ends_in_one_sentence_and_exit_code_1(tmp_path):
    there = f"--workdir={tmp_path / 'w'}"
    fails(f"{SMOKE},target=skech", there, word="render, flat, clipart, cartoon, stencil, sketch")


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"data.source": "clipart", "data.target": "clipart"}, "two different domains"),
        ({"data.root": "/no/such/folder"}, "/no/such/folder"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"methods.dann.lam_max": -1.0}, "negative"),
        ({"stages": ("dan",)}, "finetune, source_only"),
        ({"optim.schedule": "cubic"}, "constant, cosine, linear, step"),
    ],
)
def test_other_bad_input_is_an_error_of_ours_in_one_line(tmp_path, changes, word):
    """What the door turns into a sentence and exit code 1, in this process."""
    refused(dann.get_config("smoke"), changes, tmp_path / "w", word)


def refused(config, changes, workdir, word):
    config.update_from_flattened_dict(changes)
    with pytest.raises(ClipjaxError, match=word) as caught:
        run(parsed(config), workdir, print)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused(finished, smoke):
    config = dann.get_config(smoke)
    refused(config, {"optim.lr": 0.5}, finished[0], "optim.lr: 0.* -> 0.5")


@pytest.mark.slow
def test_a_corrupt_image_stops_the_run_by_name(tmp_path, folder_dataset, photos, smoke):
    for path in (folder_dataset / "sketch" / "red").iterdir():
        path.write_bytes(b"not an image")
    config = dann.get_config(smoke.replace(str(photos), str(folder_dataset)))
    refused(config, {}, tmp_path / "w", "sketch/red/")


@pytest.mark.slow
def test_a_nan_is_located_and_the_checkpoint_before_it_named(smoke, tmp_path):
    words = (*as_command(smoke, tmp_path / "w"), "--config.optim.lr=1e38")
    message = fails(*words, word="non-finite")
    assert "step" in message and "phase 'finetune'" in message and "checkpoint" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--help"], "clipjax run dann"),
        (["--confg=configs/dann.py"], "confg"),
        (["--config=configs/dann.py:sorce=render"], "sorce"),
        (["--config=configs/nothing.py"], "configs/nothing.py"),
        (["--config", "configs/dann.py", "--config.optim.lrr=1"], "optim.lrr"),
        (["--config=configs/tables.py:9"], "1, 2, 3, 4, 5, 6"),
    ],
)
def test_help_and_wrong_flags_answer_without_importing_jax(arguments, word):
    done = main(*arguments, JAX_PLATFORMS="no_such_platform")  # using jax at all would fail
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert arguments == ["--help"] or done.returncode == 1


@pytest.mark.parametrize("field", ["optim.lrr", "methods.dann.lam", "workdir", "optim.lr.x"])
def test_an_unknown_field_is_named_beside_those_there_are(field):
    message = fails(f"--config.{field}=1", word=f"no field {field}; its fields: ")
    assert len(message) < 800 and len(message.splitlines()) == 1


@pytest.mark.slow
def test_a_key_that_is_no_python_name_is_given_in_brackets(tmp_path):
    pretrain = ("--config=configs/pretrain.py", f"--config.data.root={tmp_path / 'nowhere'}")
    quoted = "--config.data.mixture['emoji-train']=0.7"
    fails(*pretrain, quoted, word="not a pair corpus")  # the flag was understood
    fails(*pretrain, "--config.data.mixture.emoji-train=0.7", word="data.mixture['emoji-train']")


def test_argument_strings():
    assert common.parse_arg("source=a,smoke") == {"source": "a", "smoke": True}
    config = dann.get_config("source=render,target=sketch,smoke")
    assert (config.data.source, config.data.target, config.seeds) == ("render", "sketch", (0,))
    with pytest.raises(ValueError, match="source=..., target=..."):
        common.parse_arg("domain=x")
