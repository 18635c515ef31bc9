"""Which examples each batch of an epoch takes: the same order for cached features and for files."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clipjax.errors import ConfigError


class Sampling(NamedTuple):
    """How long an epoch is and how its source examples are drawn. Hashable: static under jit.

    Attributes:
      epoch: "source" is one pass over the source, "target" as many steps as a pass over the target
        takes, "longest" the longer of the two; a number (or its digits) is that many steps.
      balanced: draw source examples with replacement, every class as likely as any other.
    """

    epoch: str | int = "source"
    balanced: bool = False


ONE_PASS = Sampling()


def steps_per_epoch(
    num_source: int, num_target: int, batch_size: int, epoch: str | int = "source"
) -> int:
    """Batches in an epoch, the last one of a pass perhaps partial.

    >>> steps_per_epoch(10, 21, 4), steps_per_epoch(10, 21, 4, "longest")
    (3, 6)

    Args:
      num_source: source examples.
      num_target: target examples; 0 where there is no target.
      batch_size: examples per domain and step.
      epoch: as in `Sampling`.

    Raises:
      ConfigError: an epoch that is none of these.
    """
    source, target = -(-num_source // batch_size), -(-num_target // batch_size)
    lengths = {"source": source, "longest": max(source, target)}
    if num_target:
        lengths["target"] = target
    if str(epoch).isdecimal() and int(epoch) > 0:
        return int(epoch)
    if epoch not in lengths:
        raise ConfigError(
            f"data.epoch={epoch!r} is no length of an epoch: {', '.join(sorted(lengths))} or a "
            "number of steps, 1 or more."
        )
    return lengths[epoch]


def epoch_key(seed: jax.Array, epoch: jax.Array | int) -> jax.Array:
    """The key that shuffles an epoch of a seed; nothing else does, so resuming repeats nothing.

    Folded twice, so that shuffling and a step's own randomness share no key.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31), epoch)


def _shuffled(key: jax.Array, n: int, length: int) -> jax.Array:
    """`length` indices below n: as many fresh permutations as it takes, cut to length."""
    keys = jax.random.split(key, -(-length // n))
    return jax.vmap(lambda k: jax.random.permutation(k, n))(keys).reshape(-1)[:length]


def balanced_rows(key: jax.Array, labels: jax.Array, length: int) -> jax.Array:
    """Rows int32 [length], with replacement: a class that occurs, then one of its examples.

    Two draws of whole numbers, because probabilities of single examples, summed up in float32, are
    off by percents where there are many.
    """
    one, two = jax.random.split(key)
    by_class = jnp.argsort(labels)
    ordered = labels[by_class]
    # Classes numbered without gaps, in the order of their labels: [0, 0, 0, 1, 1, 2, ...].
    number = jnp.cumsum(jnp.diff(ordered, prepend=ordered[:1]) != 0)
    drawn = jax.random.randint(one, (length,), 0, number[-1] + 1)
    first = jnp.searchsorted(number, drawn, side="left")
    beyond = jnp.searchsorted(number, drawn, side="right")
    return by_class[jax.random.randint(two, (length,), first, beyond)].astype(jnp.int32)


def epoch_plan(
    key: jax.Array,
    num_source: int,
    num_target: int,
    batch_size: int,
    sampling: Sampling = ONE_PASS,
    labels: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Which examples each batch of an epoch takes.

    An epoch of as many steps as one pass over the source takes is that pass: every example once,
    the last batch padded. In a longer one the source repeats, reshuffled; of a shorter one it is a
    part, a different one each epoch; neither has padding, nor has a balanced one. The target always
    repeats or is cut like that.

    Args:
      key: of `epoch_key`.
      num_source: source examples.
      num_target: target examples; 0 where there is no target.
      batch_size: B, examples per domain and step.
      sampling: length S of the epoch, balanced or not.
      labels: int [num_source], may be traced; needed where balanced.

    Returns:
      source, target: int32 [S, B] indices; mask: bool [S, B], False where the last source batch
      is padded.
    """
    steps = steps_per_epoch(num_source, num_target, batch_size, sampling.epoch)
    length = steps * batch_size
    one, two = jax.random.split(key)
    order, mask = _source_order(one, num_source, length, batch_size, sampling.balanced, labels)
    target = _shuffled(two, num_target, length) if num_target else jnp.zeros(length, jnp.int32)
    shape = (steps, batch_size)
    return {
        "source": order.reshape(shape),
        "mask": mask.reshape(shape),
        "target": target.reshape(shape),
    }


def _source_order(key, num_source, length, batch_size, balanced, labels):
    """(indices, mask) of the source, both [length]."""
    padding = length - num_source
    everything = jnp.ones(length, bool)
    if balanced:
        return balanced_rows(key, labels, length), everything
    if not 0 <= padding < batch_size:
        return _shuffled(key, num_source, length), everything
    order = (
        jnp.zeros(length, jnp.int32).at[:num_source].set(jax.random.permutation(key, num_source))
    )
    return order, jnp.arange(length) < num_source


def process_rows(batch_size: int, process: tuple[int, int]) -> slice:
    """The part of every batch that process p of n loads.

    >>> process_rows(8, (1, 2))
    slice(4, 8, None)

    Raises:
      ConfigError: a batch that n does not divide.
    """
    index, count = process
    if batch_size % count:
        nearest = max(1, round(batch_size / count)) * count
        raise ConfigError(
            f"batch_size={batch_size} cannot be shared evenly by {count} processes; take {nearest}."
        )
    share = batch_size // count
    return slice(index * share, (index + 1) * share)
