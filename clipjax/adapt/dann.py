"""Domain-adversarial training of neural networks (Ganin et al. 2016, arXiv 1505.07818).

Bring three pure functions and an optimizer; nothing here needs CLIP or Flax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.adapt.checks import check_domain
from clipjax.adapt.grl import Schedule, grl, lambda_schedule
from clipjax.adapt.losses import (
    Axis,
    domain_cross_entropy,
    label_accuracy,
    smoothed_cross_entropy,
    weigh,
)
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone, with_head
from clipjax.adapt.step import Loss, TrainState, update
from clipjax.adapt.varying import alike

PyTree = Any


def dann_loss(
    model: DannModel,
    params: PyTree,
    batch: dict[str, dict[str, jax.Array]],
    lam: jax.Array | float,
    *,
    rng: jax.Array | None = None,
    domain_weight: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
    axis_name: Axis = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Class loss on the source plus domain loss behind the gradient reversal layer.

    Ganin et al. 2016, equation 18, with one mean per domain. `lam` multiplies only the reversed
    gradient, so the discriminator always learns at full rate; `domain_weight` multiplies the loss.

    Args:
      model: the three parts.
      params: parameters of all of them.
      batch: {"source": {"inputs", "label" int [B], "mask"? bool [B], "domain"? float [B, S]},
        "target": {"inputs", "mask"?}}; domain labels are source 0, target 1, and of S source
        domains, of which "domain" has a 1 for each example's own, the others 2, 3, ... Rows that a
        mask leaves out may hold anything. Weights (`clipjax.adapt.losses.weigh`) may stand in for
        it.
      lam: strength of the reversal, scalar.
      rng: passed to `model.features` (dropout, augmentation), split between the domains.
      domain_weight: factor on the domain loss, which is the mean of the two domains' as in common
        implementations; the paper's equation 9 adds them up, which is a weight of 2. The number 0
        leaves the domain loss out, and the target unread.
      label_smoothing: of the class loss.
      joined: take both domains through the networks as one batch: fewer, larger products, and the
        same values up to rounding. Random draws of `model.features` are others.
      axis_name: of a mapped axis; all results are then shares (`clipjax.adapt.losses`).

    Returns:
      (loss, metrics): class_loss, source_accuracy; and unless the domain loss is left out
      domain_loss, domain_accuracy_source, domain_accuracy_target, lam.

    Raises:
      ValueError: a domain is missing or empty, labels do not fit the logits, or the discriminator
        gives neither one logit nor one for each domain. Labels outside 0..K-1 whose values are
        traced make loss, source_accuracy and gradients NaN instead.
    """
    target_unread = isinstance(domain_weight, (int, float)) and domain_weight == 0
    batch = weigh(batch, axis_name)
    source = check_domain(batch, "source", "inputs", "label")
    target = None if target_unread else check_domain(batch, "target", "inputs")
    keys = (None, None) if rng is None else jax.random.split(rng)
    joined = joined and not target_unread
    inputs = source["inputs"]
    if joined:
        inputs = jnp.concatenate([inputs, target["inputs"]])
    features = model.features(params, inputs, keys[0])
    of_source = features[: len(source["inputs"])]
    logits, weight = model.classify(params, of_source), source.get("weight")
    class_loss = smoothed_cross_entropy(logits, source["label"], label_smoothing, weight)
    metrics = {
        "class_loss": class_loss,
        "source_accuracy": label_accuracy(logits, source["label"], weight),
    }
    if target_unread:
        return class_loss, metrics  # half the work
    discriminate = lambda f: model.discriminate(params, grl(f, lam))  # noqa: E731
    if joined:
        domain_logits = jnp.split(discriminate(features), [len(of_source)])
    else:
        of_target = model.features(params, target["inputs"], keys[1])
        domain_logits = [discriminate(of_source), discriminate(of_target)]
    domain_loss, domain_accuracy = _domain_loss(domain_logits, source, target)
    metrics |= {
        "domain_loss": domain_loss,
        "domain_accuracy_source": domain_accuracy[0],
        "domain_accuracy_target": domain_accuracy[1],
        "lam": jnp.asarray(lam, jnp.float32),
    }
    return class_loss + domain_weight * domain_loss, metrics


def _domain_loss(logits: list[jax.Array], source: PyTree, target: PyTree):
    """The domain loss of source and target logits; of several source domains, a mean over each.

    Domain labels are 0 for the (first) source, 1 for the target, 2 and more for further sources.
    """
    weights, (of_source, of_target) = source.get("domain_weight"), logits
    if weights is None:
        return domain_cross_entropy(logits, [source.get("weight"), target.get("weight")])
    first, *others = weights.T
    found, accuracy = domain_cross_entropy(
        [of_source, of_target, *[of_source] * len(others)],
        [first, target.get("weight"), *others],
    )
    return found, [jnp.mean(jnp.stack([accuracy[0], *accuracy[2:]])), accuracy[1]]


