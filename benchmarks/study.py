"""The frozen study against PyTorch: the same heads, data, epochs and accuracies on both sides.

    python -m benchmarks.study                    grid, single and tables on the embedded data
    python -m benchmarks.study --tasks=grid       one of them
    python -m benchmarks.study --tasks=photos     224-pixel JPEGs and ViT-B/32, random weights

Every measurement is a process of its own, the sides in alternation, `--rounds` of each. `cold`
is a whole process, from its start to accuracies: imports, reading features, compilation (what XLA
compiled is kept between starts, as in every run). `warm` is training alone once that is done: all
epochs at the pace of those after the first quarter; of uda all of a second training in the same
process, as of the second pair of a comparison: initial values, training, a checkpoint of each run;
`processor` is that in seconds of the processor.

- grid: configs/sweep.py, 24 runs of a head and DANN; single: one DANN run. PyTorch trains on the
  same cached features, run after run, AdamW fused, with the thread count that is fastest here;
  as it stands and, on the side `torch_compile`, with the losses through `torch.compile`.
- uda: five methods of configs/uda.py with 3 seeds, on domains standardised each.
- tables: Tables 3 to 5, 3 seeds. clipjax encodes the images and trains; timed from an empty feature
  cache. PyTorch as the report does it: features anew in every epoch. One epoch's features of both
  domains are measured and the total is computed: runs x epochs x that. Its training is not counted.
- photos: images a second of decoding, cropping and encoding; and the hours (computed from them,
  training left out) of Tables 3 to 5 with 10,000 photos a domain, which clipjax encodes once and
  the report's way once an epoch.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

STARTED = time.perf_counter()

import numpy as np  # noqa: E402
from absl import app, flags, logging  # noqa: E402

_TASKS = flags.DEFINE_list(
    "tasks", ["grid", "single", "tables"], "grid, single, uda, tables, photos."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Processes of each side.")
_IMAGES = flags.DEFINE_integer("images", 128, "JPEGs of the task photos.")
_SIDE = flags.DEFINE_string("side", "", "Of a started process: jax, torch or torch_compile.")
_THREADS = flags.DEFINE_integer("threads", 0, "Of PyTorch; 0: the fastest of 1 and all.")
_FILE = flags.DEFINE_string("file", "", "Features that a started process reads.")


def perform(task: str, side: str) -> dict:
    """What a started process does and says."""
    from benchmarks import study_jax, study_photos, study_torch

    ours = side == "jax"
    if task == "photos":
        return study_photos.photos(side, _IMAGES.value)
    if task == "tables":
        return study_jax.tables_jax() if ours else study_torch.tables_torch()
    if ours:
        return timed(study_jax.run_jax(task))
    compiled = side == "torch_compile"
    return timed(study_torch.run_torch(task, _FILE.value, _THREADS.value, compiled))


def timed(found: dict) -> dict:
    """Adds what the whole process took, and the mean of its runs' accuracies."""
    from benchmarks.memory import peak

    accuracy = np.asarray(found["accuracy"]).reshape(-1, 2).mean(axis=0).round(4).tolist()
    took = {"cold": time.perf_counter() - STARTED, "warm": float(found["warm"])}
    if "processor" in found:  # `warm` was all of a second training
        took |= {"cold": took["cold"] - took["warm"], "processor": float(found["processor"])}
    return took | {"peak_gb": peak() / 1e9, "accuracy": accuracy}


def start(task: str, side: str, *options: str) -> dict:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.study", f"--tasks={task}", f"--side={side}"]
    env = os.environ | {"CI": "true", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([*command, *options], check=True, env=env, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def best_threads(file: str) -> int:
    """PyTorch's fastest thread count on one DANN run."""
    counts = sorted({1, os.cpu_count() or 1})
    cost = {n: start("single", "torch", f"--file={file}", f"--threads={n}") for n in counts}
    return min(counts, key=lambda n: cost[n]["warm"])


def alternate(task: str, sides: list[str], rounds: int, options: list[str]) -> None:
    """Prints medians of all sides and of their ratios to the first, paired by round."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, results in found.items():
            results.append(start(task, side, *options))
            print(f"  {task} {side} {json.dumps(results[-1])}", flush=True)
    ours = found.pop("jax")
    for side, results in found.items():
        for key in [k for k, v in ours[0].items() if isinstance(v, float)]:
            print(compared(task, side, key, [r[key] for r in ours], [r[key] for r in results]))
    for side, results in {"jax": ours, **found}.items():
        for key in ("accuracy", "epoch_s"):
            if key in results[0]:
                print(f"{task:7} {key} of {side}: {results[0][key]}", flush=True)


def compared(task: str, side: str, key: str, ours: list[float], theirs: list[float]) -> str:
    """A line with both medians and the range of the ratios; above 1 clipjax is better."""
    up = key == "images_per_s"
    ratios = sorted(a / b if up else b / a for a, b in zip(ours, theirs, strict=True))
    return (
        f"{task:7} {key:12} clipjax {statistics.median(ours):9.2f}  {side} "
        f"{statistics.median(theirs):9.2f}  ratio {statistics.median(ratios):7.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def main(argv: list[str]) -> None:
    """Does the task of a started process, or starts all of them."""
    del argv
    logging.set_verbosity(logging.WARNING)
    if _SIDE.value:
        (task,) = _TASKS.value
        print(json.dumps(perform(task, _SIDE.value)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file, cached = pathlib.Path(folder) / "features.npz", {"grid", "single", "uda"}
        options: list[str] = []
        if cached & set(_TASKS.value):
            from benchmarks.study_jax import export_features

            export_features(file)
            threads = _THREADS.value or best_threads(str(file))
            print(f"PyTorch: {threads} threads", flush=True)
            options = [f"--file={file}", f"--threads={threads}"]
        for task in _TASKS.value:
            if task in cached:
                alternate(task, ["jax", "torch", "torch_compile"], _ROUNDS.value, options)
            else:
                alternate(task, ["jax", "torch"], _ROUNDS.value, [])


if __name__ == "__main__":
    app.run(main)
