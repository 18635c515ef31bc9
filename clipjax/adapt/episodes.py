"""What methods that learn from episodes have in common: batches as tasks, a kept support set."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import class_loss
from clipjax.adapt.method import Backbone, Classes, Method, check_classes

PyTree = Any
NEVER = 1e3  # how far below all others the logit of a class lies of which nothing is kept
MEMORY = "memory"  # the name of the kept support set among a method's own parameters


class Sizes(Protocol):
    """Sizes of episodes, as `clipjax.study.training.Episodes` has them."""

    way: int
    shot: int
    query: int
    tasks: int


def as_tasks(x: jax.Array, tasks: int, way: int) -> jax.Array:
    """Rows [tasks * way * n, ...], class after class, as [tasks, way, n, ...]."""
    return x.reshape(tasks, way, -1, *x.shape[1:])


def check_sets(batch: PyTree, sizes: Sizes) -> None:
    """Raise ValueError for a batch that is not of these episodes."""
    for part, each in (("support", sizes.shot), ("source", sizes.query)):
        rows = len(check_domain(batch, part, "inputs")["inputs"])
        need = sizes.tasks * sizes.way * each
        if rows != need:
            raise ValueError(
                f"batch[{part!r}] has {rows} rows; episodes of {sizes.tasks} x {sizes.way} classes "
                f"x {each} have {need}, class after class."
            )


def query_loss(logits: jax.Array, smoothing: float = 0.0) -> tuple[jax.Array, dict]:
    """(loss, metrics) of the logits [tasks, way * query, way] of queries, class after class."""
    tasks, rows, way = logits.shape
    label = jnp.tile(jnp.repeat(jnp.arange(way), rows // way), tasks)
    return class_loss(logits.reshape(-1, way), {"label": label}, smoothing)


def keep_support(data: PyTree, classes: int, size: int) -> PyTree:
    """The first `size` source examples of each class: {"inputs" [K, size, P], "weight" [K, size]}.

    Classes with fewer are padded, where the weight is 0. Shapes do not depend on the data.
    """
    x, label = (data["source"][key] for key in ("inputs", "label"))
    order = jnp.argsort(label, stable=True)
    ends = jnp.searchsorted(label[order], jnp.arange(classes + 1))
    place = ends[:-1, None] + jnp.arange(size)
    real = place < ends[1:, None]
    rows = order[jnp.minimum(place, len(label) - 1)]
    inputs = jnp.where(real[..., None], x[rows].astype(jnp.float32), 0)
    return {"inputs": inputs, "weight": real.astype(jnp.float32)}


def check_memory_size(size: int) -> None:
    """Raise ValueError for a support set without examples."""
    if size != int(size) or size < 1:
        raise ValueError(f"memory is {size}; give a whole number of images a class, at least 1.")


def episodic(
    backbone: Backbone, classes: Classes, memory: int, *, answer: Callable, **made: Any
) -> Method:
    """A method that trains by episodes, and answers for all classes by kept source examples.

    A class of which none is kept, as none is in the source, is never an answer.

    Args:
      memory: examples of each class that are kept, of the encoder as it came.
      answer: (params, support, inputs, weight) -> logits of a task (`Method.episode`).
      made: other fields of the method: `init`, `loss`, ...
    """

    def predict(params, inputs, texts):
        check_classes(classes, texts)
        kept, seen = params[MEMORY], backbone.encode["image"](params, inputs)
        logits = answer(params, kept["inputs"], seen, kept["weight"])
        there = jnp.sum(kept["weight"], axis=1) > 0
        return jnp.where(there, logits, jnp.min(logits, axis=1, keepdims=True) - NEVER)

    def start(data, texts, own):
        return own | {MEMORY: keep_support(data, len(texts.names), memory)}

    return Method(
        predict=predict,
        start=start,
        reads=("source", "support"),
        constants=(MEMORY,),
        episode=answer,
        per_example=False,
        **made,
    )
