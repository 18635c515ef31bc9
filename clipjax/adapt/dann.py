"""Domain-adversarial training of neural networks (Ganin et al. 2016, arXiv 1505.07818).

Bring three pure functions and an optimizer; nothing here needs CLIP or Flax.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.adapt.checks import check_domain, check_keys, check_rows, check_strength
from clipjax.adapt.discriminator import domain_loss, gradient_penalty, spectrally_normed
from clipjax.adapt.grl import Schedule, grl, lambda_schedule
from clipjax.adapt.losses import Axis, class_loss, weigh
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone
from clipjax.adapt.reversal import with_reversal
from clipjax.adapt.step import Loss, TrainState, check_state, update

PyTree = Any
# What parts of a batch may hold; "zero_shot" is for other methods, and not read here.
_KEYS = ("inputs", "label", "mask", "weight", "domain", "domain_weight", "zero_shot")


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
    penalty: float = 0.0,
    axis_name: Axis = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Class loss on the source plus domain loss behind the gradient reversal layer.

    Ganin et al. 2016, equation 18, with one mean per domain. `lam` multiplies only the reversed
    gradient, so the discriminator always learns at full rate; `domain_weight` multiplies the loss.

    Args:
      model: features, classifier and discriminator.
      params: of all three.
      batch: {"source": {"inputs", "label" int [B], "mask"? bool [B], "domain"? float [B, S]},
        "target": {"inputs", "mask"?}}; inputs may be trees of arrays. Domain labels are source 0,
        target 1; of S source domains "domain" is the one-hot rows, and the others are 2, 3, ...
        Masked rows may hold anything.
      lam: strength of the reversal, scalar.
      rng: for `model.features` (dropout, augmentation), split between the domains.
      domain_weight: factor on the mean of both domains' losses; 2 gives the sum of the paper's
        equation 9. The number 0 leaves out the domain loss and does not read the target.
      label_smoothing: of the class loss.
      joined: run both domains as one batch: faster, equal up to rounding, other random draws.
      penalty: gamma of `gradient_penalty`, half of which times the penalty joins the domain loss.
      axis_name: of a mapped axis; all results are then shares (`clipjax.adapt.losses`).

    Returns:
      (loss, metrics): class_loss, source_accuracy; with the domain loss also domain_loss,
      domain_accuracy_source, domain_accuracy_target, lam, and gradient_penalty if there is one.

    Raises:
      ValueError: a domain is missing or empty, a key is unknown, or labels, features or the
        discriminator's logits do not fit the examples. Traced labels outside 0..K-1 make loss,
        source_accuracy and gradients NaN instead.
    """
    source_only = isinstance(domain_weight, (int, float)) and domain_weight == 0
    check_strength(lam)
    batch = weigh(batch, axis_name)
    source = check_domain(batch, "source", "inputs", "label")
    target = None if source_only else check_domain(batch, "target", "inputs")
    for name, part in (("source", source), ("target", target or {})):
        check_keys(part, name, _KEYS)
    keys = (None, None) if rng is None else jax.random.split(rng)
    size, joined = _size(source), joined and not source_only
    inputs = _joined(source["inputs"], target["inputs"]) if joined else source["inputs"]
    rows = size + _size(target) if joined else size
    features = check_rows(model.features(params, inputs, keys[0]), rows, "model.features")
    loss, metrics = class_loss(model.classify(params, features[:size]), source, label_smoothing)
    if source_only:
        return loss, metrics

    def discriminate(features):
        logits = model.discriminate(params, grl(features, lam))
        return check_rows(logits, len(features), "model.discriminate")

    if joined:
        both = jnp.split(features, [size])
        domain_logits = jnp.split(discriminate(features), [size])
    else:
        both = features, _features_of_target(model, params, source, target, keys[1])
        domain_logits = [discriminate(one) for one in both]
    apart, more = domain_loss(domain_logits, source, target)
    metrics |= more | {"lam": jnp.asarray(lam, jnp.float32)}
    if isinstance(penalty, (int, float)) and penalty == 0:
        return loss + domain_weight * apart, metrics
    slope = gradient_penalty(lambda f: model.discriminate(params, f), both, source, target)
    apart = apart + penalty / 2 * slope
    return loss + domain_weight * apart, metrics | {"gradient_penalty": slope}


def _size(part: Mapping[str, Any]) -> int:
    """Return the number of a part's examples."""
    return len(jax.tree.leaves(part["inputs"])[0])


def _shapes(inputs: PyTree) -> str:
    """Return the shapes of an array, or of a tree of them, as text."""
    shapes = jax.tree.map(lambda x: f"[{', '.join(map(str, x.shape))}]", inputs)
    return shapes if isinstance(shapes, str) else str(shapes)


def _unlike(source: PyTree, target: PyTree) -> ValueError:
    return ValueError(
        f"batch['source']['inputs'] has the shape {_shapes(source)} and batch['target']['inputs'] "
        f"{_shapes(target)}; all but the first axis must be the same."
    )


