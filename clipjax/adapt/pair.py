"""Class loss on the source plus a term that compares both domains: the frame of many methods."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import class_loss, weigh
from clipjax.adapt.method import Backbone, DannModel, Head, Method, on_backbone, with_head
from clipjax.adapt.step import Loss

PyTree = Any


class Domain(NamedTuple):
    """What a model makes of one domain of a batch."""

    part: dict[str, jax.Array]  # of the batch: "inputs", "weight", ...
    features: jax.Array  # [N, F]
    logits: jax.Array  # [N, K], of an ensemble [M, N, K]

    @property
    def weight(self) -> jax.Array:
        """Weights [N] of a mean over the real examples."""
        return self.part.get("weight", jnp.ones(len(self.features), jnp.float32))

    @property
    def shares(self) -> jax.Array:
        """Class probabilities [N, K], of an ensemble the mean over its members."""
        return mean_members(jax.nn.softmax(self.logits.astype(jnp.float32), axis=-1))


def mean_members(values: jax.Array) -> jax.Array:
    """The mean over a leading axis of ensemble members, where there is one: [N, K]."""
    return values.mean(axis=0) if values.ndim == 3 else values


def see_both(
    model: DannModel, params: PyTree, batch: PyTree, rng: jax.Array | None, *, joined: bool = False
) -> tuple[Domain, Domain]:
    """Source and target of a batch through features and classifier.

    Args:
      batch: {"source": {"inputs", "label", "mask"?}, "target": {"inputs", "mask"?}}.
      rng: for `model.features` (dropout, augmentation), split between the domains.
      joined: run both as one batch: faster, equal up to rounding, other random draws.

    ValueError: a domain is missing or empty.
    """
    batch = weigh(batch)
    source = check_domain(batch, "source", "inputs", "label")
    target = check_domain(batch, "target", "inputs")
    keys = (None, None) if rng is None else jax.random.split(rng)
    if joined:
        inputs = jnp.concatenate([source["inputs"], target["inputs"]])
        features = model.features(params, inputs, keys[0])
        logits, at = model.classify(params, features), len(source["inputs"])
        return (
            Domain(source, features[:at], logits[..., :at, :]),
            Domain(target, features[at:], logits[..., at:, :]),
        )
    seen = []
    for part, key in zip((source, target), keys, strict=True):
        features = model.features(params, part["inputs"], key)
        seen.append(Domain(part, features, model.classify(params, features)))
    return tuple(seen)


def with_term(
    model: DannModel,
    name: str,
    term: Callable[[Domain, Domain], jax.Array],
    *,
    weight: float,
    label_smoothing: float,
    joined: bool,
    described: Callable[[Domain, Domain], dict[str, jax.Array]] = lambda source, target: {},
) -> Loss:
    """The class loss on the source plus `weight` times `term(source, target)`, logged as `name`.

    `described` gives further metrics. ValueError: a negative weight.
    """
    if weight < 0:
        raise ValueError(f"weight is {weight}; it must not be negative.")

    def loss(params, batch, rng, progress):
        source, target = see_both(model, params, batch, rng, joined=joined)
        value, metrics = class_loss(source.logits, source.part, label_smoothing)
        found = term(source, target)
        return value + weight * found, metrics | {name: found} | described(source, target)

    return loss


def paired_method(
    backbone: Backbone,
    head: Head,
    make_loss: Callable[..., Loss],
    *,
    joined: bool | None = None,
    per_example: bool = False,
    on_features: bool = False,
    **options: Any,
) -> Method:
    """A method on a head that reads both domains; `options` are those of `make_loss`.

    By default the domains are `joined` where embeddings are cached, as in `clipjax.adapt.dann`.
    `per_example` and `on_features` are those of `Method`.
    """
    joined = "image" in backbone.cached if joined is None else joined
    loss = make_loss(on_backbone(backbone, head), joined=joined, **options)
    more = {"per_example": per_example, "on_features": on_features}
    return with_head(backbone, head, loss, reads=("source", "target"), **more)


def clean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Values [N, ...] with zeros where the weight [N] is 0, whatever they hold there."""
    return jnp.where(weight.reshape(-1, *[1] * (values.ndim - 1)) != 0, values, 0)


def entropies(shares: jax.Array) -> jax.Array:
    """Entropy [N] of probabilities [N, K] in nats; its gradient is finite at 0."""
    return -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)), axis=-1)


def certainty(shares: jax.Array, weight: jax.Array) -> jax.Array:
    """Weights 1 + exp(-entropy) [N] with mean 1 over the real examples, without a gradient.

    Long et al. 2018 (arXiv 1705.10667, section 3.3) and Jin et al. 2020 (arXiv 1912.03699,
    equation 4): what is answered for sure counts up to twice as much.
    """
    found = 1.0 + jnp.exp(-entropies(jax.lax.stop_gradient(clean(shares, weight))))
    mean = jnp.mean(found * weight)
    return found / jnp.where(mean > 0, mean, 1.0)
