"""What training costs: steps, seconds, memory, parameters."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clipjax.runtime.peak import peak_bytes, reset_peak
from clipjax.study.closed_form import Fit
from clipjax.study.restore import Trained
from clipjax.study.trainer import Trainer
from clipjax.train.groups import is_frozen, name_tree


def trained_with_cost(
    trainer: Trainer | Fit, say: Callable[[str], None]
) -> tuple[dict[str, Trained], dict[str, dict[str, Any]]]:
    """Train a program's methods; return them, and what each has cost.

    "iterations" and "parameters" are of one seed; parameters that a closed form fits count, too.
    "seconds", "cpu_seconds" of all cores together, which other work on the machine does not change,
    and "peak_bytes" (None where unknown) are of the whole program and all of its seeds, since it
    was started last; compilation and the validations on the way are included.
    """
    reset_peak()
    started, worked = time.perf_counter(), time.process_time()
    found = trainer.train(say)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    spent = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "peak_bytes": peak_bytes()}
    steps = 0 if isinstance(trainer, Fit) else trainer.total_steps
    count = lambda trained: _count(trainer, trained)
    return found, {
        name: {"iterations": steps, "parameters": count(each), **spent}
        for name, each in found.items()
    }


def _count(trainer: Trainer | Fit, trained: Trained) -> int:
    """Return how many numbers of a seed a phase trains, or a closed form fits."""
    sizes = jax.tree.leaves(jax.tree.map(lambda x: int(np.prod(np.shape(x)[1:])), trained.params))
    if isinstance(trainer, Fit):
        return sum(sizes)
    names = jax.tree.leaves(name_tree(trained.params))
    phases = trainer.method.phases
    trains = lambda name: not all(is_frozen(name, phase.freeze) for phase in phases)
    return sum(size for size, name in zip(sizes, names, strict=True) if trains(name))
