"""What a method is: pure functions that one step, two loops and one evaluation can use.

A file of `clipjax.adapt`, or a module of your own, has

    make_method(backbone, classes, **options) -> Method or ClosedForm

which is called with a backbone that reads pixels, and again with one that takes embeddings made
before (`Backbone.cached`): the same code serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.grl import Schedule
from clipjax.adapt.step import Loss

PyTree = Any
READS = ("source", "target", "support", "teacher", "zero_shot")


class DannModel(NamedTuple):
    """The three parts of Ganin's figure 1 as pure functions over one parameter tree."""

    features: Callable[..., jax.Array]  # (params, inputs, rng) -> [B, F]
    classify: Callable[..., jax.Array]  # (params, features) -> [B, K] logits (ensemble: [M, B, K])
    discriminate: Callable[..., jax.Array]  # (params, features) -> [B, D], of 2 also [B, 1]


class Classes(NamedTuple):
    """Class texts as data: other classes or languages are other values of the same shape.

    Attributes:
      names: K of them.
      tokens: int32 [K, prompts, T], what a text tower reads.
      weights: float32 [K, P], zero-shot class weights of length 1.
      scale: CLIP's factor on cosine similarities.
    """

    names: tuple[str, ...]
    tokens: Any
    weights: Any
    scale: Any


class Backbone(NamedTuple):
    """An encoder as pure functions over a parameter tree that holds more than the encoder's.

    Attributes:
      encode: "image": (params, inputs, rng=None) -> embeddings float32 [B, P] of length 1;
        "text": (params, tokens int32 [N, T], embeddings=None) -> the same of texts, where
        `embeddings` float32 [N, T, D] stand in for the tokens' own (learned prompts).
      scale: params -> the factor on cosine similarities.
      embed_tokens: params, tokens -> the tokens' own embeddings float32 [N, T, D].
      towers: tower -> pattern of its layer groups: a tower all of whose groups are frozen, and that
        a method does not alter, is cached.
      cached: towers whose `encode` is given embeddings and returns them.
    """

    encode: Mapping[str, Callable[..., jax.Array]]
    scale: Callable[[PyTree], jax.Array]
    embed_tokens: Callable[[PyTree, jax.Array], jax.Array]
    towers: Mapping[str, str]
    cached: frozenset[str] = frozenset()


class Head(NamedTuple):
    """The networks on top of embeddings, as pure functions; `clipjax.model.heads` makes them.

    Attributes:
      init: (rng) -> its parameters.
      model: its three parts over embeddings.
      members: (params, embeddings, classes) -> logits [M, B, K] of all members, without dropout.
      predict: (params, embeddings, classes) -> logits [B, K].
      towers: those of the backbone that it runs itself: "text" where texts name the classes.
      domains: how many its domain head tells apart; 0: it has none.
    """

    init: Callable[[jax.Array], PyTree]
    model: DannModel
    members: Callable[[PyTree, jax.Array, Classes], jax.Array]
    predict: Callable[[PyTree, jax.Array, Classes], jax.Array]
    towers: tuple[str, ...] = ()
    domains: int = 0


