"""Which examples each batch of an epoch takes: the same order for cached features and for files."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import ConfigError, DataError

Plan = dict[str, jax.Array]  # part of a batch -> int32 [S, B] rows; "mask" -> bool [S, B]
# Part -> the domain that its rows index.
PARTS = {"source": "source", "support": "source", "target": "target"}


class Sampling(NamedTuple):
    """The usual sampler, static under jit: shuffled passes over the source and the target."""

    epoch: str | int = "source"  # a pass over "source", "target" or the "longest", or its steps
    balanced: bool = False  # draw source examples with replacement, every class equally likely

    def steps(self, num_source: int, num_target: int, batch_size: int) -> int:
        """Return the number of batches of an epoch."""
        return steps_per_epoch(num_source, num_target, batch_size, self.epoch)

    def plan(self, key, num_source, num_target, batch_size, labels=None) -> Plan:
        """Return the rows of each batch, as `epoch_plan`; a pure function of `epoch_key`."""
        return epoch_plan(key, num_source, num_target, batch_size, self, labels)


class Episodes(NamedTuple):
    """Few-shot episodes (Vinyals et al. 2016, arXiv 1606.04080) as batches, whatever their size.

    An episode has `way` classes, drawn without replacement, and of each `shot` examples to learn
    from ("support") and `query` others to be tested on ("source"), both sorted by class. A batch is
    `tasks` episodes one after the other.
    """

    way: int
    shot: int
    query: int
    count: int  # episodes of an epoch
    num_classes: int
    tasks: int = 1  # episodes of a step, which divide `count`
    left_out: tuple[int, ...] = ()  # classes that no episode has

    def steps(self, num_source: int, num_target: int, batch_size: int) -> int:
        return self.count // self.tasks

    def plan(self, key, num_source, num_target, batch_size, labels=None) -> Plan:
        """Return rows of "support" [S, tasks * way * shot] and of "source", likewise."""
        each = self.shot + self.query
        member = labels[None] == jnp.arange(self.num_classes)[:, None]  # [K, N]
        enough = member.sum(axis=1) >= each
        enough = enough & ~np.isin(np.arange(self.num_classes), self.left_out)

        def episode(key):
            one, two = jax.random.split(key)
            chance = jax.random.uniform(one, enough.shape)
            _, classes = jax.lax.top_k(jnp.where(enough, chance, -1.0), self.way)
            chance = jax.random.uniform(two, labels.shape)
            return jax.lax.top_k(jnp.where(member[classes], chance, -1.0), each)[1]

        rows = jax.vmap(episode)(jax.random.split(key, self.count)).astype(jnp.int32)
        steps = self.count // self.tasks
        query = rows[..., self.shot :].reshape(steps, -1)
        support = rows[..., : self.shot].reshape(steps, -1)
        return {"source": query, "support": support, "mask": jnp.ones(query.shape, bool)}


def check_episodes(episodes: Episodes, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise DataError if too few classes have enough labelled examples for an episode."""
    counts, need = np.bincount(labels, minlength=len(classes)), episodes.shot + episodes.query
    kept = [k for k in range(len(classes)) if k not in episodes.left_out]
    enough = sum(int(counts[k]) >= need for k in kept)
    if enough < episodes.way:
        short = [f"{classes[k]} ({counts[k]})" for k in kept if counts[k] < need]
        fault = f"episodes of {episodes.way} classes need {need} labelled images of each; {enough}"
        lack = f"classes have them, not {', '.join(short[:10])}"
        raise DataError(f"{fault} {lack}. Take fewer classes or images.")


ONE_PASS = Sampling()
Sampler = Sampling | Episodes


def steps_per_epoch(
    num_source: int, num_target: int, batch_size: int, epoch: str | int = "source"
) -> int:
    """Return the number of batches in an epoch, the last of which may be partial.

    Raises ConfigError unless `epoch` is as in `Sampling`; "target" needs target examples.

    >>> steps_per_epoch(10, 21, 4), steps_per_epoch(10, 21, 4, "longest")
    (3, 6)
    """
    if str(epoch).isdecimal() and int(epoch) > 0:
        return int(epoch)
    source, target = -(-num_source // batch_size), -(-num_target // batch_size)
    lengths = {"source": source, "longest": max(source, target)}
    lengths |= {"target": target} if num_target else {}
    if epoch not in lengths:
        known = ", ".join(sorted(lengths))
        raise ConfigError(f"data.epoch={epoch!r} is none of {known} or a number of steps above 0.")
    return lengths[epoch]


def epoch_key(seed: jax.Array, epoch: jax.Array | int) -> jax.Array:
    """Return the key that shuffles an epoch of a seed, different from all keys of steps."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31), epoch)


def _shuffled(key: jax.Array, n: int, length: int) -> jax.Array:
    """Return `length` indices below n: fresh permutations one after the other."""
    keys = jax.random.split(key, -(-length // n))
    return jax.vmap(lambda k: jax.random.permutation(k, n))(keys).reshape(-1)[:length]


def balanced_rows(key: jax.Array, labels: jax.Array, length: int) -> jax.Array:
    """Draw rows int32 [length] with replacement: a class that occurs, then one of its examples.

    Probabilities of single examples, summed in float32, would be off by percents.
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
    key, num_source: int, num_target: int, batch_size: int, sampling=ONE_PASS, labels=None
) -> Plan:
    """Choose the examples of S batches: "source", "target" int32 [S, B] and "mask" bool [S, B].

    An epoch as long as one pass over the source is that pass: every example once, the last batch
    padded, where the mask is False. Longer ones repeat the source, reshuffled; shorter ones take a
    random part; neither has padding, nor has a balanced one. The target repeats or is cut likewise;
    `num_target` is 0 without one. `labels` int [num_source] may be traced.
    """
    steps = steps_per_epoch(num_source, num_target, batch_size, sampling.epoch)
    length = steps * batch_size
    one, two = jax.random.split(key)
    mask = jnp.ones(length, bool)
    if sampling.balanced:
        order = balanced_rows(one, labels, length)
    elif 0 <= length - num_source < batch_size:  # a single pass
        shuffled = jax.random.permutation(one, num_source)
        order = jnp.zeros(length, jnp.int32).at[:num_source].set(shuffled)
        mask = jnp.arange(length) < num_source
    else:
        order = _shuffled(one, num_source, length)
    target = _shuffled(two, num_target, length) if num_target else jnp.zeros(length, jnp.int32)
    parts = {"source": order, "mask": mask, "target": target}
    return {name: part.reshape(steps, batch_size) for name, part in parts.items()}


def process_rows(batch_size: int, process: tuple[int, int]) -> slice:
    """Return the part of a batch that process p of n loads; ConfigError if n does not divide it.

    >>> process_rows(8, (1, 2))
    slice(4, 8, None)
    """
    index, count = process
    if batch_size % count:
        nearest = max(1, round(batch_size / count)) * count
        fault = f"batch_size={batch_size} cannot be shared evenly by {count} processes"
        raise ConfigError(f"{fault}; take {nearest}.")
    share = batch_size // count
    return slice(index * share, (index + 1) * share)
