"""The interface of methods: pure functions that a step, two loops and an evaluation use.

`make_method(backbone, classes, **options) -> Method or ClosedForm`, of a file of `clipjax.adapt` or
of a module of yours, is called with a backbone that reads pixels, and with one that takes cached
embeddings.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.grl import Schedule
from clipjax.adapt.losses import weigh
from clipjax.adapt.step import Loss

PyTree = Any
READS = ("source", "target", "support", "teacher", "zero_shot", "embedding")
# Of what a closed form, or `Method.start`, reads: the source's validation examples.
VALIDATION = "validation"
TEMPLATES = ("all", "class")
PROMPTS = "prompts"  # "prompts/NAME" of `reads`: class weights of a prompt set, or of a template


class DannModel(NamedTuple):
    """The three parts of Ganin's figure 1 as pure functions over one parameter tree."""

    features: Callable[..., jax.Array]  # (params, inputs, rng) -> [B, F]
    classify: Callable[..., jax.Array]  # (params, features) -> [B, K] logits (ensemble: [M, B, K])
    discriminate: Callable[..., jax.Array]  # (params, features) -> [B, D], of 2 also [B, 1]


class Classes(NamedTuple):
    """Class texts as data: other classes or languages are other values of the same shape."""

    names: tuple[str, ...]  # K
    tokens: Any  # int32 [K, prompts, T], of the prompts
    weights: Any  # float32 [K, P], zero-shot class weights of length 1
    scale: Any  # CLIP's factor on cosine similarities
    # int32 [K, T], of the names and a full stop, without a template: where a method has `words`.
    bare: Any = None


class Words(NamedTuple):
    """A text as prompts start from it."""

    ids: Any  # int32 [n], without begin and end
    embeddings: Any  # float32 [n, D], of the encoder as it came


class Backbone(NamedTuple):
    """An encoder as pure functions over a parameter tree that holds more than its own."""

    # "image": (params, inputs, rng=None, prompts=None, deep=None) -> embeddings float32 [B, P] of
    # length 1. "text": (params, tokens int32 [N, T], embeddings=None, deep=None) -> [N, P], where
    # `embeddings` float32 [N, T, D] replace the tokens' own (learned prompts). `prompts` and `deep`
    # are those of `clipjax.model.clip.VisionTower` and `TextTower`.
    encode: Mapping[str, Callable[..., jax.Array]]
    scale: Callable[[PyTree], jax.Array]  # params -> factor on cosine similarities
    # (params, tokens) -> the tokens' own embeddings, float32 [N, T, D].
    embed_tokens: Callable[[PyTree, jax.Array], jax.Array]
    # Tower -> pattern of its layer groups. It is cached if all of them are frozen and the method
    # does not alter it.
    towers: Mapping[str, str]
    cached: frozenset[str] = frozenset()  # towers whose `encode` takes and returns embeddings
    sizes: Any = None  # of the towers, a `clipjax.model.clip.CLIPConfig`; None: no model is open
    words: Mapping[str, Words] = {}  # the texts that a method asks for by its `words`


class Head(NamedTuple):
    """The networks on top of embeddings, as `clipjax.model.heads` makes them."""

    init: Callable[[jax.Array], PyTree]  # rng -> its parameters
    model: DannModel  # over embeddings
    # (params, embeddings, classes) -> logits without dropout, [M, B, K] of all members and [B, K].
    members: Callable[[PyTree, jax.Array, Classes], jax.Array]
    predict: Callable[[PyTree, jax.Array, Classes], jax.Array]
    towers: tuple[str, ...] = ()  # of the backbone that it runs: "text" if texts name the classes
    domains: int = 0  # that its domain head tells apart; 0 without one
    answers: int = 1  # class heads side by side, of an ensemble


class Compared(NamedTuple):
    """What a classifier by texts compares, of length 1; logits are `scale * image @ text.T`."""

    image: jax.Array  # [B, P]
    text: jax.Array  # [N, P], of classes or of the images' own
    row: jax.Array  # int [B]: which text is of each image
    scale: jax.Array  # []

    @property
    def logits(self) -> jax.Array:
        """Scaled similarities, [B, N]."""
        return self.scale * self.image @ self.text.T


