"""The optimizer over layer groups."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.train.groups import FROZEN, Name, PyTree, is_frozen, matches, name_tree, path_name


def _decays(params: PyTree) -> PyTree:
    """Bool tree: matrices decay; biases and scales do not, even of several members."""
    vector = lambda path: path_name(path).split("/")[-1] in ("bias", "scale")
    decays = lambda path, leaf: leaf.ndim > 1 and not vector(path)
    return jax.tree_util.tree_map_with_path(decays, params)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale all gradients by one factor, so that their global norm is at most `max_norm`.

    Pascanu et al. 2013 (arXiv 1211.5063), algorithm 1; non-finite norms give non-finite gradients.
    optax's own divides and multiplies every element, which XLA's CPU backend does in two passes.

    >>> import jax.numpy as jnp
    >>> clip = clip_by_global_norm(1.0)
    >>> grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    >>> clipped, _ = clip.update(grads, clip.init(grads))
    >>> [round(float(x[0]), 6) for x in clipped.values()]
    [0.6, 0.8]
    """

    def scale(updates, params):
        norm = optax.global_norm(updates)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(scale)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How gradients become updates; torch's of these names."""

    name: str = "adamw"  # or "adam", whose decay is part of the gradient, or "sgd"
    b1: float = 0.9  # Adam's decay of gradients
    b2: float = 0.999  # Adam's decay of squared gradients
    eps: float = 1e-8  # added to the root of the latter
    momentum: float = 0.9  # of SGD
    nesterov: bool = True  # of SGD
    decay: str = "matrices"  # what weight decay is of; or "all", vectors too

    def make(self, rate: Callable[[Any], Any], weight_decay: float) -> optax.GradientTransformation:
        """The rule at a learning rate that is a function of its own count of steps.

        ValueError: an unknown name or `decay`.
        """
        masks = {"matrices": _decays, "all": None}
        if self.decay not in masks:
            raise ValueError(f"unknown optim.decay {self.decay!r}; known: {', '.join(masks)}.")
        mask, adam = masks[self.decay], {"b1": self.b1, "b2": self.b2, "eps": self.eps}
        coupled = optax.add_decayed_weights(weight_decay, mask=mask)
        known = {
            "adamw": lambda: optax.adamw(rate, **adam, weight_decay=weight_decay, mask=mask),
            "adam": lambda: optax.chain(coupled, optax.adam(rate, **adam)),
            "sgd": lambda: optax.chain(
                coupled, optax.sgd(rate, momentum=self.momentum, nesterov=self.nesterov)
            ),
        }
        if self.name not in known:
            raise ValueError(f"unknown optim.name {self.name!r}; known: {', '.join(known)}.")
        return known[self.name]()


def make_optimizer(
    schedule: Callable[[Any], Any],
    rule: Rule = Rule(),
    *,
    freeze: Sequence[str] = (),
    lr_mults: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    clip_value: float = 0.0,
    start: int = 0,
    since: Callable[[Name], int] = lambda name: 0,
) -> optax.GradientTransformation:
    """`optax.multi_transform` over layer groups, with zero updates for frozen ones.

    It takes the whole tree as well as the trainable part that `clipjax.adapt.step` differentiates.
    Only trainable gradients are clipped; vectors (biases, norms, single embeddings) do not decay
    unless the rule says so.

    Args:
      schedule: learning rate as a function of the steps made since `start`.
      freeze: patterns of layer groups or of single parameters (see `clipjax.train.groups.matches`).
      lr_mults: (pattern, factor on the learning rate) pairs; the first match counts.
      weight_decay: of AdamW, decoupled from the gradient and multiplied by the rate; of Adam and
        SGD, added to the (clipped) gradient before moments. All are torch's conventions.
      clip_norm: global norm to clip trainable gradients to; 0 for no clipping.
      clip_value: largest size of a single gradient (torch's clip_grad_value_), before `clip_norm`;
        0 for no clipping.
      start: the step at which this optimizer takes over (the start of a phase).
      since: parameter -> the step since which it has trained without a break. Parameters of equal
        age share Adam's step count: those thawed late get their own bias correction, and the state
        of older ones can be carried over (`clipjax.train.phases.carry_over`).

    ValueError: an unknown rule, or a factor that is not above 0.
    """
    mults = tuple(lr_mults.items() if isinstance(lr_mults, Mapping) else lr_mults)
    for pattern, factor in mults:
        if factor <= 0:
            raise ValueError(f"lr_mults of {pattern!r} is {factor}; use freeze to stop a group.")
    rule.make(schedule, weight_decay)  # refuses an unknown one
    label = lambda name: FROZEN if is_frozen(name, freeze) else f"since {since(name)}"
    labels = lambda tree: jax.tree.map(label, name_tree(tree))
    trainable = lambda tree: jax.tree.map(lambda x: x != FROZEN, labels(tree))
    clip = optax.chain(
        optax.clip(clip_value) if clip_value else optax.identity(),
        clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    )

    def inner(label: str) -> optax.GradientTransformation:
        # Counts start with the group, the schedule with the phase.
        begun = int(label.removeprefix("since "))
        return rule.make(lambda count: schedule(count - (start - begun)), weight_decay)

    def scale(updates, params):
        factor = lambda name: next((f for p, f in mults if matches(p, name)), 1.0)
        return jax.tree.map(lambda name, u: factor(name) * u, name_tree(updates), updates)

    def make(params):
        found = set(jax.tree.leaves(labels(params))) - {FROZEN}
        groups = {label: inner(label) for label in found} | {FROZEN: optax.set_to_zero()}
        # Factors come last and hold no state: a phase may change them, and clipping, and every
        # group's state still lies where the phase before left it.
        grouped = optax.multi_transform(groups, labels)
        return optax.chain(optax.masked(clip, trainable), grouped, optax.stateless(scale))

    init = lambda params: make(params).init(params)
    update = lambda updates, state, params=None: make(updates).update(updates, state, params)
    return optax.GradientTransformation(init, update)
