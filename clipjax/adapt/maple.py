"""MaPLe: learned tokens in both towers and several blocks, the image's made of the text's.

Khattak et al. 2023 (arXiv 2210.03117). Two tokens of text, which start as "a photo" of "a photo of
a NAME.", and two more, of N(0, 0.02^2), at the input of each of blocks 1 to depth - 1, where they
replace those before; a linear layer for each depth makes of them the two tokens behind the image's
patches, without a position. From there on they flow on as any token does. The layers of the deeper
blocks start as copies of one, as in the authors' code. 3,555,072 parameters of ViT-B/16 with depth
9. The image tower is altered: images are encoded in every step.
"""

import jax
import jax.numpy as jnp

from clipjax.adapt.cocoop import linear
from clipjax.adapt.context import CHUNK, check_deep, deep_tokens, make_context
from clipjax.adapt.coop import text_method
from clipjax.adapt.method import Backbone, Classes, Method


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    tokens: int = 2,
    depth: int = 9,
    words: str = "a photo of a",
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> Method:
    """MaPLe on a backbone.

    Parameters: {"prompt": {"context": float32 [n, D], "deep": [depth - 1, n, D]}, "coupling":
    {"kernel": [depth, D, W], "bias": [depth, W]}}, without "deep" where depth is 1.

    Args:
      tokens: n; the first n of `words` are learned, the others stay.
      depth: blocks whose input they are; 1: the first alone.
      words: the template, which the name and a full stop follow.

    Raises:
      ValueError: fewer words than tokens, a depth beyond a tower's, or as `make_context` does.
    """
    check_deep(backbone, tokens, depth, words)
    made = {"words": words, "learned": tokens, "chunk": chunk}
    prompt = make_context(backbone, classes, **made)

    def init(rng):
        one, two, three, four = jax.random.split(rng, 4)
        text, width = backbone.sizes.text.hidden_size, backbone.sizes.vision.hidden_size
        first, deeper = linear(one, text, width), linear(two, text, width)
        coupling = jax.tree.map(lambda *x: jnp.stack(x), first, *[deeper] * (depth - 1))
        own = {"context": prompt.init(three)} | deep_tokens(four, depth, tokens, deep=text)
        return {"prompt": own, "coupling": coupling}

    def image(params, inputs, rng=None):
        own, layers = params["prompt"], params["coupling"]
        text = jnp.concatenate([own["context"][None], *([own["deep"]] if depth > 1 else [])])
        seen = jnp.einsum("jnd,jdw->jnw", text, layers["kernel"]) + layers["bias"][:, None]
        return backbone.encode["image"](params, inputs, rng, seen[0], seen[1:])  # of no depth: none

    return text_method(backbone, classes, prompt, label_smoothing, init=init, image=image)
