"""Learning-rate schedules, and the optimizer over layer groups.

Freezing is expressed through `optax.multi_transform`; the train step also leaves frozen parameters
out of the gradient (see `clipjax.adapt.step.partition`), which is what makes them free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.train.groups import FROZEN, Name, PyTree, is_frozen, matches, name_tree, path_name


def _decays(params: PyTree) -> PyTree:
    """Bool tree: matrices decay; biases and scales do not, however many members they are of."""

    def decays(path, leaf):
        return leaf.ndim > 1 and path_name(path).split("/")[-1] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def make_schedule(
    name: str,
    lr: float,
    total_steps: int,
    *,
    warmup: float = 0.0,
    step_every: float = 1 / 3,
    gamma: float = 0.1,
) -> Callable[[Any], Any]:
    """A learning-rate schedule over `total_steps`, a function of the optimizer's step.

    The rate changes with every step, as in torch when a scheduler is stepped after every optimizer
    step. Recipes that step it once an epoch agree at the start of each epoch; "step" agrees
    everywhere if its plateaus are whole epochs (`step_every` = 2 / 6 for every 2 of 6 epochs).

    Args:
      name: "constant"; "cosine" to zero (Loshchilov & Hutter 2017); "step": times `gamma` after
        every `step_every` of the run (torch's StepLR).
      lr: the peak learning rate.
      total_steps: steps of the whole run.
      warmup: fraction of the run spent rising linearly from zero, before the main schedule starts
        (transformers' and optax's convention; the first update is zero). "cosine" has the rest of
        the run, "step" counts its plateaus from the end of the warm-up.
      step_every: for "step", the length of a plateau as a fraction of the run.
      gamma: for "step", the factor between plateaus.
    """
    warm = round(warmup * total_steps)
    if name == "constant":
        main = optax.constant_schedule(lr)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(lr, max(1, total_steps - warm))
    elif name == "step":
        every = max(1, round(step_every * total_steps))
        main = optax.exponential_decay(lr, every, gamma, staircase=True)
    else:
        raise ValueError(f"unknown optim.schedule {name!r}; known: constant, cosine, step.")
    if not warm:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warm), main], [warm])


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by one number, so that their global norm is at most `max_norm`.

    Pascanu et al. 2013 (arXiv 1211.5063), algorithm 1. optax's own divides every element by the
    norm and multiplies it then, for which XLA's CPU backend goes through all of them once more.
    A norm that is not finite gives gradients that are not.

    >>> import jax.numpy as jnp
    >>> clip = clip_by_global_norm(1.0)
    >>> grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> clipped, _ = clip.update(grads, clip.init(grads))
    >>> [round(float(x[0]), 6) for x in clipped.values()]
    [0.6, 0.8]
    """

    def scale(updates, params):
        del params
        norm = optax.global_norm(updates)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(scale)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How gradients become updates.

    Attributes:
      name: "adamw", or "sgd" with Nesterov momentum.
      b2: AdamW's decay of squared gradients.
      momentum: of SGD.
    """

    name: str = "adamw"
    b2: float = 0.999
    momentum: float = 0.9

    def make(self, rate: Callable[[Any], Any], weight_decay: float) -> optax.GradientTransformation:
        """The rule at a learning rate that is a function of its own count of steps."""
        if self.name == "adamw":
            return optax.adamw(rate, b2=self.b2, weight_decay=weight_decay, mask=_decays)
        if self.name != "sgd":
            raise ValueError(f"unknown optim.name {self.name!r}; known: adamw, sgd.")
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=_decays),
            optax.sgd(rate, momentum=self.momentum, nesterov=True),
        )


def make_optimizer(
    schedule: Callable[[Any], Any],
    rule: Rule = Rule(),
    *,
    freeze: Sequence[str] = (),
    lr_mults: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    start: int = 0,
    since: Callable[[Name], int] = lambda name: 0,
) -> optax.GradientTransformation:
    """The optimizer: `optax.multi_transform` over layer groups, frozen ones set to zero.

    Labels are computed from whatever tree is passed in, so the whole tree and the trainable part
    that `clipjax.adapt.step` differentiates both work. Clipping sees trainable gradients only, and
    weight decay leaves out vectors (biases, norms, embeddings of one token), as is usual.

    Args:
      schedule: learning rate as a function of the steps made since `start`.
      rule: AdamW or SGD.
      freeze: patterns of layer groups or of single parameters (see `clipjax.train.groups.matches`).
      lr_mults: (pattern, factor on the learning rate) pairs; first match wins.
      weight_decay: of AdamW, decoupled from the gradient and multiplied by the rate; of SGD, added
        to the (clipped) gradient before momentum. Both are torch's conventions.
      clip_norm: global norm to clip trainable gradients to; 0 switches clipping off.
      start: the step at which this optimizer takes over (the start of a phase).
      since: parameter -> the step from which it has been training without a break. Those of equal
        age share Adam's step count, so that one thawed late gets its own bias correction and an
        older one's state can be carried over as it is (`clipjax.train.phases.carry_over`).

    Raises:
      ValueError: an unknown rule, or a factor that is not above 0.
    """
    mults = tuple(lr_mults.items() if isinstance(lr_mults, Mapping) else lr_mults)
    for pattern, factor in mults:
        if factor <= 0:
            raise ValueError(f"lr_mults of {pattern!r} is {factor}; use freeze to stop a group.")
    rule.make(schedule, weight_decay)  # refuses an unknown one

    def label(name: Name) -> str:
        return FROZEN if is_frozen(name, freeze) else f"since {since(name)}"

    def inner(label: str) -> optax.GradientTransformation:
        # Counts start with the group, the schedule with the phase.
        begun = int(label.removeprefix("since "))
        return rule.make(lambda count: schedule(count - (start - begun)), weight_decay)

    def labels(params):
        return jax.tree.map(label, name_tree(params))

    return _grouped(labels, inner, mults, clip_norm)


def _grouped(
    labels: Callable[[PyTree], PyTree],
    inner: Callable[[str], optax.GradientTransformation],
    mults: tuple[tuple[str, float], ...],
    clip_norm: float,
) -> optax.GradientTransformation:
    """Clipping, then what `inner` gives for each label, then factors on the learning rate."""

    def scale(updates, params):
        del params
        factor = lambda name: next((f for p, f in mults if matches(p, name)), 1.0)
        return jax.tree.map(lambda name, u: factor(name) * u, name_tree(updates), updates)

    def make(params):
        found = set(jax.tree.leaves(labels(params))) - {FROZEN}
        groups = {label: inner(label) for label in found} | {FROZEN: optax.set_to_zero()}
        trainable = lambda tree: jax.tree.map(lambda x: x != FROZEN, labels(tree))
        clip = clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
        # Factors come last and hold no state: a phase may change them, and clipping, and every
        # group's state still lies where the phase before left it.
        return optax.chain(
            optax.masked(clip, trainable),
            optax.multi_transform(groups, labels),
            optax.stateless(scale),
        )

    return optax.GradientTransformation(
        lambda params: make(params).init(params),
        lambda updates, state, params=None: make(updates).update(updates, state, params),
    )