class Method(NamedTuple):
    """A method that trains. Its functions get its own, the encoder's and shared parameters."""

    init: Callable[[jax.Array], PyTree]  # rng -> its own parameters: heads, prompts
    # (params, batch, rng, progress) -> (scalar, metrics); a mean over examples is
    # `mean(values * weight)`, see `clipjax.adapt.losses`.
    loss: Loss
    predict: Callable[[PyTree, PyTree, Classes], jax.Array]  # (params, inputs, classes) -> [B, K]
    # The parts of a batch that it needs, of `READS`. "source": {"inputs", "label"}, "target":
    # {"inputs"}, "support": as "source", by episodes; "zero_shot": logits [B, K] beside the inputs
    # of source and target; "embedding": what the original encoder makes of these; "teacher": that
    # encoder as `params["teacher"]`.
    reads: tuple[str, ...] = ("source",)
    # (params, inputs, rng=None) -> [B, F], in which domains are compared; by default embeddings.
    features: Callable[..., jax.Array] | None = None
    # (params, inputs, classes) -> [M, B, K] of an ensemble.
    members: Callable[..., jax.Array] | None = None
    # (data, classes, own) -> own: called once, after `init`, with the training features that it
    # reads, as `ClosedForm.fit` (of the encoder as it came, also where that trains), and the
    # parameters that `init` made; it returns these, changed, or with more entries. It is traced,
    # under `jax.vmap` over seeds; shapes must not depend on the number of examples, nor values on
    # what a sweep varies inside one program (`schedules`, label_smoothing).
    start: Callable[[PyTree, Classes, PyTree], PyTree] | None = None
    start_reads: tuple[str, ...] = ()  # what `start` alone gets beside `reads`: "validation"
    # Top-level names of its own parameters, and parts of the encoder ("clip/text"), that no phase
    # trains, whatever `freeze` says.
    constants: tuple[str, ...] = ()
    # (params, support [N, S, P], inputs [Q, P], weight [N, S] = None) -> logits [Q, N] of a task of
    # other classes, over embeddings: of N classes each S examples are known. Episodes judge it.
    episode: Callable[..., jax.Array] | None = None
    # (params, pixels) -> embeddings, if it alters the image tower.
    embed: Callable[..., jax.Array] | None = None
    # params -> params whose encoder, "clip", answers by texts as the method does: for an export.
    merged: Callable[[PyTree], PyTree] | None = None
    # (params, batch, numeric options) -> measures of validation examples, float32 [].
    diagnose: Callable[..., dict[str, jax.Array]] | None = None
    # The loss in two steps, of a method that answers by texts, for terms that compare what it does
    # (`clipjax.adapt.terms`): (params, source, rng) -> Compared, where rng is for the crop alone,
    # and (params, Compared, batch, rng, progress) -> (scalar, metrics).
    compare: Callable[..., Compared] | None = None
    judge: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] | None = None
    # Scalars of progress that a sweep may vary inside one program; they come back as
    # `make_method(..., schedules={name: schedule})`. And the options that only shape them.
    schedules: Mapping[str, Schedule] = {}
    scheduled: tuple[str, ...] = ()
    towers: tuple[str, ...] = ("image",)  # that it runs: their parameters come with its own
    alters: tuple[str, ...] = ()  # towers whose output its parameters change: never cached
    # Texts that it finds in `Backbone.words`; with any number of them, `Classes.bare` is there too.
    words: tuple[str, ...] | None = None
    # params -> learned vectors among the embeddings of tokens, float32 [n, D] or [K, n, D].
    prompts: Callable[[PyTree], jax.Array] | None = None
    # Examples of a batch -> bytes that a step needs beside parameters, about.
    step_bytes: Callable[[int], int] | None = None
    # Whether its first answers are zero-shot's, of a method without heads.
    from_zero_shot: bool = False
    # Whether the loss is a mean over examples; others are refused with microbatches (`accumulate`)
    # and `pmap`, which would change them.
    per_example: bool = True
    # Whether a term of its loss is of `features` alone: it trains nothing where these stay.
    on_features: bool = False


