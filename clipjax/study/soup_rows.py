"""Rows of results of a study's soups."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from clipjax.adapt.soup import greedy, mean_of
from clipjax.adapt.step import merge
from clipjax.errors import ConfigError
from clipjax.evaluate.metrics import accuracy
from clipjax.evaluate.rows import VARIANT
from clipjax.study.closed_form import Fit
from clipjax.study.encode import Encoded
from clipjax.study.evaluator import measure_method
from clipjax.study.restore import Trained
from clipjax.study.run_group import RunGroup
from clipjax.study.soups import pots

PyTree = Any


def check_starts(encoded: Encoded, groups: Iterable[RunGroup | Fit]) -> None:
    """Raise ConfigError where seeds of a soup start differently after all: prompts, low ranks."""
    seeds = len(encoded.study.training.seeds)
    found = [pot for pot in pots(encoded.plan.methods, seeds) if pot.over != "settings"]
    mixed = {name for pot in found for name, _ in pot.runs[0]}
    for group in groups:
        if not mixed.intersection(group.names):
            continue
        start = jax.tree.leaves(jax.device_get(group.start().params))
        for position, name in enumerate(group.names):
            mine = slice(position * seeds, (position + 1) * seeds)
            if name in mixed and any((x[mine] != x[mine][:1]).any() for x in start):
                fault = "starts at random, differently for each seed"
                told = f"methods.{name}: {fault}, and the mean of such weights is no model"
                raise ConfigError(f"{told}; set soup.over=settings.")


def soup_rows(encoded: Encoded, done: Mapping[str, Trained]) -> tuple[list[dict], dict]:
    """Return rows of every soup, and what they are of, for results.json.

    {name: [{"of": [{"method", "seed", "source_val"}], "taken": positions in it, "source_val"}]}, an
    entry a soup: of over=settings one a seed. Accuracies on the source's validation images order
    and choose; nothing else is read. A run's weights are those that `selection` picks.
    """
    seeds, rows, told = encoded.study.training.seeds, [], {}
    for pot in pots(encoded.plan.methods, len(seeds)):
        first = done[pot.method]
        data = encoded.plan.methods[pot.method].data
        score = _scorer(first, encoded)
        models = [
            [_one(done[name].variants[VARIANT], seed) for name, seed in runs] for runs in pot.runs
        ]
        scores = [[score(model) for model in each] for each in models]
        for kind in pot.kinds:
            name, made, about = f"{pot.stage} {kind} soup", [], []
            for runs, each, known in zip(pot.runs, models, scores, strict=True):
                taken = list(range(len(each)))
                if kind == "greedy":
                    soup, taken = greedy(each, known, score)
                else:
                    soup = mean_of(each)
                made.append(soup)
                of = [
                    {"method": method, "seed": seeds[seed], "source_val": round(value, 6)}
                    for (method, seed), value in zip(runs, known, strict=True)
                ]
                about.append({"of": of, "taken": taken, "source_val": round(score(soup), 6)})
            stacked = jax.tree.map(lambda *x: np.stack(x), *made)
            trained = first._replace(variants={VARIANT: stacked})
            rows += measure_method(name, trained, data, encoded)[0]
            told[name] = about
    return rows, told


def _one(stacked: PyTree, position: int) -> PyTree:
    return jax.tree.map(lambda x: np.asarray(x[position]), stacked)


def _scorer(trained: Trained, encoded: Encoded) -> Callable[[PyTree], float]:
    """Return parameters -> accuracy on the source's validation images."""
    part = (encoded.study.data.source_name, "val")

    def score(params: PyTree) -> float:
        whole = merge(params, trained.shared)
        images = trained.view.features(trained.view.placed(whole), part)
        logits, *_ = trained.answer(whole, images.features)
        return float(accuracy(logits, images.labels))

    return score
