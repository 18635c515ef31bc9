"""A running weighted mean of the parameters: SWA, EMA, Beta, Gauss, SWAD. Training is not affected.

average <- average + w / W (parameters - average), W <- decay * W + w after every update that is
taken in, in float32. Decay 1 gives the mean weighted by w: with equal weights stochastic weight
averaging (Izmailov et al. 2018, arXiv 1803.05407), with a Beta density that of CLIPood (Shu et al.
2023, arXiv 2302.00864). w = 1 - decay gives the bias-corrected exponential moving average. A mean
that begins anew every so many updates is that of a segment, which SWAD is made of (Cha et al. 2021,
arXiv 2102.08604; `clipjax.evaluate.valley` chooses which).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class Average(NamedTuple):
    """The weights of a running mean."""

    weight: Callable[[jax.Array], jax.Array]  # updates made -> w >= 0 of the parameters after them
    decay: float = 1.0  # of the weights before
    every: int = 1  # updates from one that is taken in to the next; an epoch's: its last one
    begins: bool = False  # whether the parameters before the first update are taken in
    restart: int = 0  # updates after each so many of which it begins anew; 0: never


class Running(NamedTuple):
    """A running mean, part of a train state."""

    total: jax.Array  # float32 []: W
    params: PyTree  # float32, of the trainable parameters; zeros while W is 0


def uniform(after: int | float = 0, every: int = 1) -> Average:
    """SWA: the mean with equal weights, of those taken in later than `after` updates."""
    return Average(lambda step: (step > after).astype(jnp.float32), every=every)


def segments(length: int) -> Average:
    """The mean with equal weights of each segment of `length` updates; the last may be shorter."""
    return uniform()._replace(restart=length)


def joined(means: Sequence[Running]) -> Running:
    """The mean of several running means by their weights, in float64 (as SWAD's of its segments).

    >>> two = [Running(np.float32(n), {"w": np.float32([x])}) for n, x in ((1, 4.0), (3, 0.0))]
    >>> joined(two).params["w"].tolist()
    [1.0]
    """
    weights = [np.asarray(mean.total, np.float64) for mean in means]
    total = sum(weights)

    def mean(*parts):
        wide = lambda w, x: w.reshape(w.shape + (1,) * (np.ndim(x) - w.ndim))
        value = sum(
            wide(w, x) * np.asarray(x, np.float64) for w, x in zip(weights, parts, strict=True)
        )
        return (value / wide(total, value)).astype(np.float32)

    return Running(total.astype(np.float32), jax.tree.map(mean, *(each.params for each in means)))


def ema(decay: float = 0.999, every: int = 1, start: int = 0, debias: bool = True) -> Average:
    """The exponential moving average.

    Without `debias` it begins as a copy of what is taken in first after `start` updates, as torch's
    (`get_ema_avg_fn`): that weighs decay ** n after n more, and 1 - decay times as much otherwise.
    """
    usual = jnp.float32(1.0 - decay)
    first = jnp.float32(usual if debias else 1.0)
    return Average(lambda step: jnp.where(step <= start + every, first, usual), decay, every)


def beta(b: float, steps: int, start: int = 0) -> Average:
    """A Beta(b, b) density along `steps` updates from `start` on; b < 1 favours both ends.

    As CLIPood has it: of t updates at (t + 0.5) / (steps + 1), the parameters before the first
    (t = 0) taken in.
    """

    def weight(step):
        at = (step - start + 0.5) / (steps + 1)
        return jnp.clip(4 * at * (1 - at), 1e-6, None) ** (b - 1)

    return Average(weight, begins=True)


def gauss(mean: float, std: float, every: int, start: int = 0) -> Average:
    """A normal density along epochs of `every` updates from `start` on, the first of them 1.

    PromptSRC's "Gaussian weighted prompt aggregation" (Khattak et al. 2023, arXiv 2307.06948).
    """

    def weight(step):
        away = ((step - start) / every - mean) / std
        return jnp.maximum(jnp.exp(-0.5 * away**2), 1e-30)

    return Average(weight, every=every)


def between(before: PyTree, after: PyTree, share: float) -> PyTree:
    """Parameters at a share of the way from `before`, which may lack the axis of seeds, to `after`.

    WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903); both ends are given back bit for bit.

    >>> between({"w": jnp.zeros(2)}, {"w": jnp.ones((3, 2))}, 0.25)["w"].shape
    (3, 2)
    """
    if share == 1:
        return after
    if share == 0:
        return jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), before, after)
    return jax.tree.map(lambda a, b: a + share * (b - a), before, after)


def begin(trainable: PyTree, rule: Average | None = None, step: jax.Array | int = 0) -> Running:
    """The average before an update: empty, or of the parameters there are, if `rule` says so."""
    if rule is not None and rule.begins:
        first = jax.tree.map(lambda x: x.astype(jnp.float32), trainable)
        return Running(jnp.asarray(rule.weight(jnp.asarray(step)), jnp.float32), first)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), trainable)
    return Running(jnp.zeros((), jnp.float32), zeros)


def add(running: Running, rule: Average, trainable: PyTree, step: jax.Array) -> Running:
    """Take in the parameters after `step` updates, if they are among those of the rule.

    >>> run, rule = begin({"w": jnp.zeros(())}), uniform(every=2)
    >>> for step, value in ((1, 9.0), (2, 1.0), (3, 9.0), (4, 3.0)):
    ...     run = add(run, rule, {"w": jnp.float32(value)}, jnp.int32(step))
    >>> float(run.params["w"]), float(run.total)
    (2.0, 2.0)
    """
    weight, decay = rule.weight(step), rule.decay
    if rule.every > 1:
        taken = step % rule.every == 0
        weight, decay = jnp.where(taken, weight, 0.0), jnp.where(taken, decay, 1.0)
    if rule.restart:
        decay = jnp.where((step - 1) % rule.restart == 0, 0.0, decay)
    total = decay * running.total + weight
    share = weight / jnp.where(total > 0, total, 1.0)
    towards = lambda mean, x: mean + share * (x.astype(jnp.float32) - mean)
    return Running(total, jax.tree.map(towards, running.params, trainable))
