"""MLPs on CLIP's features: adapter, class head and domain head."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.dann import DannModel

PyTree = Any
STARTS = ("zero_shot", "random", "logistic")


class MLP(nn.Module):
    """Dense layers with ReLU between them, [..., F] -> [..., out].

    No BatchNorm: a discriminator's statistics would tell the domains apart by themselves. Dropout
    acts on the hidden layers if `rng` is given.
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


class Heads(nn.Module):
    """Adapter, class head and domain head over one parameter tree with these three names.

    With `text=True` CLIP's text tower classifies, see `clipjax.model.backbone`.
    """

    num_classes: int
    num_domains: int = 2
    adapter: Sequence[int] | None = None  # its widths; None leaves features as they are
    classifier: Sequence[int] = ()  # hidden widths
    discriminator: Sequence[int] | None = None  # hidden widths; None makes no domain head
    dropout: float = 0.0
    # Of a linear class head on bare features; others are random. "logistic" starts at 0, for
    # `clipjax.adapt.probe.from_logistic` to fit.
    start: str = "zero_shot"
    class_bias: bool = True  # without it a linear head is a table of class embeddings
    members: int = 1  # above 1 the class head is an ensemble, its logits on a leading axis
    text: bool = False

    def __post_init__(self):
        whole = lambda x: isinstance(x, (int, np.integer)) and not isinstance(x, bool)
        count = lambda x: whole(x) and x > 0
        widths = lambda x: isinstance(x, Sequence) and all(map(count, x))
        optional = lambda x: x is None or widths(x)
        share = lambda x: isinstance(x, (int, float)) and 0 <= x < 1
        checks = (  # Flax would take the rest, and fail when parameters are made
            ("adapter discriminator", optional, "a tuple of widths, as in (256,)"),
            ("classifier", widths, "a tuple of widths, as in (256,)"),
            ("num_classes num_domains members", count, "a number, at least 1"),
            ("class_bias text", lambda x: isinstance(x, bool), "True or False"),
            ("start", lambda x: x in STARTS, f"{', '.join(STARTS[:-1])} or {STARTS[-1]}"),
            ("dropout", share, "at least 0 and less than 1"),
        )
        for names, fits, wanted in checks:
            for name in names.split():
                if not fits(value := getattr(self, name)):
                    raise ValueError(f"{name} is {value!r}; give {wanted}.")
        if self.text and (self.adapter is not None or self.classifier or self.members > 1):
            raise ValueError("text=True compares with texts: no adapter, classifier, members.")
        if self.start != "zero_shot" and self.text:
            raise ValueError("text=True starts as the text tower is; leave start out.")
        more = self.adapter is not None or self.classifier or self.members > 1
        if self.start == "logistic" and (more or not self.class_bias):
            told = "start='logistic' is of a linear head with a bias on bare features"
            raise ValueError(f"{told}: no adapter, classifier, members, class_bias.")
        if self.adapter is not None and not len(self.adapter):
            raise ValueError("adapter has no layers; give widths, or None for no adapter.")
        super().__post_init__()

    @property
    def from_texts(self) -> bool:
        """Whether the class head starts as zero-shot: linear on bare features, not `random`."""
        bare = self.start == "zero_shot" and self.adapter is None and not self.classifier
        return bare and self.members == 1 and not self.text

    def setup(self):
        if self.adapter is not None:
            *hidden, out = self.adapter
            self._adapter = MLP(tuple(hidden), out, self.dropout, name="adapter")
        if self.discriminator is not None:
            hidden = tuple(self.discriminator)
            self._discriminator = MLP(hidden, self.num_domains, name="discriminator")
        if self.text:
            return
        head, axes, rngs = MLP, {"params": 0}, {"params": True}
        if self.members > 1:  # one program whatever their number
            head = nn.vmap(MLP, axes, split_rngs=rngs, in_axes=None, axis_size=self.members)
        hidden, options = tuple(self.classifier), {"out_bias": self.class_bias}
        self._classifier = head(hidden, self.num_classes, **options, name="classifier")

    def features(self, x: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Map normalised CLIP features [B, P] to adapted features [B, F]."""
        return x if self.adapter is None else nn.relu(self._adapter(x, rng))

    def classify(self, features: jax.Array) -> jax.Array:
        """Map adapted features to class logits [B, K]."""
        return self._classifier(features)

    def discriminate(self, features: jax.Array) -> jax.Array:
        """Map adapted features to domain logits [B, D]."""
        return self._discriminator(features)

    def logits(self, x: jax.Array) -> jax.Array:
        """Map CLIP features to class logits; the domain head may be of other inputs."""
        return self.classify(self.features(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run every part, for initialisation; return class logits."""
        features = self.features(x)
        if self.discriminator is not None:
            self.discriminate(features)
        return features if self.text else self.classify(features)


def as_model(heads: Heads) -> DannModel:
    """Return the heads as the pure functions that every method takes."""
    call = lambda method, params, *args: heads.apply({"params": params}, *args, method=method)
    return DannModel(*(partial(call, name) for name in ("features", "classify", "discriminate")))


def init_heads(
    heads: Heads, key: jax.Array, example: jax.Array, text_weights: jax.Array, scale: float
) -> PyTree:
    """Make parameters; a linear class head on bare features starts as the zero-shot classifier.

    Weight interpolation needs that (Wortsman et al. 2022, arXiv 2109.01903); other heads are
    random, as this one is with `start="random"`, and 0 with "logistic". `example` are features
    float [1, P], `text_weights` zero-shot class weights [K, P].
    """
    params = heads.init(key, example).get("params", {})
    if heads.start == "logistic":
        params = {**params, "classifier": jax.tree.map(jnp.zeros_like, params["classifier"])}
    if heads.from_texts:
        linear = {"kernel": scale * text_weights.T}
        if heads.class_bias:
            linear["bias"] = jnp.zeros(heads.num_classes)
        params = {**params, "classifier": {"layer_0": linear}}
    return params


def fold_affine(
    heads: Heads, params: PyTree, mean: jax.Array, matrix: jax.Array
) -> tuple[Heads, PyTree]:
    """Return heads that do to x what these do to (x - mean) matrix, with their parameters.

    It goes into the first layer of adapter or class head; `mean` is [P], `matrix` [P, P] or the [P]
    of a diagonal. The domain head is as before.
    """
    part = "classifier" if heads.adapter is None else "adapter"
    layer = params[part]["layer_0"]
    kernel = layer["kernel"]  # [P, H], of several members [M, P, H]
    kernel = matrix[:, None] * kernel if jnp.ndim(matrix) == 1 else jnp.matmul(matrix, kernel)
    bias = layer.get("bias", 0.0) - jnp.matmul(mean, kernel)
    made = {**params[part], "layer_0": {"kernel": kernel, "bias": bias}}
    return heads.clone(class_bias=heads.class_bias or "bias" not in layer), {**params, part: made}


def as_affine(heads: Heads, params: PyTree) -> tuple[jax.Array, jax.Array] | None:
    """Return the weight [K, P] and the bias [K] of heads that are affine in bare CLIP features.

    Logits are then `features @ weight.T + bias`. None of an adapter, of hidden layers, and of an
    ensemble, whose mean probability is of no such form.
    """
    if heads.adapter is not None or heads.classifier or heads.members > 1 or heads.text:
        return None
    layer = params["classifier"]["layer_0"]
    return layer["kernel"].T, layer.get("bias", jnp.zeros(heads.num_classes))


def class_embeddings(heads: Heads, params: PyTree, scale: float) -> jax.Array:
    """Convert a linear class head to class embeddings, float32 [K, P].

    `scale * features @ result.T` are the head's logits up to a constant per image, so the result
    can replace zero-shot class embeddings. ValueError for a head that is not linear on bare
    features, or has biases that differ by class.
    """
    remedy = "train with heads = {'classifier': (), 'class_bias': False}."
    if as_affine(heads, params) is None:
        fault = "only a linear head on bare CLIP features is a table of class embeddings"
        raise ValueError(f"{fault}; {remedy}")
    layer = params["classifier"]["layer_0"]
    if "bias" in layer and not np.allclose(layer["bias"], layer["bias"][0], atol=1e-6):
        fault = "the head's biases differ by class and do not fold into class embeddings"
        raise ValueError(f"{fault}; {remedy}")
    return layer["kernel"].T / scale


def member_logits(heads: Heads, params: PyTree, features: jax.Array) -> jax.Array:
    """Compute every member's class logits [M, B, K] from CLIP features [B, P], without dropout."""
    logits = heads.apply({"params": params}, features, method="logits")
    return logits if heads.members > 1 else logits[None]


def predict(heads: Heads, params: PyTree, features: jax.Array) -> jax.Array:
    """Compute class logits [B, K]; of an ensemble, the logarithm of its mean probability."""
    logits = member_logits(heads, params, features)
    if heads.members == 1:
        return logits[0]
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(heads.members)
