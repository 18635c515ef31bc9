"""CoCoOp: CoOp whose context depends on the image, by a small network.

Zhou et al. 2022 (arXiv 2203.05557): context v_m + pi(x), the same bias for each vector, where pi is
Linear(P, P/16), ReLU, Linear(P/16, D) of the image's embedding; each image is compared with its own
texts. So a step encodes B * K texts, and so does every answer: the authors train with batches of 1.
Here pairs of image and class are encoded `chunk` at a time and again in the backward pass, so
that memory does not grow with the batch. 35,360 parameters of ViT-B/16, 2,048 of them context. pi
starts as torch's layers do, not at zero: at the start this is not zero-shot.
"""

from typing import Any

import jax

from clipjax.adapt.checks import check_domain
from clipjax.adapt.context import CHUNK, make_context
from clipjax.adapt.losses import class_loss, weigh
from clipjax.adapt.method import Backbone, Classes, Method

PyTree = Any


def linear(rng: jax.Array, inputs: int, outputs: int) -> PyTree:
    """A layer as torch starts it: kernel [inputs, outputs] and bias, U(-1, 1) / sqrt(inputs)."""
    one, two = jax.random.split(rng)
    draw = lambda key, shape: jax.random.uniform(key, shape, minval=-1, maxval=1) * inputs**-0.5
    return {"kernel": draw(one, (inputs, outputs)), "bias": draw(two, (outputs,))}


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    context: int = 0,
    words: str = "a photo of a",
    position: str = "end",
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> Method:
    """CoCoOp on a backbone; options and ValueErrors are those of `make_context`.

    Parameters: {"prompt": {"context": float32 [M, D]}, "meta": two layers}.
    """
    made = {"context": context, "words": words, "position": position, "chunk": chunk}
    prompt = make_context(backbone, classes, **made)

    def init(rng):
        one, two, three = jax.random.split(rng, 3)
        width, out = backbone.sizes.projection_dim, backbone.sizes.text.hidden_size
        meta = {"layer_0": linear(one, width, width // 16)}
        meta["layer_1"] = linear(two, width // 16, out)
        return {"prompt": {"context": prompt.init(three)}, "meta": meta}

    def logits(params, inputs, texts, rng=None):
        image = backbone.encode["image"](params, inputs, rng)
        first, second = (params["meta"][f"layer_{i}"] for i in range(2))
        hidden = jax.nn.relu(image @ first["kernel"] + first["bias"])
        bias = hidden @ second["kernel"] + second["bias"]
        vectors = params["prompt"]["context"][None] + bias[:, None]
        return backbone.scale(params) * prompt.compare(params, vectors, image, texts)

    def loss(params, batch, rng, progress):
        source = check_domain(weigh(batch), "source", "inputs", "label")
        found = logits(params, source["inputs"], classes, rng)
        return class_loss(found, source, label_smoothing)

    def step_bytes(batch):
        pairs, size = batch * len(classes.names), backbone.sizes.text.hidden_size
        return prompt.step_bytes(pairs) + 12 * (pairs + batch * prompt.length() * size)

    return Method(
        init=init,
        loss=loss,
        predict=logits,
        towers=("image", "text"),
        words=prompt.words,
        prompts=lambda params: params["prompt"]["context"],
        step_bytes=step_bytes,
    )
