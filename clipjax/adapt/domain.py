"""Domino's domain embedding: which described domain an image looks like, read off by CLIP."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

CONTROLS = ("none", "constant", "shuffled", "oracle")


class Domain(NamedTuple):
    """What CLIP says of the domains of images."""

    weights: jax.Array  # alpha, float32 [B, D], sum to 1
    embedding: jax.Array  # W, float32 [B, P]


def domain_embedding(
    images: jax.Array, descriptions: jax.Array, scale: float | jax.Array = 1.0
) -> Domain:
    """Compute alpha = softmax(scale * cos(image, d)) and W = sum of alpha_d d (Kaplan et al. 2024).

    Args:
      images: float32 [B, P], of length 1, of the whole image.
      descriptions: float32 [D, P], of length 1, CLIP's embeddings of texts such as "a photo at
        night", in the space that images share.
      scale: factor on the cosines. The paper has none (1), which makes alpha nearly uniform and W
        nearly constant; CLIP's own is its logit scale.

    >>> seen = domain_embedding(jnp.array([[1.0, 0.0]]), jnp.eye(2), 100.0)
    >>> seen.weights.round(3).tolist(), seen.embedding.round(3).tolist()
    ([[1.0, 0.0]], [[1.0, 0.0]])
    """
    weights = jax.nn.softmax(scale * images @ descriptions.T)
    return Domain(weights, weights @ descriptions)


def controlled(
    domain: Domain,
    descriptions: jax.Array,
    control: str,
    rng: jax.Array | None = None,
    truth: jax.Array | None = None,
    real: jax.Array | None = None,
) -> jax.Array:
    """Return W of a control, float32 [B, P], which has no knowledge of the image, or all of it.

    Args:
      domain: of `domain_embedding`.
      descriptions: as there.
      control: "none": W itself. "constant": the mean of the descriptions. "shuffled": W of another
        image of the batch, by `rng`. "oracle": the description of the true domain, `truth` int [B].
      real: bool [B], False on padding, whose W "shuffled" gives to no image; None: all are images.
        A single image has no other to take W from, and keeps its own.

    Raises:
      ValueError: an unknown control, or one that lacks its `rng` or `truth`.
    """
    if control == "none":
        return domain.embedding
    if control == "constant":
        return jnp.broadcast_to(descriptions.mean(axis=0), domain.embedding.shape)
    if control == "shuffled" and rng is not None:
        return domain.embedding[_derangement(rng, len(domain.embedding), real)]
    if control == "oracle" and truth is not None:
        return descriptions[truth]
    lacks = {"shuffled": "needs an rng", "oracle": "needs the true domains"}
    told = lacks.get(control, f"is unknown; known: {', '.join(CONTROLS)}")
    raise ValueError(f"control {control!r} {told}.")


def _derangement(rng: jax.Array, count: int, real: jax.Array | None) -> jax.Array:
    """Draw an order of `count` in which no real one keeps its place (if there are two or more).

    Real ones change places among themselves; the others stay.
    """
    order = jax.random.permutation(rng, count)
    real = jnp.ones(count, bool) if real is None else real
    order, place = order[jnp.argsort(~real[order], stable=True)], jnp.arange(count)  # real first
    size = real.sum()
    before = jnp.where(place < size, (place - 1) % jnp.maximum(size, 1), place)
    return jnp.zeros(count, int).at[order].set(order[before])


def readout(domain: Domain, truth: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Compute the share of images whose likeliest description is the true one, float32 []."""
    right = (domain.weights.argmax(axis=-1) == truth).astype(jnp.float32)
    mask = jnp.ones_like(right) if mask is None else mask.astype(jnp.float32)
    return (right * mask).sum() / jnp.maximum(mask.sum(), 1)


def entropy(domain: Domain) -> jax.Array:
    """Compute the mean entropy of alpha in nats; log D where it is uniform."""
    return -(domain.weights * jnp.log(jnp.maximum(domain.weights, 1e-30))).sum(axis=-1).mean()
