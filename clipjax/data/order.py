"""Which examples each batch of an epoch takes: the same order for cached features and for files."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def steps_per_epoch(num_source: int, batch_size: int) -> int:
    """Batches in one pass over the source, the last one partial.

    >>> steps_per_epoch(10, 4)
    3
    """
    return -(-num_source // batch_size)


def epoch_key(seed: jax.Array, epoch: jax.Array | int) -> jax.Array:
    """The key that shuffles an epoch of a seed; nothing else does, so resuming repeats nothing.

    Folded twice, so that shuffling and a step's own randomness share no key.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31), epoch)


def _shuffled(key: jax.Array, n: int, length: int) -> jax.Array:
    """`length` indices below n: as many fresh permutations as it takes, cut to length."""
    keys = jax.random.split(key, -(-length // n))
    return jax.vmap(lambda k: jax.random.permutation(k, n))(keys).reshape(-1)[:length]


def epoch_plan(
    key: jax.Array, num_source: int, num_target: int, batch_size: int
) -> dict[str, jax.Array]:
    """Which examples each batch of an epoch takes.

    An epoch is one pass over the source; the target repeats, reshuffled, for as long (or is cut, a
    different part each epoch, where it is longer).

    Returns:
      source, target: int32 [S, B] indices; mask: bool [S, B], False where the last source batch
      is padded.
    """
    steps = steps_per_epoch(num_source, batch_size)
    length = steps * batch_size
    one, two = jax.random.split(key)
    order = (
        jnp.zeros(length, jnp.int32).at[:num_source].set(jax.random.permutation(one, num_source))
    )
    target = _shuffled(two, num_target, length) if num_target else jnp.zeros(length, jnp.int32)
    shape = (steps, batch_size)
    return {
        "source": order.reshape(shape),
        "mask": (jnp.arange(length) < num_source).reshape(shape),
        "target": target.reshape(shape),
    }
