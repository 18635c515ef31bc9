"""Weighted cross-entropy of pixels, in the three normalisations that are in use."""

import jax
import jax.numpy as jnp

IGNORED = 255  # the label of pixels that count nowhere
NORMALISERS = ("weights", "labelled", "pixels")


def pixel_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array | None = None,
    normaliser: str = "weights",
    mask: jax.Array | None = None,
    divisor: jax.Array | None = None,
) -> jax.Array:
    """Compute -sum of w[label] log p[label] over labelled pixels, divided; float32 [].

    Args:
      logits: float [B, H, W, K].
      labels: whole numbers [B, H, W] (uint8 will do), from 0 to K - 1, or `IGNORED`.
      class_weights: float32 [K]; None: 1 each.
      normaliser: what the sum is divided by. "weights": the weights of the labelled pixels (torch).
        "labelled": their number (mmseg with `avg_non_ignore`). "pixels": the number of all pixels,
        ignored ones too (mmseg without).
      mask: bool [B], False for rows that are padding; they count nowhere.
      divisor: float32 [], what the sum is divided by instead, of an image (`image_divisor`).

    Where nothing is labelled it is 0, and so are its gradients. ValueError: an unknown normaliser.

    >>> logits = jnp.zeros((1, 1, 2, 4))
    >>> labels = jnp.array([[[3, IGNORED]]], jnp.uint8)
    >>> how = ("weights", "pixels")
    >>> [round(pixel_cross_entropy(logits, labels, normaliser=h).item(), 4) for h in how]
    [1.3863, 0.6931]
    """
    classes = logits.shape[-1]
    known, labelled, weight, own = _weights(labels, classes, class_weights, normaliser, mask)
    # A row that is padding may hold NaN, and 255 is no class.
    logits = jnp.where(labelled[..., None], logits.astype(jnp.float32), 0.0)
    one = known[..., None] == jnp.arange(classes)  # a sum of all is faster than a gather on CPU
    chosen = jnp.where(one, jax.nn.log_softmax(logits), 0.0).sum(axis=-1)
    # One sum: that of labels alone is known so early that a device would wait for it in the others.
    sums = jnp.stack([x.sum(axis=(1, 2)) for x in (weight * chosen, own)])
    total, own = sums.sum(axis=1)
    whole = own if divisor is None else divisor * len(labels)
    return -total / jnp.where(whole > 0, whole, 1)


def image_divisor(
    labels: jax.Array,
    classes: int,
    class_weights: jax.Array | None = None,
    normaliser: str = "weights",
    mask: jax.Array | None = None,
) -> jax.Array:
    """Compute what the images of a batch divide its sum by on average, float32 [].

    Microbatches of one size whose losses take it have the whole batch's loss as their mean, however
    unevenly labels and padding lie. Arguments as of `pixel_cross_entropy`.
    """
    return _weights(labels, classes, class_weights, normaliser, mask)[-1].sum() / len(labels)


def _weights(labels, classes, class_weights, normaliser, mask):
    """Return labels without `IGNORED`, which count, their weights, and what is divided by."""
    if normaliser not in NORMALISERS:
        known = ", ".join(NORMALISERS)
        raise ValueError(f"normaliser {normaliser!r} is unknown; known: {known}.")
    labels = labels.astype(jnp.int32)
    real = jnp.ones(len(labels), bool) if mask is None else mask
    real = jnp.broadcast_to(real[:, None, None], labels.shape)
    labelled = (labels != IGNORED) & real
    known = jnp.where(labelled, labels, 0)
    weights = jnp.ones(classes) if class_weights is None else jnp.asarray(class_weights)
    weight = jnp.where(labelled, weights[known], 0.0)
    divisor = {"weights": weight, "labelled": labelled, "pixels": real}[normaliser]
    return known, labelled, weight, divisor * 1.0