class Method(NamedTuple):
    """A method that trains. `params` below: its own, the encoder's that it needs, shared ones.

    Attributes:
      init: (rng) -> its own parameters: heads, prompts, low-rank factors, a table.
      loss: (params, batch, rng, progress) -> (scalar, metrics); a mean over examples is
        `mean(values * weight)`, see `clipjax.adapt.losses`.
      predict: (params, inputs, classes) -> logits [B, K].
      reads: the parts of a batch that it needs, of `READS`; nothing is guessed. "source":
        {"inputs", "label"}, "target": {"inputs"}, "support": as "source", by episodes;
        "zero_shot": logits [B, K] beside the inputs of source and target; "teacher": the encoder as
        it came, as parameters `params["teacher"]`.
      features: (params, inputs, rng=None) -> [B, F], what its domains are compared in; the
        embeddings where None.
      members: (params, inputs, classes) -> [M, B, K], of ensembles; None: it has one member.
      embed: (params, pixels) -> embeddings, where it alters the image tower; else None.
      schedules: named scalars of progress: what a sweep may vary inside one program. They are
        handed back as `make_method(..., schedules={name: schedule})`.
      scheduled: the options that shape them and nothing else.
      diagnose: (params, batch, numbers) -> further measures of validation examples, float32 []
        each; numbers: the method's options that are numbers.
      towers: the towers that it runs: their parameters come with its own.
      alters: towers whose output its own parameters change: these are never cached.
      per_example: whether the loss is a mean over examples. Otherwise microbatches
        (`accumulate`) and `pmap` would see other losses, and are refused.
    """

    init: Callable[[jax.Array], PyTree]
    loss: Loss
    predict: Callable[[PyTree, PyTree, Classes], jax.Array]
    reads: tuple[str, ...] = ("source",)
    features: Callable[..., jax.Array] | None = None
    members: Callable[..., jax.Array] | None = None
    embed: Callable[..., jax.Array] | None = None
    diagnose: Callable[..., dict[str, jax.Array]] | None = None
    schedules: Mapping[str, Schedule] = {}
    scheduled: tuple[str, ...] = ()
    towers: tuple[str, ...] = ("image",)
    alters: tuple[str, ...] = ()
    per_example: bool = True


class ClosedForm(NamedTuple):
    """A method without steps: a pure fit on cached embeddings.

    Attributes:
      fit: (data, classes) -> {variant: head parameters}, the first variant being the method's own;
        data: {"source": {"inputs" float32 [N, P], "label" int32 [N]}, "target": {"inputs"}}.
      predict: (params, embeddings, classes) -> logits [B, K].
      reads: as a `Method`'s: "source", "target", "zero_shot".
    """

    fit: Callable[[PyTree, Classes], dict[str, PyTree]]
    predict: Callable[[PyTree, jax.Array, Classes], jax.Array]
    reads: tuple[str, ...] = ("source",)


def class_weights(backbone: Backbone, params: PyTree, tokens: jax.Array) -> jax.Array:
    """Class weights from prompts as a function of the text tower, [K, prompts, T] -> [K, P].

    Normalise, mean, normalise, as zero-shot classifiers are made, but differentiable.
    """
    classes, prompts, length = tokens.shape
    embedded = backbone.encode["text"](params, jnp.asarray(tokens).reshape(-1, length))
    mean = embedded.reshape(classes, prompts, -1).mean(axis=1)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def on_backbone(backbone: Backbone, head: Head) -> DannModel:
    """Backbone and head as the three functions that losses take."""

    def features(params, inputs, rng=None):
        if "image" in backbone.cached:
            return head.model.features(params, inputs, rng)
        crop, drop = (None, None) if rng is None else jax.random.split(rng)
        return head.model.features(params, backbone.encode["image"](params, inputs, crop), drop)

    return head.model._replace(features=features)


def with_head(backbone: Backbone, head: Head, loss: Loss, **more: Any) -> Method:
    """A method whose own parameters are a head's; `more` are further fields of `Method`."""
    embed = backbone.encode["image"]
    return Method(
        init=head.init,
        loss=loss,
        predict=lambda params, inputs, texts: head.predict(params, embed(params, inputs), texts),
        features=on_backbone(backbone, head).features,
        members=lambda params, inputs, texts: head.members(params, embed(params, inputs), texts),
        towers=("image", *head.towers),
        **more,
    )


def check_classes(known: Classes, asked: Classes) -> None:
    """Refuses classes that a head has no parameters for.

    Raises:
      ValueError: the first that it does not know.
    """
    if known.names != asked.names:
        new = [name for name in asked.names if name not in known.names]
        raise ValueError(
            f"this head holds its {len(known.names)} classes in its parameters and cannot name "
            f"{repr(new[0]) if new else 'a part of them'}; use heads = {{'text': True}}."
        )
