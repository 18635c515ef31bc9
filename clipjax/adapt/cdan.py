"""Conditional adversarial domain adaptation, CDAN and CDAN+E (Long et al. 2018, arXiv 1705.10667).

The discriminator sees the multilinear map of features f and class probabilities g, all products
f_i g_j (equation 5), so that it compares classes, not domains as a whole. It stands behind the
gradient reversal layer, as in `clipjax.adapt.dann`. CDAN+E weighs examples by 1 + exp(-H(g))
(equation 8). No gradient flows through g and the weights, and these have the mean 1 in each domain.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.discriminator import domain_loss
from clipjax.adapt.grl import Schedule, grl, lambda_schedule
from clipjax.adapt.losses import class_loss
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone
from clipjax.adapt.pair import Domain, certainty, clean, see_both
from clipjax.adapt.reversal import with_reversal
from clipjax.adapt.step import Loss

PyTree = Any
_RANDOM = "random_map"  # its matrices among the own parameters


def multilinear(
    features: jax.Array, shares: jax.Array, random_map: PyTree | None = None
) -> jax.Array:
    """The products of features [N, F] and probabilities [N, K], [N, F * K].

    `random_map`, {"features": [F, D], "shares": [K, D]}, gives the randomised map of equation 6
    instead, (f R_f) * (g R_g) / sqrt(D), [N, D].

    >>> import jax.numpy as jnp
    >>> multilinear(jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 0.5]])).tolist()
    [[0.5, 0.5, 1.0, 1.0]]
    """
    if random_map is None:
        return (features[:, :, None] * shares[:, None, :]).reshape(len(features), -1)
    width = random_map["features"].shape[1]
    return (features @ random_map["features"]) * (shares @ random_map["shares"]) / width**0.5


def _reweighed(domain: Domain) -> dict[str, jax.Array]:
    """The part of a batch with its weights, of each source domain too, times `certainty`."""
    part, found = domain.part, {}
    sure = certainty(domain.shares, domain.weight)
    for key in ("weight", "domain_weight"):
        if key == "weight" or key in part:
            weight = part.get(key, domain.weight)
            weight = weight * (sure if weight.ndim == 1 else sure[:, None])
            mean = weight.mean(axis=0)  # 1 but for single source domains
            found[key] = weight / jnp.where(mean > 0, mean, 1.0)
    return part | found


def make_loss(
    model: DannModel,
    *,
    schedule: str | Schedule = "ganin",
    lam_max: float = 1.0,
    start: float = 0.0,
    entropy: bool = True,
    domain_weight: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss plus the conditional domain loss, its gradient reversed for the features.

    Args:
      schedule, lam_max, start: of the reversal's strength, as `lambda_schedule`.
      entropy: CDAN+E; False is CDAN.
      domain_weight: factor on the mean of both domains' losses.
      label_smoothing: of the class loss.
      joined: as `clipjax.adapt.pair.see_both`.

    `model.discriminate` takes what `multilinear` gives, the randomised map if the parameters hold
    one. ValueError: a negative weight, and as `lambda_schedule`.
    """
    if domain_weight < 0:
        raise ValueError(f"domain_weight is {domain_weight}; it must not be negative.")
    if isinstance(schedule, str):
        schedule = lambda_schedule(schedule, lam_max=lam_max, start=start)

    def loss(params, batch, rng, progress):
        both = see_both(model, params, batch, rng, joined=joined)
        value, metrics = class_loss(both[0].logits, both[0].part, label_smoothing)
        lam = schedule(progress)

        def discriminate(domain: Domain):
            shares = jax.lax.stop_gradient(clean(domain.shares, domain.weight))
            features = clean(domain.features, domain.weight)
            joint = multilinear(features, shares, params.get(_RANDOM))
            return model.discriminate(params, grl(joint, lam))

        parts = [_reweighed(domain) if entropy else domain.part for domain in both]
        found, more = domain_loss([discriminate(domain) for domain in both], *parts)
        metrics |= more | {"lam": jnp.asarray(lam, jnp.float32)}
        return value + domain_weight * found, metrics

    return loss


def _widened(
    head: Head, rng: jax.Array, model: DannModel, classes: Classes, randomized: int
) -> PyTree:
    """A head's parameters whose discriminator takes the multilinear map."""
    params, keys = head.init(rng), jax.random.split(jax.random.fold_in(rng, 1), 3)
    names, width = len(classes.names), jnp.shape(classes.weights)[-1]
    features = jax.eval_shape(
        lambda p, x: model.features(p, x, None), params, jnp.zeros((1, width))
    )
    inputs = features.shape[-1] * names
    if randomized:
        sizes = {"features": features.shape[-1], "shares": names}
        draw = lambda key, size: jax.random.normal(key, (size, randomized))
        made = {k: draw(key, n) for (k, n), key in zip(sizes.items(), keys[1:], strict=True)}
        params, inputs = params | {_RANDOM: made}, randomized
    first = params["discriminator"]["layer_0"]
    kernel = jax.nn.initializers.lecun_normal()(keys[0], (inputs, first["kernel"].shape[1]))
    wide = {**params["discriminator"], "layer_0": {**first, "kernel": kernel}}
    return {**params, "discriminator": wide}


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    schedules: Mapping[str, Schedule] | None = None,
    joined: bool | None = None,
    randomized: int = 0,
    **options: Any,
) -> Method:
    """CDAN+E on a backbone; `options` are those of `make_loss`.

    `randomized` is the width of the randomised map, for many features and classes (the paper takes
    1024 where their product is above 4096); 0 takes all products.

    ValueError: a head without a discriminator, and as `make_loss`.
    """
    if not head.domains:
        raise ValueError("it needs heads.discriminator, the widths of a domain head.")
    made = with_reversal(
        backbone,
        head,
        functools.partial(make_loss, on_backbone(backbone, head)),
        schedules,
        joined,
        options,
        per_example=not options.get("entropy", True),
        constants=(_RANDOM,) if randomized else (),
    )
    return made._replace(init=lambda rng: _widened(head, rng, head.model, classes, int(randomized)))
