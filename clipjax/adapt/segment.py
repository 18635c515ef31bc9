"""Segmentation by a decoder on maps: what it is told of the domain, and its pixel loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.domain import CONTROLS, Domain, controlled, domain_embedding
from clipjax.adapt.losses import weigh
from clipjax.adapt.pixels import IGNORED, image_divisor, pixel_cross_entropy
from clipjax.adapt.precise import FIXED, MOMENTS

PyTree = Any
Shape = tuple[int, int, int]  # height, width and channels of a map


class Segmenter(NamedTuple):
    """A decoder as pure functions of `rows`.

    Rows are {"inputs": what `features` reads, "embedding": images float32 [B, P] of length 1,
    "condition": int32 [B], the true domain}, and in training "label" uint8 [B, H, W]; of a batch
    that microbatches are cut from also "divisor", what `whole` adds. With padding, "weight" is 0
    there; "other" float32 [B, P], of another image than "embedding" each, is then what shuffled W
    is read off where a batch has a single image. Parameters
    are {"decoder": ...}, with what never trains beside them: "backbone", and "told" of `told`. Of a
    backbone of which a part trains, that part is among the parameters.
    """

    init: Callable[..., PyTree]  # rng, what of the backbone trains as it is -> parameters
    # (params, batch, rng, progress) -> (scalar, metrics), with rows as batch["source"].
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    # (params, rows, rng) -> logits float32 [B, h', w', K], which `rng` shuffles W for.
    logits: Callable[..., jax.Array]
    # batch -> the batch, told what its loss is divided by: mean losses of its microbatches are its.
    whole: Callable[[PyTree], PyTree]
    # (params, rows, rng) -> what `clipjax.adapt.precise` makes statistics of, as "statistics" among
    # the parameters, which `logits` then needs; None of a decoder without those of a batch.
    moments: Callable[..., PyTree] | None = None
    depth: int = 1  # how many of its norms follow each other


def told(control: str = "none", scale: float = 1.0, shift: int = 0) -> dict[str, float | int]:
    """Return what a decoder is told of the domain, as numbers: methods that differ in them alone
    are one program.

    Args:
      control, scale: as of `clipjax.adapt.domain`.
      shift: 1 adds W to the class tokens of a decoder that has them, -1 subtracts it.
    """
    return {"control": CONTROLS.index(control), "scale": float(scale), "shift": float(shift)}


def cut(rows: jax.Array, shapes: Sequence[Shape]) -> list[jax.Array]:
    """Cut flat maps, [B, sum of h * w * C], into those of each level, float32 [B, h, w, C].

    >>> [x.shape for x in cut(jnp.zeros((2, 20)), [(2, 2, 4), (1, 1, 4)])]
    [(2, 2, 2, 4), (2, 1, 1, 4)]
    """
    found, first = [], 0
    for height, width, channels in shapes:
        end = first + height * width * channels
        part = rows[:, first:end].astype(jnp.float32)
        found.append(part.reshape(-1, height, width, channels))
        first = end
    return found


def make_segmenter(
    decoder: Any,
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array],
    shapes: Sequence[Shape],
    *,
    features: Callable[..., Sequence[jax.Array]] | None = None,
    descriptions: jax.Array | None = None,
    modulate: bool = True,
    prompt: bool = False,
    prompts: jax.Array | None = None,
    begin: Callable[[jax.Array], PyTree] | None = None,
    texts: jax.Array | None = None,
    class_weights: jax.Array | None = None,
    normaliser: str = "weights",
    own_labels: tuple[float, jax.Array] | None = None,
) -> Segmenter:
    """Make a segmenter of a Flax decoder (`clipjax.model.decoders`).

    Args:
      decoder: its module.
      resize: (logits, size) -> logits of the labels' size.
      shapes: of the maps of each level.
      features: (parameters of the backbone, inputs) -> maps of each level; None: inputs are maps,
        flat, as `cut` reads them.
      descriptions: float32 [D, P]; None for a decoder that is told nothing of the domain.
      modulate: whether W reaches its norms.
      prompt: whether W is added to its class tokens, or to the prompts of `features`.
      prompts: the descriptions as prompts of `features` take them, float32 [D, E]: these are then
        given what is added to them, float32 [B, E], as a third argument, and no class token is.
      begin: rng -> what of the backbone starts at random and trains; None: nothing of it trains.
      texts: of the classes, float32 [K, P], for decoders that take them.
      class_weights, normaliser: as of `clipjax.adapt.pixels.pixel_cross_entropy`.
      own_labels: (progress, classes bool [K]) of self-training: from that share of the steps on,
        pixels labelled as one of the classes are labelled by the decoder's own answer among them.

    The loss of a decoder with `stats="batch"` is one of a whole batch: `make_step` refuses it with
    microbatches and with `pmap`.
    """
    by_batch = decoder.stats == "batch"
    more = {} if texts is None else {"texts": texts}
    about = _reader(descriptions, prompts, modulate, prompt)

    def answer(params, rows, rng, mutable=False):
        read = features or (lambda _, inputs: cut(inputs, shapes))
        own, added = about(params.get("told", told()), rows, rng)
        maps = read(params.get("backbone"), rows["inputs"], *added)
        if by_batch and "weight" in rows:
            own = own | {"real": rows["weight"] > 0}
        fixed = {FIXED: params[FIXED]} if FIXED in params else {}
        variables = {"params": params["decoder"], **fixed}
        return decoder.apply(variables, maps, **own, **more, mutable=mutable)

    def logits(params, rows, rng):
        if by_batch and FIXED not in params:
            told = "stats=batch has no statistics to answer by"
            raise ValueError(f"{told}; fix those of the training set (clipjax.adapt.precise).")
        return answer(params, rows, rng)

    def moments(params, rows, rng):
        return answer(params, rows, rng, [MOMENTS])[1][MOMENTS]

    def loss(params, batch, rng, progress):
        rows = batch["source"]
        labels = rows["label"]
        seen = resize(answer(params, rows, rng), labels.shape[1:])
        if own_labels is not None:
            begun, own = progress >= own_labels[0], _relabelled(seen, labels, own_labels[1])
            labels = jnp.where(begun, own, labels)
        how = {"divisor": rows["divisor"][0]} if "divisor" in rows else {}
        value = pixel_cross_entropy(seen, labels, class_weights, normaliser, _real(rows), **how)
        return value, {"class_loss": value}

    whole = lambda batch: _divided(batch, decoder.classes, class_weights, normaliser)
    loss.whole_batch = by_batch
    depth = decoder.norms_deep(len(shapes))
    width = 1 if descriptions is None else descriptions.shape[1]
    init = _starter(decoder, shapes, width, about, more, begin)
    return Segmenter(init, loss, logits, whole, moments if by_batch else None, depth)


def _starter(
    decoder: Any,
    shapes: Sequence[Shape],
    width: int,
    about: Callable,
    more: dict[str, jax.Array],
    begin: Callable[[jax.Array], PyTree] | None,
) -> Callable[..., PyTree]:
    """(rng, what of the backbone trains) -> parameters; `width` is that of embeddings."""

    def init(rng, trained=None):
        maps = [jnp.zeros((2, *shape)) for shape in shapes]
        rows = {"embedding": jnp.zeros((2, width)), "condition": jnp.zeros(2, jnp.int32)}
        own, _ = about(told(), rows, rng)
        made = {"decoder": decoder.init(rng, maps, **own, **more)["params"]}
        if begin is not None:
            made["backbone"] = begin(jax.random.fold_in(rng, 1)) | (trained or {})
        return made

    return init


def _reader(
    descriptions: jax.Array | None, prompts: jax.Array | None, modulate: bool, prompt: bool
) -> Callable[..., tuple[dict[str, jax.Array], tuple[jax.Array, ...]]]:
    """(numbers, rows, rng) -> what the decoder is given of W, and what the backbone is."""

    def about(numbers, rows, rng):
        if descriptions is None:
            return {}, ()
        alpha = lambda x: domain_embedding(x, descriptions, numbers["scale"]).weights
        own, real = alpha(rows["embedding"]), _real(rows)
        lent = own
        if real is not None and "other" in rows:
            lent = jnp.where(real.sum() > 1, own, alpha(rows["other"]))

        def w_of(texts):
            def of(name):
                weights = lent if name == "shuffled" else own
                seen = Domain(weights, weights @ texts)
                return controlled(seen, texts, name, rng, rows["condition"], real)

            return jnp.stack([of(name) for name in CONTROLS])[numbers["control"]]

        given = {"domain": w_of(descriptions)} if modulate else {}
        if not prompt:
            return given, ()
        if prompts is not None:
            return given, (numbers["shift"] * w_of(prompts),)
        return given | {"prompt": numbers["shift"] * w_of(descriptions)}, ()

    return about


def _divided(batch: PyTree, classes: int, weights: jax.Array | None, normaliser: str) -> PyTree:
    """A batch with what the loss of its pixels is divided by, for any part of it."""
    batch = weigh(batch)
    rows = batch["source"]
    divisor = image_divisor(rows["label"], classes, weights, normaliser, _real(rows))
    spread = jnp.broadcast_to(divisor, len(rows["label"]))
    return batch | {"source": rows | {"divisor": spread}}


def _relabelled(seen: jax.Array, labels: jax.Array, classes: jax.Array) -> jax.Array:
    """Labels with those of the classes of self-training exchanged for answers."""
    classes = jnp.asarray(classes)
    theirs = jnp.where(labels == IGNORED, False, classes[jnp.minimum(labels, len(classes) - 1)])
    best = jnp.where(classes, jax.lax.stop_gradient(seen), -jnp.inf).argmax(axis=-1)
    return jnp.where(theirs, best.astype(labels.dtype), labels)


def _real(rows: dict[str, jax.Array]) -> jax.Array | None:
    return rows["weight"] > 0 if "weight" in rows else None
