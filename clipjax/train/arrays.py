"""Training on cached features: whole epochs inside one compiled scan, several seeds at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.step import TrainState
from clipjax.data.order import epoch_key, epoch_plan, steps_per_epoch
from clipjax.log import MetricsLog, progress
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.loop import check_finite

PyTree = Any
Data = dict[str, dict[str, jax.Array]]  # {"source": {"inputs", "label"}, "target": {"inputs"}}


def _batch(data: Data, plan: dict[str, jax.Array]) -> PyTree:
    take = lambda part, index: jax.tree.map(lambda x: x[index], part)  # noqa: E731
    batch = {"source": take(data["source"], plan["source"]) | {"mask": plan["mask"]}}
    if "target" in data:
        batch["target"] = take(data["target"], plan["target"])
    return batch


def make_epochs(step: Callable, batch_size: int) -> Callable:
    """Turns a step into `epochs(state, data, first, count) -> (state, metrics [count, S])`.

    Epoch e of a seed is shuffled by fold_in(key(seed), e) alone, so resuming repeats nothing.
    """

    def one_epoch(carry, epoch):
        state, data = carry
        targets = len(data["target"]["inputs"]) if "target" in data else 0
        plan = epoch_plan(
            epoch_key(state.seed, epoch), len(data["source"]["label"]), targets, batch_size
        )
        state, metrics = jax.lax.scan(lambda s, p: step(s, _batch(data, p)), state, plan)
        return (state, data), metrics

    def epochs(state: TrainState, data: Data, first: jax.Array, count: int):
        (state, _), metrics = jax.lax.scan(one_epoch, (state, data), first + jnp.arange(count))
        return state, metrics

    return epochs


def fit_arrays(
    step: Callable,
    states: TrainState,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    phase: str,
    checkpointer: Checkpointer,
    log: MetricsLog,
    save_every: int,
    rates: Callable[[int], dict[str, float]] | None = None,
    evaluate: Callable[[PyTree], dict[str, list]] | None = None,
) -> TrainState:
    """Trains all seeds together, resuming from the newest checkpoint.

    Args:
      step: pure train step of one seed.
      states: states stacked over seeds (leading axis).
      data: features and labels; the same for all seeds.
      epochs: passes over the source at the end, those that `states` has behind it included.
      batch_size: examples per domain and step.
      phase: name in the log and in errors.
      checkpointer: where states go.
      log: gets one record an epoch: means over its steps, a list over seeds.
      save_every: epochs per compiled call; a checkpoint follows each.
      rates: updates made -> learning rates, for the log.
      evaluate: stacked parameters -> measures, logged beside each checkpoint.

    Returns:
      The stacked states after the last epoch.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
    """
    run = jax.jit(
        jax.vmap(make_epochs(step, batch_size), in_axes=(0, None, None, None)), static_argnums=3
    )
    per_epoch = steps_per_epoch(len(data["source"]["label"]), batch_size)
    if (found := checkpointer.restore(states)) and found[0].step[0] > states.step[0]:
        states = found[0]
    first = int(np.asarray(states.step)[0]) // per_epoch
    log.rewind(lambda record: record.get("phase") != phase or record["epoch"] <= first)
    bar = progress(total=epochs, what=phase, unit="epoch")
    bar.update(first)
    while first < epochs:
        count = min(save_every, epochs - first)
        started = time.perf_counter()
        states, metrics = run(states, data, jnp.int32(first), count)
        metrics = {k: np.asarray(v) for k, v in metrics.items()}  # [seeds, count, S]
        flat = {k: v.reshape(v.shape[0], -1) for k, v in metrics.items()}
        check_finite(
            flat["loss"],
            first_step=first * per_epoch,
            phase=phase,
            lam=flat.get("lam"),
            last_good=checkpointer.latest,
        )
        seconds = (time.perf_counter() - started) / count
        for e in range(count):
            means = {k: np.round(v[:, e].mean(axis=-1), 6).tolist() for k, v in metrics.items()}
            done = first + e + 1
            log.append(
                {"phase": phase, "epoch": done, "step": done * per_epoch}
                | means
                | (rates(done * per_epoch - 1) if rates else {})
                | {"s_per_epoch": round(seconds, 4)}
            )
        first += count
        if evaluate:
            place = {"phase": phase, "epoch": first, "step": first * per_epoch}
            log.append(place | {"evaluation": evaluate(states.params)})
        checkpointer.save(first * per_epoch, states)
        bar.update(count)
    bar.close()
    return states