def gradient_ratio(
    model: DannModel,
    params: PyTree,
    batch: dict[str, dict[str, jax.Array]],
    lam: jax.Array | float,
    *,
    domain_weight: float = 1.0,
    label_smoothing: float = 0.0,
    axis_name: Axis = None,
) -> jax.Array:
    """How hard the two losses pull at the features: norm of the reversed gradient over the class's.

    Both gradients are taken at the output of `model.features`, where they meet. Well below 1 the
    domains are left alone, far above 1 the classes are.

    Args: as `dann_loss`; with `axis_name` the ratio is that of the whole batch, on every device.

    Returns:
      float32 []; 0 where lambda is 0.
    """
    batch = weigh(batch, axis_name)
    source = check_domain(batch, "source", "inputs", "label")
    target = check_domain(batch, "target", "inputs")
    weights = [part.get(key) for part in (source, target) for key in ("weight", "domain_weight")]
    seen = [model.features(params, part["inputs"], None) for part in (source, target)]
    seen = list(alike(*seen, params, source["label"], *weights)[:2])

    def classes(f):
        logits = model.classify(params, f[0])
        return smoothed_cross_entropy(logits, source["label"], label_smoothing, weights[0])

    def domains(f):
        return _domain_loss([model.discriminate(params, x) for x in f], source, target)[0]

    def size(loss):
        norm = optax.global_norm(jax.grad(loss)(seen))
        return norm if axis_name is None else jnp.sqrt(jax.lax.psum(norm**2, axis_name))

    return size(domains) * lam * domain_weight / jnp.maximum(size(classes), 1e-12)


def dann_step(
    model: DannModel,
    state: TrainState,
    batch: dict[str, dict[str, jax.Array]],
    lam: jax.Array | float,
    *,
    optimizer: optax.GradientTransformation,
    frozen: PyTree | None = None,
    domain_weight: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
    axis_name: Axis = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One DANN update: pure, so jit, pmap, scan and vmap it as you like.

    Args:
      model: the three parts.
      state: from `init_state(params, optimizer)`.
      batch: see `dann_loss`.
      lam: strength of the reversal at this step, for example `ganin()(step / total_steps)`.
      optimizer: any optax transformation.
      frozen: bool tree shaped like the parameters; True leaves cost no backward pass. Pass the
        same tree to `init_state`.
      domain_weight: factor on the domain loss.
      label_smoothing: of the class loss.
      joined: see `dann_loss`.
      axis_name: of the axis that `jax.pmap` or `jax.shard_map` maps (or a tuple of mesh axes),
        where each device has a part of the batch: the update is that of the whole batch, the same
        on every device.

    Returns:
      (new state, metrics of `dann_loss` plus loss and grad_norm).
    """

    def loss(params, rng):
        return dann_loss(
            model,
            params,
            batch,
            lam,
            rng=rng,
            domain_weight=domain_weight,
            label_smoothing=label_smoothing,
            joined=joined,
            axis_name=axis_name,
        )

    return update(state, loss, optimizer, frozen, axis_name=axis_name)


def make_loss(
    model: DannModel,
    *,
    schedule: str | Schedule = "ganin",
    lam_max: float = 1.0,
    gamma: float = 10.0,
    start: float = 0.0,
    domain_weight: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """DANN as a method: lambda follows the run's progress (see `clipjax.adapt.grl`).

    Raises:
      ValueError: a negative `lam_max` or `domain_weight`, or an unknown schedule.
    """
    if domain_weight < 0:
        raise ValueError(f"domain_weight is {domain_weight}; it must not be negative.")
    if isinstance(schedule, str):
        schedule = lambda_schedule(schedule, lam_max=lam_max, gamma=gamma, start=start)

    def loss(params, batch, rng, progress):
        return dann_loss(
            model,
            params,
            batch,
            schedule(progress),
            rng=rng,
            domain_weight=domain_weight,
            label_smoothing=label_smoothing,
            joined=joined,
        )

    return loss


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    schedules: Mapping[str, Schedule] | None = None,
    schedule: str = "ganin",
    lam_max: float = 1.0,
    gamma: float = 10.0,
    start: float = 0.0,
    domain_weight: float = 1.0,
    joined: bool | None = None,
    **options: Any,
) -> Method:
    """DANN on a backbone; `options` are `make_loss`'s others.

    Joined by default where embeddings are cached, which is faster; from pixels the halves take less
    memory.

    Raises:
      ValueError: a head without a discriminator, and what `make_loss` refuses.
    """
    del classes  # the head's
    if not head.domains:
        raise ValueError("it needs heads.discriminator, the widths of a domain head.")
    lam = (schedules or {}).get("lam") or lambda_schedule(
        schedule, lam_max=lam_max, gamma=gamma, start=start
    )
    joined = "image" in backbone.cached if joined is None else joined
    model, weight = on_backbone(backbone, head), domain_weight

    def diagnose(params, batch, numbers):
        numbers = {"domain_weight": 1.0, "label_smoothing": 0.0} | dict(numbers)
        kept = {key: numbers[key] for key in ("domain_weight", "label_smoothing")}
        return {"grad_ratio": gradient_ratio(model, params, batch, 1.0, **kept)}

    return with_head(
        backbone,
        head,
        make_loss(model, schedule=lam, domain_weight=weight, joined=joined, **options),
        reads=("source", "target"),
        diagnose=None if isinstance(weight, (int, float)) and weight == 0 else diagnose,
        schedules={"lam": lam},
        scheduled=("schedule", "lam_max", "gamma", "start"),
    )
