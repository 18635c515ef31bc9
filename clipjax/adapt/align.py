"""Features aligned by statistics: each domain through an affine map of its own, before any loss.

The maps come from the unlabelled training features of both domains, once. An encoder sees a style
as an offset and a spread of its features; taking them away is worth more than most losses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Classes, ClosedForm, Method

PyTree = Any
KINDS = ("none", "centre", "standardise", "coral")
OWN = "align"  # the name of the maps among a method's own parameters
_FLAT = 1e-6  # a spread below which a feature is a constant, for features of length 1


class Moments(NamedTuple):
    """Mean and covariance of features."""

    mean: jax.Array  # float32 [P]
    cov: jax.Array  # float32 [P, P], the mean of products


def moments(x: jax.Array) -> Moments:
    """Mean [P] and covariance [P, P] (divided by N) of features [N, P], in float32.

    >>> import jax.numpy as jnp
    >>> [m.tolist() for m in moments(jnp.array([[0.0, 1.0], [2.0, 1.0]]))]
    [[1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]]]
    """
    x = x.astype(jnp.float32)
    mean = x.mean(axis=0)
    away = x - mean
    return Moments(mean, jnp.matmul(away.T, away, precision="highest") / len(x))


def domain_statistics(data: PyTree) -> dict[str, Moments]:
    """`moments` of each domain of {"source": {"inputs" [N, P]}, "target": {"inputs"}}."""
    return {domain: moments(data[domain]["inputs"]) for domain in ("source", "target")}


def shrunk(cov: jax.Array, shrink: float = 1e-2) -> jax.Array:
    """A covariance [P, P] plus `shrink` times its mean variance on the diagonal.

    With fewer examples than features, or features that never vary, it can be inverted then.
    """
    return cov + shrink * jnp.trace(cov) / len(cov) * jnp.eye(len(cov), dtype=cov.dtype)


def power(cov: jax.Array, exponent: float) -> jax.Array:
    """A symmetric positive matrix [P, P] to a power; directions without variance stay without."""
    values, vectors = jnp.linalg.eigh(cov)
    floor = 1e-7 * jnp.maximum(values[-1], 1e-30)
    raised = jnp.where(values > floor, jnp.maximum(values, floor) ** exponent, 0.0)
    return jnp.matmul(vectors * raised, vectors.T, precision="highest")


def coral_map(source_cov: jax.Array, target_cov: jax.Array, shrink: float = 1e-2) -> jax.Array:
    """The matrix [P, P] that gives centred source features the covariance of the target.

    C_s^-1/2 C_t^1/2, the source whitened and coloured as the target, with C = `shrunk`(cov): CORAL
    (Sun, Feng & Saenko 2016, arXiv 1511.05547, algorithm 1, there with the identity added).
    """
    whiten, colour = power(shrunk(source_cov, shrink), -0.5), power(shrunk(target_cov, shrink), 0.5)
    return jnp.matmul(whiten, colour, precision="highest")


def spread(variance: jax.Array) -> jax.Array:
    """Standard deviations [P] to divide by; 1 where a feature is a constant."""
    deviation = jnp.sqrt(jnp.maximum(variance, _FLAT**2))
    return jnp.where(deviation > _FLAT, deviation, 1.0)


def domain_maps(data: PyTree, kind: str, shrink: float = 1e-2) -> PyTree:
    """The affine maps of both domains, {"source": {"mean", "map"}, "target": {"mean", "map"}}.

    `apply_map` takes x to (x - mean) map, where "map" is [P, P], or [P] of factors. With m and sd
    of each domain:

    - "centre": x - m.
    - "standardise": (x - m) / sd.
    - "coral": source (x - m_s) `coral_map`, target x - m_t, both divided by the standard deviations
      of the mapped source.

    Args:
      data: {"source": {"inputs" float [N, P]}, "target": {"inputs" float [M, P]}}; labels are not
        read.
      shrink: of "coral", as `shrunk`.

    ValueError: an unknown kind.
    """
    if kind == "coral":
        found = domain_statistics(data)
        matrix = coral_map(found["source"].cov, found["target"].cov, shrink)
        mapped = jnp.matmul(found["source"].cov, matrix, precision="highest")
        factor = 1.0 / spread(jnp.sum(matrix * mapped, axis=0))
        return {
            "source": {"mean": found["source"].mean, "map": matrix * factor},
            "target": {"mean": found["target"].mean, "map": factor},
        }
    if kind not in ("centre", "standardise"):
        raise ValueError(f"unknown alignment {kind!r}; known: {', '.join(KINDS)}.")

    def own(inputs):
        x = inputs.astype(jnp.float32)
        mean, ones = x.mean(axis=0), jnp.ones(x.shape[1], jnp.float32)
        factor = ones if kind == "centre" else 1.0 / spread(jnp.mean((x - mean) ** 2, axis=0))
        return {"mean": mean, "map": factor}

    return {domain: own(data[domain]["inputs"]) for domain in ("source", "target")}


def apply_map(affine: PyTree, x: jax.Array) -> jax.Array:
    """Features [N, P] through a map of `domain_maps`."""
    away = x - affine["mean"]
    return away @ affine["map"] if affine["map"].ndim == 2 else away * affine["map"]


def align_batch(maps: PyTree, batch: PyTree) -> PyTree:
    """A batch, or training features, with the inputs of each part through its domain's map.

    "support" is of the source; labels, weights and zero-shot logits stay.
    """
    domain_of = {"source": "source", "support": "source", "target": "target"}
    moved = lambda part, x: x | {"inputs": apply_map(maps[domain_of[part]], x["inputs"])}
    return {part: moved(part, x) if part in domain_of else x for part, x in batch.items()}


def aligned(made: Method | ClosedForm, kind: str) -> Method | ClosedForm:
    """A method over cached embeddings whose source and target go through `domain_maps` first.

    Its loss, `start`, `fit` and `diagnose` see aligned inputs. What it is asked to predict goes
    through the target's map, wherever it comes from: it is the model deployed on the target. So
    results on the source and on other domains are those of that model, and what it computes of the
    inputs itself (texts against embeddings) is of aligned ones; zero-shot logits of the batch stay.
    The maps are constants, "align" of its own parameters.
    """
    reads = tuple(dict.fromkeys((*made.reads, "target")))
    to_target = lambda params, inputs: apply_map(params[OWN]["target"], inputs)
    predict = lambda params, inputs, texts: made.predict(params, to_target(params, inputs), texts)
    if isinstance(made, ClosedForm):

        def fit(data, texts):
            maps = domain_maps(data, kind)
            fitted = made.fit(align_batch(maps, data), texts)
            return {variant: {**params, OWN: maps} for variant, params in fitted.items()}

        return made._replace(fit=fit, predict=predict, reads=reads)
    return _aligned_method(made, kind, to_target)._replace(predict=predict, reads=reads)


def _aligned_method(made: Method, kind: str, to_target: Callable) -> Method:
    """`aligned` of a method that trains, but for what both kinds have."""

    def start(data, classes: Classes, own):
        maps = domain_maps(data, kind)
        more = own if made.start is None else made.start(align_batch(maps, data), classes, own)
        return {**more, OWN: maps}

    def loss(params, batch, rng, progress):
        return made.loss(params, align_batch(params[OWN], weigh(batch)), rng, progress)

    def features(params, inputs, rng=None):
        moved = to_target(params, inputs)
        return moved if made.features is None else made.features(params, moved, rng)

    def members(params, inputs, texts):
        return made.members(params, to_target(params, inputs), texts)

    def diagnose(params, batch, numbers):
        return made.diagnose(params, align_batch(params[OWN], batch), numbers)

    return made._replace(
        loss=loss,
        start=start,
        features=features,
        members=made.members and members,
        diagnose=made.diagnose and diagnose,
        constants=(*made.constants, OWN),
    )