class ClosedForm(NamedTuple):
    """A method without steps: a pure fit on cached embeddings."""

    # (data, classes) -> {variant: head parameters}, the method's own variant first, of data
    # {"source": {"inputs" float32 [N, P], "label" int32 [N]}, "target": {"inputs"}}.
    fit: Callable[[PyTree, Classes], dict[str, PyTree]]
    predict: Callable[[PyTree, jax.Array, Classes], jax.Array]  # as a `Method`'s, of embeddings
    # Of "source", "target", "zero_shot", "validation" (as "source", of the validation images, by
    # which settings are chosen), and "prompts/NAME": data["prompts"][NAME] is then the zero-shot
    # class weights float32 [K, P] of the prompts so called.
    reads: tuple[str, ...] = ("source",)
    episode: Callable[..., jax.Array] | None = None  # as a `Method`'s
    any_classes: bool = False  # whether `predict` answers for classes that it was not fitted to
    texts: bool = True  # whether `fit` reads `Classes` beyond their names
    # What of it needs a labelled image of each class ("a Gaussian"); "": nothing does.
    each_class: str = ""


def class_weights(backbone: Backbone, params: PyTree, tokens: jax.Array) -> jax.Array:
    """Zero-shot class weights [K, P] of prompts [K, prompts, T], differentiable."""
    classes, prompts, length = tokens.shape
    embedded = backbone.encode["text"](params, jnp.asarray(tokens).reshape(-1, length))
    mean = embedded.reshape(classes, prompts, -1).mean(axis=1)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def on_backbone(backbone: Backbone, head: Head) -> DannModel:
    """Backbone and head as one model."""

    def features(params, inputs, rng=None):
        if "image" in backbone.cached:
            return head.model.features(params, inputs, rng)
        crop, drop = (None, None) if rng is None else jax.random.split(rng)
        return head.model.features(params, backbone.encode["image"](params, inputs, crop), drop)

    return head.model._replace(features=features)


def with_head(backbone: Backbone, head: Head, loss: Loss, **more: Any) -> Method:
    """A method whose own parameters are a head's; `more` are other fields of `Method`."""
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


def by_texts(
    backbone: Backbone, head: Head, compare: Callable, judge: Callable, **more: Any
) -> Method:
    """`with_head` of a loss in two steps, `Method.compare` and `Method.judge`."""
    two = {"compare": compare, "judge": judge}
    return with_head(backbone, head, in_two_steps(compare, judge), **two, **more)


def in_two_steps(compare: Callable, judge: Callable) -> Loss:
    """The loss of `Method.compare` and `Method.judge` on {"source": {"inputs", "label"}}."""

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        source = check_domain(batch, "source", "inputs", "label")
        look, more = (None, None) if rng is None else jax.random.split(rng)
        return judge(params, compare(params, source, look), batch, more, progress)

    return loss


def compare_classes(
    backbone: Backbone, classes: Classes, templates: str = "all"
) -> Callable[..., Compared]:
    """`Method.compare` of CLIP's own towers: images and the classes' prompts, [K, P].

    `templates`: "all", the mean of all prompts of a class, or "class", in every step one of them
    drawn at random for each class. ValueError: anything else.
    """
    if templates not in TEMPLATES:
        raise ValueError(f"unknown templates {templates!r}; known: {', '.join(TEMPLATES)}.")

    def compare(params, source, rng):
        tokens = classes.tokens
        if templates == "class" and rng is not None:
            count, prompts, _ = tokens.shape
            draw = jax.random.fold_in(rng, 1)  # rng itself is for the crop, a teacher's too
            which = jax.random.randint(draw, (count,), 0, prompts)
            tokens = jnp.asarray(tokens)[jnp.arange(count), which][:, None]
        image = backbone.encode["image"](params, source["inputs"], rng)
        text = class_weights(backbone, params, tokens)
        return Compared(image, text, source["label"], backbone.scale(params))

    return compare


def check_classes(known: Classes, asked: Classes) -> None:
    """Raise ValueError for classes that a head has no parameters for."""
    if known.names != asked.names:
        new = [name for name in asked.names if name not in known.names]
        raise ValueError(
            f"this head holds its {len(known.names)} classes in its parameters and cannot name "
            f"{repr(new[0]) if new else 'a part of them'}; use heads = {{'text': True}}."
        )
