"""Which examples each batch of an epoch takes: the same order for cached features and for files."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import ConfigError, DataError

Plan = dict[str, jax.Array]  # part of a batch -> int32 [S, B] rows; "mask" -> bool [S, B]
# Which examples the rows of a part number.
PARTS = {"source": "source", "support": "source", "target": "target"}


class Sampler(Protocol):
    """Which examples make up the batches of an epoch. Hashable: static under jit."""

    def steps(self, num_source: int, num_target: int, batch_size: int) -> int:
        """Batches of an epoch."""

    def plan(
        self,
        key: jax.Array,
        num_source: int,
        num_target: int,
        batch_size: int,
        labels: jax.Array | None = None,
    ) -> Plan:
        """The rows of each batch, as `epoch_plan`; pure in the key, which is `epoch_key`'s."""


class Sampling(NamedTuple):
    """The usual sampler: passes over the source, shuffled, and over the target beside it.

    Attributes:
      epoch: "source" is one pass over the source, "target" as many steps as a pass over the target
        takes, "longest" the longer of the two; a number (or its digits) is that many steps.
      balanced: draw source examples with replacement, every class as likely as any other.
    """

    epoch: str | int = "source"
    balanced: bool = False

    def steps(self, num_source: int, num_target: int, batch_size: int) -> int:
        """Batches of an epoch; see `steps_per_epoch`."""
        return steps_per_epoch(num_source, num_target, batch_size, self.epoch)

    def plan(self, key, num_source, num_target, batch_size, labels=None) -> Plan:
        """The rows of an epoch's batches; see `epoch_plan`."""
        return epoch_plan(key, num_source, num_target, batch_size, self, labels)


class Episodes(NamedTuple):
    """Few-shot episodes (Vinyals et al. 2016, arXiv 1606.04080): a small task is a batch.

    An episode has `way` classes, drawn without replacement, and of each `shot` examples to learn
    from ("support") and `query` others to be judged on ("source"), both class after class. A batch
    size says nothing here.
    """

    way: int
    shot: int
    query: int
    count: int  # episodes of an epoch
    num_classes: int

    def steps(self, num_source: int, num_target: int, batch_size: int) -> int:
        """Episodes of an epoch."""
        del num_source, num_target, batch_size
        return self.count

    def plan(self, key, num_source, num_target, batch_size, labels=None) -> Plan:
        """Rows of "support" [S, way * shot] and of "source" [S, way * query]."""
        del num_source, num_target, batch_size
        each = self.shot + self.query
        member = labels[None] == jnp.arange(self.num_classes)[:, None]  # [K, N]
        enough = member.sum(axis=1) >= each

        def episode(key):
            one, two = jax.random.split(key)
            chance = jax.random.uniform(one, enough.shape)
            _, classes = jax.lax.top_k(jnp.where(enough, chance, -1.0), self.way)
            chance = jax.random.uniform(two, labels.shape)
            return jax.lax.top_k(jnp.where(member[classes], chance, -1.0), each)[1]

        rows = jax.vmap(episode)(jax.random.split(key, self.count)).astype(jnp.int32)
        flat = lambda part: part.reshape(self.count, -1)
        query = flat(rows[..., self.shot :])
        support = flat(rows[..., : self.shot])
        return {"source": query, "support": support, "mask": jnp.ones(query.shape, bool)}


def check_episodes(episodes: Episodes, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Refuses episodes that the labelled examples cannot fill.

    Raises:
      DataError: fewer classes with enough examples than an episode has.
    """
    counts, need = np.bincount(labels, minlength=len(classes)), episodes.shot + episodes.query
    enough = int((counts >= need).sum())
    if enough < episodes.way:
        short = [f"{name} ({n})" for name, n in zip(classes, counts, strict=True) if n < need]
        raise DataError(
            f"episodes of {episodes.way} classes need {need} labelled images of each, and "
            f"{enough} classes have them; too few have {', '.join(short[:10])}. Take fewer classes "
            "or fewer images of each."
        )


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
    shuffled = jax.random.permutation(key, num_source)
    order = jnp.zeros(length, jnp.int32).at[:num_source].set(shuffled)
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
