"""Runs every spike from cached features and from pixels, and keeps what it trained.

    python -m tests.contract.runs MODEL PHOTOS OUT [interrupted]

Interrupted, each run is told to stop in its first epoch, saved, and goes on as the same command
would. On several devices cached runs go to one each, and batches of pixels are shared.
"""

import contextlib
import pathlib
import sys

import jax
import numpy as np

from clipjax.io import write_json
from clipjax.study import (
    Data,
    Devices,
    Encoder,
    Mesh,
    Optim,
    Programs,
    Study,
    Training,
    prepared,
    run_group,
    trainer,
)
from clipjax.study.plan import prepare
from clipjax.study.study import run_study
from clipjax.study.workdir import claim_workdir
from clipjax.train.preemption import Notice, Preempted

CACHED = prepared.cached_phases
HEADS = {"adapter": (6,), "classifier": ()}
SPIKES = {
    "moments": {"heads": HEADS, "pull": 2.0},
    "prompts": {},
    "distillation": {"heads": HEADS},
    "low_rank": {"loss": "lora", "tower": "text", "dropout": 0.0},
    "episodes": {"heads": HEADS, "episodes": {"way": 2, "shot": 1, "query": 2, "count": 3}},
    "ridge": {},
}
# What a run that is stopped and resumed sees: each of both loops, by methods of several kinds.
RESUMED = {
    "moments": "cached",
    "prompts": "cached",
    "distillation": "pixels",
    "low_rank": "image",
    "episodes": "pixels",
    "ridge": "cached",
}
ACCUMULATES = ("prompts", "distillation", "low_rank")  # those that are means over examples


def studies(name, twice=False):
    """(entries of methods by label, accumulate) of a spike's studies, or of that which runs twice.

    "pixels" are seen as cached features have seen them: nothing but the way is another.
    """
    entry = {"loss": f"tests.contract.{name}", **SPIKES[name]}
    image = {"image": entry | {"tower": "both", "dropout": 0.25}} if name == "low_rank" else {}
    if twice:
        yield {RESUMED[name]: entry} | image, 1
        return
    ways = ("cached",) if name == "ridge" else ("cached", "pixels")  # a closed form has no other
    yield dict.fromkeys(ways, entry) | image, 1
    if name in ACCUMULATES:
        yield {"accumulated": entry}, 2


def train(entries, accumulate, model, photos, workdir, interrupted, programs):
    """What a study of one spike in several ways gives."""
    shared = jax.device_count() > 1 and not {"pixels", "image"}.isdisjoint(entries)
    study = Study(
        encoder=Encoder(model=str(model)),
        data=Data(root=str(photos), source="real", target="sketch"),
        training=Training(
            seeds=(0, 1),
            epochs=2,
            batch_size=4,
            save_every=1,
            accumulate=accumulate,
            # Adam would make as much of rounding as of a gradient.
            optim=Optim(name="sgd", lr=0.05, schedule="constant"),
        ),
        devices=Devices(mesh=Mesh(data=2 if shared else 0)),
        methods=entries,
        stages=tuple(entries),
    )
    workdir.mkdir(parents=True)
    claim_workdir(workdir, study)
    if interrupted:
        reached = Notice.reached
        Notice.reached = lambda self, step: step >= 2
        with contextlib.suppress(Preempted):
            run_study(prepare(study), workdir, print, pages=False, programs=programs)
        Notice.reached = reached
    found = run_study(prepare(study), workdir, print, pages=False, programs=programs)
    write_json(workdir / "rows.json", found.rows)
    return found


def cached_phases(plan, method):
    """Whether phases train on cached features, but those that are told to see pixels."""
    found = zip(method.phases, CACHED(plan, method), strict=True)
    return tuple(cached and phase.name != "pixels" for phase, cached in found)


def main(model, photos, out, interrupted=""):
    """Runs all."""
    out, kept = pathlib.Path(out), {}
    for module in (prepared, run_group, trainer):
        module.cached_phases = cached_phases
    programs = Programs()
    for name in SPIKES:
        for entries, accumulate in studies(name, twice=bool(interrupted)):
            workdir = out / name / str(accumulate)
            found = train(entries, accumulate, model, photos, workdir, interrupted, programs)
            for label in entries:
                for path, leaf in jax.tree_util.tree_leaves_with_path(found.params[label]):
                    where = jax.tree_util.keystr(path, simple=True, separator="/")
                    kept[f"{name}-{label}:{where}"] = np.asarray(leaf)
    np.savez(out / "params.npz", **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
