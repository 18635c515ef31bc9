"""Label-free scores of a method's answers to validation images, and distances of domains."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.features.cache import Features
from clipjax.evaluate import scores, select
from clipjax.evaluate.choice import Candidate
from clipjax.evaluate.metrics import accuracy
from clipjax.model.clip import normalize
from clipjax.study.plan import FEWEST_FOR_DISTANCE

MOST = 2000  # images of scores that compare all pairs, or that hold all candidates' answers


def known(value) -> float | None:
    """Round; None of what has no value: a ratio to a gradient of 0, the density of one image."""
    return round(float(value), 6) if np.isfinite(value) else None


@jax.jit
def label_free(source, labels: jax.Array, target) -> dict[str, jax.Array]:
    """Score a candidate by its logits of validation images, [N, K] with labels, and [M, K]."""
    some = _some(target)
    return {
        "negative_entropy": select.negative_entropy(target),
        "information_maximization": select.information_maximization(target),
        "soft_neighbourhood_density": select.soft_neighbourhood_density(some),
        "mano": scores.mano(target),
        "nuclear_norm": scores.nuclear_norm(some),
        "atc": scores.thresholded_confidence(source, labels, target),
        "doc": scores.confidence_difference(source, labels, target),
        "effective_classes": scores.effective_classes(target),
    }


def mixval(predict: Callable, features: jax.Array) -> jax.Array:
    """Return the mean of both kinds of mixed consistency; mixtures get length 1, as embeddings."""
    some = jnp.asarray(_some(features))
    order = np.random.default_rng(0).permutation(len(some))
    return jnp.mean(scores.mixed_consistency(lambda x: predict(normalize(x)), some, order))


def _some(examples):
    """Return at most `MOST` examples, evenly taken: a part may be sorted by class."""
    return examples[:: max(1, -(-len(examples) // MOST))]


def scored(
    predict: Callable, source: tuple[Features, np.ndarray], target: tuple[Features, np.ndarray]
) -> tuple[dict, np.ndarray]:
    """Score one seed by each domain's (validation images, logits); return some of the target's."""
    (part, logits), (seen, answers) = source, target
    logits, labels = jnp.asarray(logits), jnp.asarray(part.labels)
    found = jax.device_get(label_free(logits, labels, jnp.asarray(answers)))
    more = {"source_val": accuracy(logits, labels), "mixval": mixval(predict, seen.features)}
    return {k: known(v) for k, v in (found | more).items()}, np.asarray(_some(answers), np.float32)


def candidate(seeds: Sequence[tuple[dict, np.ndarray]]) -> Candidate:
    """Put the `scored` of all seeds side by side."""
    found = {name: [each[name] for each, _ in seeds] for name in seeds[0][0]}
    return Candidate(np.stack([logits for _, logits in seeds]), found)


def distance(source, target) -> float | None:
    """Return the proxy A-distance of features; None where too few, or not finite, to tell."""
    source, target = np.asarray(source), np.asarray(target)
    enough = min(len(source), len(target)) >= FEWEST_FOR_DISTANCE
    if not (enough and np.isfinite(source).all() and np.isfinite(target).all()):
        return None
    return round(select.proxy_a_distance(source, target), 4)


def distances(pairs: Sequence[tuple]) -> list[float | None]:
    """Return the `distance` of each pair, measured once of the same: heads without an adapter.

    >>> x = np.zeros((1, 2))
    >>> distances([(x, x), (x, x)])
    [None, None]
    """
    found: list[float | None] = []
    for place, pair in enumerate(pairs):
        alike = (k for k in range(place) if all(map(np.array_equal, pairs[k], pair)))
        before = next(alike, None)
        found.append(distance(*pair) if before is None else found[before])
    return found
