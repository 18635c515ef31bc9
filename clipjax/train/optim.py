"""Learning-rate schedules, and the optimizer over layer groups."""

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


def make_schedule(
    name: str,
    lr: float,
    total_steps: int,
    *,
    warmup: float = 0.0,
    step_every: float = 1 / 3,
    gamma: float = 0.1,
) -> Callable[[Any], Any]:
    """A learning-rate schedule, a function of the optimizer's step.

    The rate changes with every step. Recipes that change it once an epoch agree at the start of
    each; "step" agrees everywhere if its plateaus are whole epochs (`step_every` = 2 / 6: 2 of 6
    epochs).

    Args:
      name: "constant"; "cosine" to zero (Loshchilov & Hutter 2017); "step" (torch's StepLR).
      lr: the peak learning rate.
      total_steps: of the whole run.
      warmup: fraction of the run in which it first rises linearly from zero (transformers' and
        optax's convention; the first update is zero). The others count from there.
      step_every: for "step", the length of a plateau as a fraction of the run.
      gamma: for "step", the factor between plateaus.
    """
    warm, plateau = round(warmup * total_steps), max(1, round(step_every * total_steps))
    known = {
        "constant": lambda: optax.constant_schedule(lr),
        "cosine": lambda: optax.cosine_decay_schedule(lr, max(1, total_steps - warm)),
        "step": lambda: optax.exponential_decay(lr, plateau, gamma, staircase=True),
    }
    if name not in known:
        raise ValueError(f"unknown optim.schedule {name!r}; known: {', '.join(known)}.")
    main = known[name]()
    if not warm:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warm), main], [warm])


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
    """How gradients become updates."""

    name: str = "adamw"  # or "sgd", with Nesterov momentum
    b2: float = 0.999  # AdamW's decay of squared gradients
    momentum: float = 0.9  # of SGD

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
    """`optax.multi_transform` over layer groups, with zero updates for frozen ones.

    It takes the whole tree as well as the trainable part that `clipjax.adapt.step` differentiates.
    Only trainable gradients are clipped; vectors (biases, norms, single embeddings) do not decay.

    Args:
      schedule: learning rate as a function of the steps made since `start`.
      freeze: patterns of layer groups or of single parameters (see `clipjax.train.groups.matches`).
      lr_mults: (pattern, factor on the learning rate) pairs; the first match counts.
      weight_decay: of AdamW, decoupled from the gradient and multiplied by the rate; of SGD, added
        to the (clipped) gradient before momentum. Both are torch's conventions.
      clip_norm: global norm to clip trainable gradients to; 0 for no clipping.
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
    clip = clip_by_global_norm(clip_norm) if clip_norm else optax.identity()

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
