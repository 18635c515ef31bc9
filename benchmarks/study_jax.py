"""clipjax's side of `benchmarks.study`: the frozen study as its users start it."""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

TWICE = ("uda",)  # tasks whose `warm` is all of a second training in the same process


def study_of(task: str):
    """The study whose work a task is."""
    from clipjax.configs import dann, sweep, uda
    from clipjax.study import parse

    config = {"grid": sweep, "uda": uda}.get(task, dann).get_config()
    if task == "uda":
        from benchmarks.study_uda import METHODS

        config.stages = METHODS
    if task == "single":
        config.stages, config.seeds = ("dann",), (0,)
    return parse(config.to_dict())


def export_features(path: pathlib.Path) -> None:
    """Writes the embedded data's features for PyTorch; fills clipjax's cache."""
    from clipjax.study.encode import encode
    from clipjax.study.plan import prepare

    study = study_of("grid")
    encoded = encode(prepare(study), lambda line: None)
    arrays = {}
    for end, domain in (("source", study.data.source_name), ("target", study.data.target)):
        for split in ("train", "test"):
            part = encoded.parts[domain, split]
            arrays[f"{end}_{split}"], arrays[f"{end}_{split}_y"] = part.features, part.labels
    np.savez(path, **arrays)


def run_jax(task: str) -> dict:
    """Trains a task's runs, saves checkpoints, answers on both tests: warm seconds, accuracies."""
    from clipjax.runtime.devices import keep_compiled, use_cores
    from clipjax.runtime.malloc import keep_memory
    from clipjax.study.towers import trains_on_pixels

    study = study_of(task)
    keep_memory(one_arena=trains_on_pixels(study))
    use_cores()
    keep_compiled()
    from clipjax.log import read_log
    from clipjax.study.encode import encode
    from clipjax.study.plan import prepare
    from clipjax.study.recipe import Programs
    from clipjax.study.trainer import trainers

    encoded, programs = encode(prepare(study), lambda line: None), Programs()
    for _ in range(2 if task in TWICE else 1):
        began = clocks()
        with tempfile.TemporaryDirectory() as workdir:
            trained = [(t, train_group(t)) for t in trainers(encoded, workdir, programs)]
            spent = clocks() - began
            warm = pace(read_log(pathlib.Path(workdir) / "metrics.jsonl"), study.training.epochs)
    accuracy = np.concatenate([answers(*each, encoded) for each in trained])
    if task not in TWICE:
        return {"warm": warm, "accuracy": accuracy}
    return {"warm": spent[0], "processor": spent[1], "accuracy": accuracy}


def clocks() -> np.ndarray:
    """Seconds of the clock, and of the processor for this process."""
    return np.array([time.perf_counter(), time.process_time()])


def pace(records: list[dict], epochs: int) -> float:
    """Seconds that all epochs take at the pace of those after the first quarter."""
    calls: dict[tuple, list[float]] = {}  # the methods of a program have the same times
    for record in records:
        if record["epoch"] > epochs // 4:
            calls.setdefault((record["epoch"], record["s_per_epoch"]), []).append(1)
    return sum(seconds for _, seconds in calls) * epochs / (epochs - epochs // 4)


def train_group(trainer):
    """Trains the runs of one program; their states, which a checkpoint has, too."""
    from clipjax.train.arrays import Epochs, fit_arrays
    from clipjax.train.journal import Outputs

    training, states = trainer.training, trainer.start()
    states = trainer.recipe.begun(0, states, trainer.joining(0))
    plan = Epochs(
        trainer.names,
        training.epochs,
        trainer.method.config.batch_size,
        training.save_every,
        trainer.sampler,
        mesh=trainer.mesh,
    )
    with trainer.checkpointer(trainer.method.phases[0]) as checkpointer:
        return fit_arrays(
            trainer.recipe.epochs(0, states, plan),
            states,
            trainer.training_features(),
            plan,
            Outputs(checkpointer, trainer.log),
        )


def answers(trainer, states, encoded) -> np.ndarray:
    """Test accuracy [runs, 2] on source and target."""
    import jax

    data = trainer.study.data
    answer = jax.jit(
        jax.vmap(lambda params, x: trainer.recipe.answer(params, x)[0], in_axes=(0, None))
    )
    tests = [encoded.parts[domain, "test"] for domain in (data.source_name, data.target)]
    hits = [np.asarray(answer(states.params, x)).argmax(-1) == y for x, y in tests]
    return np.stack([hit.mean(axis=1) for hit in hits], axis=1)


def tables_jax() -> dict:
    """Tables 3 to 5 from an empty feature cache, each through the experiments' study."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"CLIPJAX_CACHE": folder, "CI": "true"}
        command = [sys.executable, "-m", "experiments.suite", "--tables=3,4,5"]
        before = time.perf_counter()
        subprocess.run([*command, f"--workdir={folder}/run"], env=env, check=True, stdout=-3)
        seconds = time.perf_counter() - before
        kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return {"s": seconds, "peak_gb": kilobytes * 1024 / 1e9}
