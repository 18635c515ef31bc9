"""MAML and ANIL on heads: parameters from which a few gradient steps on a few examples go far.

Finn et al. 2017 (arXiv 1703.03400): own parameters take `steps` steps of gradient descent on a
task's support set, and what is trained is their start, by the loss of the task's queries. ANIL
(Raghu et al. 2020, arXiv 1909.09157) lets the class head alone adapt. All are on embeddings.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.episodes import (
    Sizes,
    as_tasks,
    check_memory_size,
    check_sets,
    episodic,
    query_loss,
)
from clipjax.adapt.linear import linear_head, linear_logits
from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import Backbone, Classes, Head, Method

PyTree = Any
INNER = ("classifier", "all")


def inner_steps(
    loss: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    steps: int,
    rate: float,
    first_order: bool = False,
) -> PyTree:
    """Parameters after `steps` steps of gradient descent on `loss`, differentiable in the start.

    The backward pass computes each step again (`jax.checkpoint`), so that memory grows by one copy
    of the parameters a step. `first_order` takes the gradients of the steps as constants, as
    `stop_grad` of the authors' code does, not the parameters.

    >>> theta = jnp.float32(2.0)
    >>> outer = lambda theta, first: inner_steps(
    ...     lambda t: t**4 / 4, theta, steps=1, rate=0.1, first_order=first) ** 2 / 2
    >>> [round(float(jax.grad(outer)(theta, first)), 4) for first in (True, False)]
    [1.2, -0.24]
    """

    @jax.checkpoint
    def step(at, _):
        gradient = jax.grad(loss)(at)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return jax.tree.map(lambda x, slope: x - rate * slope, at, gradient), None

    return jax.lax.scan(step, params, None, length=steps)[0]


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    episodes: Sizes,
    inner: str = "classifier",
    steps: int = 5,
    rate: float = 0.1,
    first_order: bool = False,
    memory: int = 16,
) -> Method:
    """Episodes on a head: its adapter, and a linear class head of `way` outputs.

    Class j of a task of N classes starts from output j mod `way`: other tasks may have more classes
    or fewer. Asked for all classes, it adapts to `memory` source examples of each, which the
    encoder as it came has seen.

    Args:
      inner: what adapts to a task: "classifier" (ANIL), or "all", the adapter too (MAML).
      steps: of a task, in training and in tests.
      rate: of these steps; the method is sensitive to it.
      first_order: no second derivatives (section 5.2 of the paper): less memory and time.

    ValueError: an unknown `inner`, steps or memory below 1, a rate that is not positive, a class
    head with hidden layers, members or texts.
    """
    _check(inner, steps, rate)
    check_memory_size(memory)
    way = episodes.way

    def init(rng):
        own = {key: value for key, value in head.init(rng).items() if key != "discriminator"}
        layer = own["classifier"]["layer_0"]
        bias = layer.get("bias", jnp.zeros(layer["kernel"].shape[1]))
        return own | linear_head(layer["kernel"][:, :way], bias[:way])

    _check_linear(jax.eval_shape(head.init, jax.random.key(0)))

    def outputs(own, count):  # of a task's classes
        layer, columns = own["classifier"]["layer_0"], jnp.arange(count) % way
        return own | linear_head(layer["kernel"][:, columns], layer["bias"][columns])

    def logits(own, inputs, rng):
        return linear_logits(own, head.model.features(own, inputs, rng))

    def answer(params, support, inputs, weight=None, rng=None):  # of embeddings
        count, shots, width = support.shape
        label = jnp.repeat(jnp.arange(count), shots)
        if weight is not None:  # a mean over the real examples
            real = (weight.reshape(-1) > 0).astype(jnp.float32)
            weight = real / jnp.maximum(jnp.mean(real), 1e-12)
        own = {key: params[key] for key in ("adapter", "classifier") if key in params}
        own, rows = outputs(own, count), support.reshape(-1, width)
        keys = (None, None) if rng is None else jax.random.split(rng)
        moving = own if inner == "all" else {"classifier": own["classifier"]}
        fixed = {key: value for key, value in own.items() if key not in moving}

        def task_loss(moving):
            found = logits(fixed | moving, rows, keys[0])
            return smoothed_cross_entropy(found, label, weight=weight)

        moved = inner_steps(task_loss, moving, steps=int(steps), rate=rate, first_order=first_order)
        return logits(fixed | moved, inputs, keys[1])

    def loss(params, batch, rng, progress):
        check_sets(batch, episodes)
        look, drop = (None, None) if rng is None else jax.random.split(rng)
        rows = [batch[part]["inputs"] for part in ("support", "source")]
        seen = backbone.encode["image"](params, jnp.concatenate(rows), look)
        support = as_tasks(seen[: len(rows[0])], episodes.tasks, way)
        query = seen[len(rows[0]) :].reshape(episodes.tasks, -1, seen.shape[-1])
        keys = None if drop is None else jax.random.split(drop, episodes.tasks)
        task = lambda s, q, key: answer(params, s, q, rng=key)
        return query_loss(jax.vmap(task, (0, 0, None if keys is None else 0))(support, query, keys))

    return episodic(backbone, classes, int(memory), init=init, loss=loss, answer=answer)


def _check(inner: str, steps: int, rate: float) -> None:
    """Raise ValueError for options that no task can be learned by."""
    if inner not in INNER:
        raise ValueError(f"inner is {inner!r}; known: {', '.join(INNER)}.")
    if steps != int(steps) or steps < 1:
        raise ValueError(f"steps is {steps}; give a whole number, at least 1.")
    if rate <= 0:
        raise ValueError(f"rate is {rate}; give a step size above 0.")


def _check_linear(shapes: PyTree) -> None:
    """Raise ValueError unless heads of these shapes have one layer, of one member."""
    own = shapes.get("classifier", {})
    if list(own) != ["layer_0"] or len(own["layer_0"]["kernel"].shape) != 2:
        raise ValueError("the class head must be linear: no heads.classifier, members or text.")
