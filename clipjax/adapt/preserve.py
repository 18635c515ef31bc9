"""Penalties that keep an encoder's geometry: its embeddings and their similarities, as they came.

Fine-tuning also moves embeddings that its loss does not look at, and with them what CLIP knew of
other classes. Two terms hold them to the encoder as it came: the distance of each embedding, and
that of matrices of similarities, which leaves all embeddings free to turn together. NVIDIA's TAO
(tao-pytorch, multimodal/clip/model/preservation_loss.py) has mean squared error and cosine distance
of embeddings, .05 each, and mean squared error of the image-text matrix, .10. The squared distance
of embeddings of length 1 is twice their cosine distance, so there is one term for both.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import weigh, weighted_mean
from clipjax.adapt.method import Backbone, Classes, Method, class_weights
from clipjax.adapt.pair import clean

PyTree = Any
OF, KINDS = ("within", "across"), ("squared", "kl")
EMBEDDING = "embedding"  # of `Method.reads`
_PARTS = ("source", "target")  # of a batch, whose images are held


def embedding_distance(
    now: jax.Array, before: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """Mean squared distance of embeddings [N, P] from what they were, float32 [].

    `before` gets no gradient; `weight` float [N] is of `clipjax.adapt.losses.weigh`.

    >>> float(embedding_distance(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])))
    1.0
    """
    now, before = _both(now, before, weight)
    return weighted_mean(jnp.sum((now - before) ** 2, axis=1), weight)


def matrix_distance(
    now: jax.Array,
    before: jax.Array,
    columns: tuple[jax.Array, jax.Array] | None = None,
    kind: str = "squared",
    scale: jax.Array | float = 1.0,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Distance of two matrices of cosine similarities, float32 []: a mean over their rows.

    Args:
      now, before: embeddings float [N, P], the rows; `before` gets no gradient.
      columns: the same of others, float [M, P] each; by default the rows among themselves, each
        without itself.
      kind: "squared", the mean squared difference (the squared Frobenius norm, over the number of
        pairs), or "kl", KL(before || now) of the rows' softmax(scale * row), in nats.
      scale: of "kl".
      weight: float [N] of `weigh`, of the rows.

    ValueError: an unknown kind.

    >>> before = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> now = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> [round(float(matrix_distance(now, before, kind=kind)), 4) for kind in KINDS]
    [0.6667, 0.2311]
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    now, before = _both(now, before, weight)
    others = (now, before) if columns is None else _both(*columns, None)
    real = jnp.ones(len(now), bool) if weight is None else weight != 0
    there = jnp.broadcast_to(real[:, None], (len(now), len(others[0])))
    if columns is None:
        there = there & real[None] & ~jnp.eye(len(now), dtype=bool)
    products = (
        jnp.matmul(a, b.T, precision="highest") for a, b in zip((now, before), others, strict=True)
    )
    new, old = products
    if kind == "squared":
        count = jnp.maximum(jnp.sum(there, axis=1), 1)
        return weighted_mean(jnp.sum((new - old) ** 2 * there, axis=1) / count, weight)
    some = jnp.any(there, axis=1, keepdims=True)  # a row without others counts as 0

    def logs(similarities):
        logits = jnp.where(there | ~some, scale * similarities, -jnp.inf)
        return jnp.where(there, jax.nn.log_softmax(logits, axis=1), 0.0)

    own, taught = logs(new), jax.lax.stop_gradient(logs(old))
    apart = jnp.where(there, jnp.exp(taught) * (taught - own), 0.0)
    return weighted_mean(jnp.sum(apart, axis=1), weight)


def _both(now, before, weight) -> tuple[jax.Array, jax.Array]:
    """Arrays in float32 with zeros on padding; the second without a gradient."""
    now, before = now.astype(jnp.float32), jax.lax.stop_gradient(before.astype(jnp.float32))
    return (now, before) if weight is None else (clean(now, weight), clean(before, weight))


def preserved(
    made: Method,
    backbone: Backbone,
    classes: Classes,
    towers: tuple[str, ...],
    *,
    embedding: float = 0.0,
    similarity: float = 0.0,
    of: str = "within",
    kind: str = "squared",
) -> Method:
    """A method whose loss also holds what the encoder gives to what it gave as it came.

    Images are held as they are, not cropped: what they were, "embedding" of a batch's parts, was
    encoded once, so no copy of the encoder is in memory. Texts are the classes' prompts, from
    `classes.weights`. Its own loss is computed as without.

    Args:
      towers: of "image" and "text", those that train: theirs are held.
      embedding: factor on `embedding_distance`, the mean over `towers`.
      similarity: factor on `matrix_distance`.
      of: "within", images among images and texts among texts, the mean over `towers`, or "across",
        images and texts.
      kind: of `matrix_distance`, with CLIP's scale as it came.

    ValueError: a negative factor, or an unknown name.
    """
    _check(embedding, similarity, of, kind)
    reads = tuple(dict.fromkeys((*made.reads, EMBEDDING)))
    alone = made.per_example and not (similarity and of == "within")
    made = made._replace(reads=reads, per_example=alone)
    if not towers:
        return made
    looked = tuple(t for t in ("image", "text") if t in towers or of == "across")
    held = _holder(made, backbone, classes, towers, looked)

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        bare = {name: _without(part) for name, part in batch.items()}
        value, metrics = made.loss(params, bare, rng, progress)
        seen = held(params, batch)
        own = [seen[tower] for tower in towers]
        if embedding:
            moved = sum(embedding_distance(*each) for each in own) / len(own)
            value, metrics = value + embedding * moved, metrics | {"embedding_moved": moved}
        if similarity:
            options = {"kind": kind, "scale": classes.scale}
            if of == "across":
                now, before, weight = seen["image"]
                found = [matrix_distance(now, before, seen["text"][:2], weight=weight, **options)]
            else:
                found = [matrix_distance(n, b, weight=w, **options) for n, b, w in own]
            moved = sum(found) / len(found)
            value, metrics = value + similarity * moved, metrics | {"similarity_moved": moved}
        return value, metrics

    return made._replace(loss=loss)


def _check(embedding: float, similarity: float, of: str, kind: str) -> None:
    """Raise ValueError for options of `preserved`."""
    if embedding < 0 or similarity < 0:
        raise ValueError(f"embedding={embedding}, similarity={similarity}; neither is below 0.")
    for name, value, known in (("of", of, OF), ("kind", kind, KINDS)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}.")


def _without(part: Any) -> Any:
    """A part of a batch as the method itself reads it."""
    return {k: x for k, x in part.items() if k != EMBEDDING} if isinstance(part, dict) else part


def _holder(
    made: Method,
    backbone: Backbone,
    classes: Classes,
    towers: tuple[str, ...],
    looked: tuple[str, ...],
) -> Callable[[PyTree, PyTree], dict[str, tuple]]:
    """(params, batch) -> tower -> embeddings now, before, weight or None, of those `looked` at."""
    cached = "image" in backbone.cached
    encode = made.embed or backbone.encode["image"]

    def images(params, batch):
        """Embeddings now and before, and weights, of all images of a batch."""
        found = []
        for part in (batch[name] for name in _PARTS if EMBEDDING in batch.get(name, ())):
            before = part["inputs"] if cached else part[EMBEDDING]
            moves = "image" in towers and not cached
            now = encode(params, part["inputs"]) if moves else jax.lax.stop_gradient(before)
            found.append((now, before, part.get("weight", jnp.ones(len(now), jnp.float32))))
        return tuple(jnp.concatenate(each) for each in zip(*found, strict=True))

    def texts(params, batch):
        before = jnp.asarray(classes.weights)
        if "text" not in towers:
            return before, before, None
        whole = made.merged(params) if made.merged else params
        return class_weights(backbone, whole, classes.tokens), before, None

    look = {"image": images, "text": texts}
    return lambda params, batch: {tower: look[tower](params, batch) for tower in looked}
