"""Maximum classifier discrepancy (Saito et al. 2018, arXiv 1712.02560): two heads that disagree.

On the target d = E mean_k |p1_k - p2_k| (equation 9), p1 and p2 the answers of two heads on the
same features. The heads fit the source and make d large, so that they find target images far from
the source; the features make it small. The paper takes turns at this; here both happen in one step
behind a gradient reversal layer, as in the authors' code's `one_step`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.grl import Schedule, grl, lambda_schedule
from clipjax.adapt.losses import class_loss, weighted_mean
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone
from clipjax.adapt.pair import clean, see_both
from clipjax.adapt.reversal import with_reversal
from clipjax.adapt.step import Loss

HEADS = 2


def discrepancy(logits: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean distance of two heads' class probabilities, of logits [2, N, K]; float32 [].

    `weight` float [N] is 0 on padding. ValueError: not two heads.

    >>> import jax.numpy as jnp
    >>> round(float(discrepancy(jnp.array([[[99.0, 0.0]], [[0.0, 99.0]]]))), 6)
    1.0
    """
    if logits.ndim != 3 or len(logits) != HEADS:
        raise ValueError(f"logits of shape {logits.shape}; two heads give [2, N, K].")
    weight = jnp.ones(logits.shape[1], jnp.float32) if weight is None else weight
    one, two = jax.nn.softmax(jax.vmap(clean, (0, None))(logits, weight).astype(jnp.float32))
    return weighted_mean(jnp.mean(jnp.abs(one - two), axis=-1), weight)


def make_loss(
    model: DannModel,
    *,
    schedule: str | Schedule = "constant",
    lam_max: float = 1.0,
    start: float = 0.0,
    weight: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss of both heads less `weight` times the target's `discrepancy`.

    For the features the sign is reversed, and the strength that of `lambda_schedule`, which
    `schedule`, `lam_max` and `start` shape. `joined` as `clipjax.adapt.pair.see_both`.

    ValueError: a negative weight, and as `lambda_schedule`.
    """
    if weight < 0:
        raise ValueError(f"weight is {weight}; it must not be negative.")
    if isinstance(schedule, str):
        schedule = lambda_schedule(schedule, lam_max=lam_max, start=start)

    def loss(params, batch, rng, progress):
        source, target = see_both(model, params, batch, rng, joined=joined)
        value, metrics = class_loss(source.logits, source.part, label_smoothing)
        lam = schedule(progress)
        reversed_logits = model.classify(params, grl(target.features, lam))
        apart = discrepancy(reversed_logits, target.weight)
        metrics |= {"discrepancy": apart, "lam": jnp.asarray(lam, jnp.float32)}
        return value - weight * apart, metrics

    return loss


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    schedules: Mapping[str, Schedule] | None = None,
    joined: bool | None = None,
    **options: Any,
) -> Method:
    """MCD on a backbone; `options` are those of `make_loss`.

    ValueError: not two heads, and as `make_loss`.
    """
    if head.answers != HEADS:
        raise ValueError(f"it compares two class heads, not {head.answers}; give heads.members=2.")
    loss_of = functools.partial(make_loss, on_backbone(backbone, head))
    options = {"schedule": "constant"} | options
    return with_reversal(backbone, head, loss_of, schedules, joined, options)