def _joined(source: PyTree, target: PyTree) -> PyTree:
    """Concatenate the inputs of both domains; ValueError: their examples differ in shape."""
    try:
        return jax.tree.map(lambda *x: jnp.concatenate(x), source, target)
    except (TypeError, ValueError) as error:
        raise _unlike(source, target) from error


def _features_of_target(
    model: DannModel, params: PyTree, source: Mapping, target: Mapping, rng: jax.Array | None
) -> jax.Array:
    """Return the target's features [B, F]; ValueError: these inputs have a shape of their own."""
    try:
        found = model.features(params, target["inputs"], rng)
    except (TypeError, ValueError) as error:
        pair = source["inputs"], target["inputs"]
        one, other = (jax.tree.map(lambda x: x.shape[1:], each) for each in pair)
        if one == other:
            raise  # it fits the source's: the fault is the function's own
        raise _unlike(*pair) from error
    return check_rows(found, _size(target), "model.features")


def gradient_ratio(
    model: DannModel,
    params: PyTree,
    batch: dict[str, dict[str, jax.Array]],
    lam: jax.Array | float,
    *,
    domain_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Norm of the reversed gradient over that of the class loss, at the features; float32 [].

    Well below 1 the domains are left alone, far above 1 the classes are. Arguments as `dann_loss`.
    """
    batch = weigh(batch)
    source = check_domain(batch, "source", "inputs", "label")
    target = check_domain(batch, "target", "inputs")
    seen = [model.features(params, part["inputs"], None) for part in (source, target)]
    classes = lambda f: class_loss(model.classify(params, f[0]), source, label_smoothing)[0]
    logits = lambda f: [model.discriminate(params, x) for x in f]
    domains = lambda f: domain_loss(logits(f), source, target)[0]
    size = lambda loss: optax.global_norm(jax.grad(loss)(seen))
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
    penalty: float = 0.0,
    axis_name: Axis = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One DANN update: pure, so jit, pmap, scan and vmap it as you like.

    Args: as `dann_loss`, and
      state: from `init_state(params, optimizer)`.
      lam: strength of the reversal at this step, as `lambda_schedule()(step / total_steps)`.
      optimizer: any optax transformation.
      frozen: bool tree shaped like the parameters, as given to `init_state`; True leaves cost no
        backward pass.
      axis_name: of the axis that `jax.pmap` or `jax.shard_map` maps (or a tuple of mesh axes), each
        device with its part of the batch: all make the update of the whole batch.

    Returns:
      (new state, metrics of `dann_loss` plus loss and grad_norm).

    Raises:
      ValueError: a state that is none, and as `dann_loss`.
    """
    options = {"domain_weight": domain_weight, "label_smoothing": label_smoothing}
    options |= {"joined": joined, "penalty": penalty}
    check_state(state)

    def loss(params, rng):
        return dann_loss(model, params, batch, lam, rng=rng, axis_name=axis_name, **options)

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
    penalty: float = 0.0,
) -> Loss:
    """`dann_loss` with lambda by the run's progress, as `lambda_schedule`, or any function of it.

    ValueError: a negative `lam_max`, `domain_weight` or `penalty`, or an unknown schedule.
    """
    for name, value in (("domain_weight", domain_weight), ("penalty", penalty)):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must not be negative.")
    if domain_weight == 0 and penalty:
        raise ValueError(f"penalty is {penalty}, of a domain loss that domain_weight=0 leaves out.")
    if isinstance(schedule, str):
        schedule = lambda_schedule(schedule, lam_max=lam_max, gamma=gamma, start=start)
    options = {"domain_weight": domain_weight, "label_smoothing": label_smoothing}
    options |= {"joined": joined, "penalty": penalty}

    def loss(params, batch, rng, progress):
        return dann_loss(model, params, batch, schedule(progress), rng=rng, **options)

    return loss


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    schedules: Mapping[str, Schedule] | None = None,
    joined: bool | None = None,
    spectral: bool = False,
    **options: Any,
) -> Method:
    """Domain-adversarial training on a backbone; `options` are those of `make_loss`.

    By default the domains are `joined` where embeddings are cached, which is faster; from pixels
    the halves take less memory. `schedules["lam"]` replaces the schedule that the options name.
    `spectral`: the discriminator is `spectrally_normed`.

    ValueError: a head without a discriminator, `spectral` without a domain loss, and as
    `make_loss`.
    """
    if not head.domains:
        raise ValueError("it needs heads.discriminator, the widths of a domain head.")
    model, weight = on_backbone(backbone, head), options.get("domain_weight", 1.0)
    alone = isinstance(weight, (int, float)) and weight == 0
    if spectral and alone:
        raise ValueError("spectral is of a domain loss that domain_weight=0 leaves out.")
    model = spectrally_normed(model) if spectral else model

    def diagnose(params, batch, numbers):
        kept = {k: numbers[k] for k in ("domain_weight", "label_smoothing") if k in numbers}
        return {"grad_ratio": gradient_ratio(model, params, batch, 1.0, **kept)}

    loss_of = functools.partial(make_loss, model)
    diagnose = None if alone else diagnose
    return with_reversal(backbone, head, loss_of, schedules, joined, options, diagnose=diagnose)
