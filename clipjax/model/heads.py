"""What sits on CLIP's features: MLPs for the adapter, the class head and the domain head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.dann import DannModel

PyTree = Any


class MLP(nn.Module):
    """Dense layers with ReLU between them, [..., F] -> [..., out].

    `hidden` gives the widths of all layers but the last: a head "of 2 layers" has one hidden width.
    No BatchNorm: a discriminator's statistics would tell the domains apart by themselves. Dropout
    acts on the hidden layers when `rng` is given.
    """

    hidden: Sequence[int]
    out: int
    dropout: float = 0.0
    out_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"layer_{i}")(x))
            if self.dropout and rng is not None:
                keep = 1.0 - self.dropout
                kept = jax.random.bernoulli(jax.random.fold_in(rng, i), keep, x.shape)
                x = jnp.where(kept, x / keep, 0.0)
        return nn.Dense(self.out, use_bias=self.out_bias, name=f"layer_{len(self.hidden)}")(x)


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


class Heads(nn.Module):
    """Adapter, class head and domain head over one parameter tree with these three names.

    Widths are hidden widths; `adapter=None` leaves features as they are, `discriminator=None`
    makes no domain head. `class_bias=False` leaves out the class head's last bias, so that a linear
    one is a table of class embeddings (`class_embeddings`). With `members` > 1 the class head is an
    ensemble: equal networks with their own initial values, their logits on a leading axis.
    With `text=True` there is no class head here: CLIP's own text tower names the classes
    (`clipjax.model.backbone`).
    """

    num_classes: int
    num_domains: int = 2
    adapter: Sequence[int] | None = None
    classifier: Sequence[int] = ()
    discriminator: Sequence[int] | None = None
    dropout: float = 0.0
    class_bias: bool = True
    members: int = 1
    text: bool = False

    def __post_init__(self):
        self._check_kinds()
        if self.text and (self.adapter is not None or self.classifier or self.members > 1):
            raise ValueError(
                "text=True compares images with texts: no adapter, classifier, members."
            )
        if self.adapter is not None and not len(self.adapter):
            raise ValueError("adapter has no layers; give widths, or None for no adapter.")
        super().__post_init__()

    def _check_kinds(self):
        """Refuses what Flax would take and fail at when parameters are made."""
        for name in ("adapter", "classifier", "discriminator"):
            widths = getattr(self, name)
            if widths is None and name != "classifier":
                continue
            if not isinstance(widths, Sequence) or not all(map(_is_count, widths)):
                raise ValueError(f"{name} is {widths!r}; give a tuple of widths, as in (256,).")
        for name in ("num_classes", "num_domains", "members"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a number, at least 1.")
        for name in ("class_bias", "text"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give True or False.")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; give at least 0 and less than 1.")

    def setup(self):
        if self.adapter is not None:
            *hidden, out = self.adapter
            self._adapter = MLP(tuple(hidden), out, self.dropout, name="adapter")
        if self.discriminator is not None:
            self._discriminator = MLP(
                tuple(self.discriminator), self.num_domains, name="discriminator"
            )
        if self.text:
            return
        # vmap over members: one program whatever their number.
        ensemble = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=self.members,
        )
        self._classifier = (ensemble if self.members > 1 else MLP)(
            tuple(self.classifier), self.num_classes, out_bias=self.class_bias, name="classifier"
        )

    def features(self, x: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """CLIP features [B, P] (normalised) to adapted features [B, F]."""
        return x if self.adapter is None else nn.relu(self._adapter(x, rng))

    def classify(self, features: jax.Array) -> jax.Array:
        """Adapted features to class logits [B, K]."""
        return self._classifier(features)

    def discriminate(self, features: jax.Array) -> jax.Array:
        """Adapted features to domain logits [B, D]."""
        return self._discriminator(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Runs every part, for initialisation; returns class logits."""
        features = self.features(x)
        if self.discriminator is not None:
            self.discriminate(features)
        return features if self.text else self.classify(features)


def as_model(heads: Heads) -> DannModel:
    """The heads as the pure functions that every method takes; parameters as `Heads` makes them."""

    def call(method):
        return lambda params, *args: heads.apply({"params": params}, *args, method=method)

    return DannModel(call("features"), call("classify"), call("discriminate"))


def init_heads(
    heads: Heads, key: jax.Array, example: jax.Array, text_weights: jax.Array, scale: float
) -> PyTree:
    """Initial parameters; a linear class head on bare features starts as the zero-shot classifier.

    MLP heads start random. (A random linear head would throw zero-shot accuracy away, and weight
    interpolation with zero-shot CLIP would not work: Wortsman et al. 2022, arXiv 2109.01903.)

    Args:
      heads: what to initialise.
      key: for the random parts.
      example: features float [1, P], for shapes.
      text_weights: zero-shot class weights [K, P].
      scale: CLIP's factor on cosine similarities.
    """
    params = heads.init(key, example).get("params", {})
    if heads.adapter is None and not heads.classifier and heads.members == 1 and not heads.text:
        linear = {"kernel": scale * text_weights.T}
        if heads.class_bias:
            linear["bias"] = jnp.zeros(heads.num_classes)
        params = {**params, "classifier": {"layer_0": linear}}
    return params


def class_embeddings(heads: Heads, params: PyTree, scale: float) -> jax.Array:
    """A linear class head in the form of text embeddings, float32 [K, P].

    `scale * features @ result.T` are the head's logits up to a constant per image, so the result
    can stand wherever zero-shot class embeddings are used.

    Raises:
      ValueError: the head is not linear on bare features, or has biases that differ by class: no
        embedding does what they do. Train with `class_bias=False`.
    """
    if heads.adapter is not None or heads.classifier or heads.members > 1:
        raise ValueError(
            "only a linear head on bare CLIP features is a table of class embeddings; train with "
            "heads = {'classifier': (), 'class_bias': False}."
        )
    layer = params["classifier"]["layer_0"]
    if "bias" in layer and not np.allclose(layer["bias"], layer["bias"][0], atol=1e-6):
        raise ValueError(
            "the head's biases differ by class and cannot be folded into class embeddings; train "
            "with heads = {'classifier': (), 'class_bias': False}."
        )
    return layer["kernel"].T / scale


def member_logits(heads: Heads, params: PyTree, features: jax.Array) -> jax.Array:
    """Class logits [M, B, K] of every member of CLIP features [B, P], without dropout."""
    logits = heads.apply({"params": params}, features)
    return logits if heads.members > 1 else logits[None]


def predict(heads: Heads, params: PyTree, features: jax.Array) -> jax.Array:
    """Class logits [B, K] of CLIP features [B, P], without dropout.

    Of an ensemble: the logarithm of the members' mean probability.
    """
    logits = member_logits(heads, params, features)
    if heads.members == 1:
        return logits[0]
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(heads.members)
