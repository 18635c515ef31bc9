"""A running weighted mean of the parameters: SWA, EMA, Beta. It does not affect training.

average <- average + w / W (parameters - average), W <- decay * W + w after every update, in
float32. Decay 1 gives the mean weighted by w: with equal weights stochastic weight averaging
(Izmailov et al. 2018, arXiv 1803.05407), with a Beta density that of CLIPood (Shu et al. 2023,
arXiv 2302.00864). w = 1 - decay gives the bias-corrected exponential moving average.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any


class Average(NamedTuple):
    """The weights of a running mean."""

    weight: Callable[[jax.Array], jax.Array]  # progress in [0, 1] after an update -> w >= 0
    decay: float = 1.0  # of the weights before


class Running(NamedTuple):
    """A running mean, part of a train state."""

    total: jax.Array  # float32 []: W
    params: PyTree  # float32, of the trainable parameters; zeros while W is 0


def uniform(start: float = 0.0) -> Average:
    """SWA: the mean of all updates after `start`, a share of the run."""
    return Average(lambda progress: (progress > start).astype(jnp.float32))


def ema(decay: float = 0.999) -> Average:
    """The exponential moving average."""
    return Average(lambda progress: jnp.float32(1.0 - decay), decay)


def beta(b: float = 0.5) -> Average:
    """A Beta(b, b) density along the run (CLIPood); b < 1 favours its start and its end."""
    return Average(lambda progress: jnp.clip(progress * (1 - progress), 1e-4, None) ** (b - 1))


def begin(trainable: PyTree) -> Running:
    """An empty average."""
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), trainable)
    return Running(jnp.zeros((), jnp.float32), zeros)


def add(running: Running, rule: Average, trainable: PyTree, progress: jax.Array) -> Running:
    """Add one more set of parameters.

    >>> run, rule = begin({"w": jnp.zeros(())}), uniform()
    >>> for value, progress in ((1.0, 0.5), (3.0, 1.0)):
    ...     run = add(run, rule, {"w": jnp.float32(value)}, jnp.float32(progress))
    >>> float(run.params["w"]), float(run.total)
    (2.0, 2.0)
    """
    weight = rule.weight(progress)
    total = rule.decay * running.total + weight
    share = weight / jnp.where(total > 0, total, 1.0)
    towards = lambda mean, x: mean + share * (x.astype(jnp.float32) - mean)
    return Running(total, jax.tree.map(towards, running.params, trainable))
