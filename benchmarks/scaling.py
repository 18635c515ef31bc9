"""Time and peak memory of training on cached features, against examples, classes and runs.

    python -m benchmarks.scaling                                 all three axes; minutes
    python -m benchmarks.scaling --axes=runs                     one of them
    python -m benchmarks.scaling --svg=docs/figures/scaling.svg  a figure of what was measured

A head (512 features -> 256 -> classes) trains on random features in batches of 64, each point in a
process of its own: an epoch to compile, then the fastest of three. `exponent` is the slope of the
last two points in logarithms, 1 where time or memory is linear; `constant` is what the last point
costs per example, class or run.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags, logging

import clipjax
from benchmarks.memory import peak

AXES = {
    "examples": (1_000, 10_000, 100_000, 600_000),
    "classes": (10, 100, 1_000),
    "runs": (1, 4, 16, 64),
}
FIXED = {"examples": 5_000, "classes": 100, "runs": 1}

_AXES = flags.DEFINE_list("axes", list(AXES), "Which of examples, classes, runs.")
_POINT = flags.DEFINE_string("point", "", "Of a started process: JSON of a point.")
_SVG = flags.DEFINE_string("svg", "", "Where a figure goes.")


def measure(examples: int, classes: int, runs: int) -> dict[str, float]:
    """Seconds an epoch, and the peak beside what the imports took; GB."""
    from clipjax.runtime.devices import use_cores
    from clipjax.runtime.malloc import keep_memory

    keep_memory(one_arena=False)  # heads on features
    use_cores()
    import jax
    import jax.numpy as jnp

    from clipjax.adapt.finetune import make_loss
    from clipjax.adapt.step import init_state, make_step
    from clipjax.data.loading.sampler import Sampling
    from clipjax.log import MetricsLog
    from clipjax.model.heads import Heads, as_model
    from clipjax.train.arrays import Epochs, epochs_program, fit_arrays, run_mesh
    from clipjax.train.checkpoint import Checkpointer
    from clipjax.train.journal import Outputs
    from clipjax.train.optim import make_optimizer
    from clipjax.train.schedules import make_schedule

    before = peak()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((examples, 512), np.float32)
    label = rng.integers(0, classes, examples).astype(np.int32)
    heads = Heads(num_classes=classes, classifier=(256,))
    optimizer = make_optimizer(make_schedule("cosine", 1e-3, 10_000), clip_norm=1.0)
    step = make_step(make_loss(as_model(heads)), optimizer, total_steps=10_000)

    def start(seed):
        params = heads.init(jax.random.key(seed), jnp.zeros((1, 512)))["params"]
        return init_state(params, optimizer, seed=seed)

    states = jax.jit(jax.vmap(start))(jnp.arange(runs, dtype=jnp.uint32))
    data = {"source": {"inputs": features, "label": label}}
    sampler = Sampling(-(-examples // 64))
    plan = Epochs(("head",), 4, 64, 1, sampler, mesh=run_mesh(runs))
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsLog(pathlib.Path(folder) / "metrics.jsonl")
        with Checkpointer(pathlib.Path(folder) / "states") as checkpointer:
            program = epochs_program(lambda position: step, plan)
            fit_arrays(program, states, data, plan, Outputs(checkpointer, log))
        records = [json.loads(line) for line in log.path.open()]
    return {"seconds": min(r["s_per_epoch"] for r in records[1:]), "gb": (peak() - before) / 1e9}


def start_point(point: dict[str, int]) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", f"--point={json.dumps(point)}"]
    env = os.environ | {"CI": "true"}
    done = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def sweep(axis: str) -> list[tuple[int, dict[str, float]]]:
    """Measures an axis and prints it."""
    found: list[tuple[int, dict[str, float]]] = []
    for value in AXES[axis]:
        found.append((value, start_point(FIXED | {axis: value})))
        row = found[-1][1]
        print(f"{axis:9} {value:8,}  {row['seconds']:9.4f} s  {row['gb']:6.3f} GB", flush=True)
    (a, one), (b, two) = found[-2:]
    for key in ("seconds", "gb"):
        slope = math.log(two[key] / one[key]) / math.log(b / a)
        print(f"{axis:9} {key}: exponent {slope:.2f}, constant {two[key] / b:.3g} per one of them")
    return found


def figure(found: dict[str, list]) -> str:
    """The measurements as one SVG: seconds over each axis, in decades."""
    from clipjax.evaluate.report.charts import WIDTH, line_chart

    charts = [
        line_chart(
            f"Seconds an epoch over {axis}",
            {"measured": ([math.log10(x) for x, _ in v], [math.log10(y["seconds"]) for _, y in v])},
            f"log10 {axis}",
            "log10 s",
        )
        for axis, v in found.items()
    ]
    style = (pathlib.Path(clipjax.__file__).parent / "assets" / "report" / "report.css").read_text()
    wide, high = WIDTH + 24, 260
    placed = [
        chart.replace(
            "<svg ", f'<svg x="{12 + i * wide}" y="12" width="{WIDTH}" height="{high}" ', 1
        )
        for i, chart in enumerate(charts)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide * len(charts)} {high + 12}">'
        f"<style>{style}</style>{''.join(placed)}</svg>\n"
    )


def main(argv: list[str]) -> None:
    """Measures a point, or every axis."""
    del argv
    logging.set_verbosity(logging.WARNING)
    if _POINT.value:
        print(json.dumps(measure(**json.loads(_POINT.value))))
        return
    found = {axis: sweep(axis) for axis in _AXES.value}
    if _SVG.value:
        pathlib.Path(_SVG.value).write_text(figure(found))


if __name__ == "__main__":
    app.run(main)
