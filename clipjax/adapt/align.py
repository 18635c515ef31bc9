"""Features aligned by statistics: each domain through an affine map of its own, before any loss.

The maps come from the unlabelled training features of both domains, once. An encoder sees a style
as an offset and a spread of its features; taking them away is worth more than most losses.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.linear import linear_head
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import VALIDATION, Classes, ClosedForm, Method
from clipjax.adapt.moments import coral_map, moments

PyTree = Any
KINDS = ("none", "centre", "standardise", "coral")
OWN = "align"  # the name of the maps among a method's own parameters
_FLAT = 1e-6  # a spread below which a feature is a constant, for features of length 1


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
      shrink: of "coral", as for `coral_map`.

    ValueError: an unknown kind.
    """
    if kind == "coral":
        (source_mean, source), (target_mean, target) = (
            moments(data[domain]["inputs"].astype(jnp.float32)) for domain in ("source", "target")
        )
        matrix = coral_map(source, target, shrink)
        mapped = jnp.matmul(source, matrix, precision="highest")
        factor = 1.0 / spread(jnp.sum(matrix * mapped, axis=0))
        return {
            "source": {"mean": source_mean, "map": matrix * factor},
            "target": {"mean": target_mean, "map": factor},
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
    domain_of = dict.fromkeys(("source", "support", VALIDATION), "source") | {"target": "target"}
    moved = lambda part, x: x | {"inputs": apply_map(maps[domain_of[part]], x["inputs"])}
    return {part: moved(part, x) if part in domain_of else x for part, x in batch.items()}


def through(affine: PyTree, head: PyTree) -> PyTree:
    """A linear head of features x as one of `apply_map(affine, x)`, with the same logits.

    Args:
      affine: of a target: "map" are factors [P].
      head: with a bias, named as a `clipjax.adapt.linear.linear_head`; other entries stay.
    """
    layer = head["classifier"]["layer_0"]
    kernel = layer["kernel"] / affine["map"][:, None]
    bias = layer["bias"] + jnp.matmul(affine["mean"], layer["kernel"], precision="highest")
    return {**head, **linear_head(kernel, bias)}


def aligned(made: Method | ClosedForm, kind: str, from_texts: bool = False) -> Method | ClosedForm:
    """A method over cached embeddings whose source and target go through `domain_maps` first.

    Its loss, `start`, `fit` and `diagnose` see aligned inputs. What it is asked to predict goes
    through the target's map, wherever it comes from: it is the model deployed on the target. So
    results on the source and on other domains are those of that model, and what it computes of the
    inputs itself (texts against embeddings) is of aligned ones; zero-shot logits of the batch stay.
    The maps are constants, "align" of its own parameters.

    Args:
      kind: of `KINDS` but "none".
      from_texts: its `init` makes a linear head with a bias that answers raw features as zero-shot
        does (`clipjax.adapt.linear.linear_head`). It then starts `through` the target's map, so
        that mapped target images get their zero-shot logits. Any other start is taken as it is: a
        head without bias, which cannot make up for the mean, and random layers.
    """
    reads = tuple(dict.fromkeys((*made.reads, "target")))
    to_target = lambda params, inputs: apply_map(params[OWN]["target"], inputs)
    predict = lambda params, inputs, texts: made.predict(params, to_target(params, inputs), texts)

    def episode(params, support, inputs, weight=None):
        flat = to_target(params, support.reshape(-1, support.shape[-1])).reshape(support.shape)
        return made.episode(params, flat, to_target(params, inputs), weight)

    asked = {"predict": predict, "reads": reads, "episode": made.episode and episode}
    if isinstance(made, ClosedForm):

        def fit(data, texts):
            maps = domain_maps(data, kind)
            fitted = made.fit(align_batch(maps, data), texts)
            return {variant: {**params, OWN: maps} for variant, params in fitted.items()}

        return made._replace(fit=fit, **asked)
    method = _aligned_method(made, kind, to_target, from_texts)
    return method._replace(**asked)


def _aligned_method(made: Method, kind: str, to_target: Callable, from_texts: bool) -> Method:
    """`aligned` of a method that trains, but for what both kinds have."""

    def start(data, classes: Classes, own):
        maps = domain_maps(data, kind)
        own = through(maps["target"], own) if from_texts and "classifier" in own else own
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
