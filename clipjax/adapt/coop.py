"""CoOp: learned vectors in place of a template's words, everything else frozen.

Zhou et al. 2022 (arXiv 2109.01134): t_k = text tower of [BOS, v_1 .. v_M, name of k, ".", EOS],
p(k | x) = softmax_k(scale * cos(f(x), t_k)), cross-entropy in v alone. 16 random vectors, or
words = "a photo of a", which then are zero-shot with that template; the name at the end, in the
middle or in front; `per_class` gives each class vectors of its own (CSC). M * D parameters: 8,192
of ViT-B/16 with M = 16. What differs from the authors' code: float32 throughout (theirs is
float16), and images are not cropped at random, so that their features are encoded once.
"""

from typing import Any

from clipjax.adapt.context import CHUNK, Context, make_context
from clipjax.adapt.losses import class_loss
from clipjax.adapt.method import Backbone, Classes, Compared, Method, in_two_steps


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    context: int = 0,
    words: str = "",
    position: str = "end",
    per_class: bool = False,
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> Method:
    """CoOp on a backbone; options and ValueErrors are those of `make_context`.

    Parameters: {"prompt": {"context": float32 [M, D], of `per_class` [K, M, D]}}.
    """
    made = {"context": context, "words": words, "position": position, "per_class": per_class}
    prompt = make_context(backbone, classes, **made, chunk=chunk)
    return text_method(backbone, classes, prompt, label_smoothing)


def text_method(
    backbone: Backbone,
    classes: Classes,
    prompt: Context,
    label_smoothing: float,
    extra: Any = lambda texts: (0.0, {}),
) -> Method:
    """A method that learns context; `extra`: class texts [K, P] -> (added loss, metrics)."""
    vectors = lambda params: params["prompt"]["context"]

    def compared(params, inputs, texts, rng=None, label=None):
        image = backbone.encode["image"](params, inputs, rng)
        text = prompt.encode(params, vectors(params), texts)
        return Compared(image, text, label, backbone.scale(params))

    def compare(params, source, rng):
        return compared(params, source["inputs"], classes, rng, source["label"])

    def judge(params, seen, batch, rng, progress):
        value, metrics = class_loss(seen.logits, batch["source"], label_smoothing)
        more, measured = extra(seen.text)
        return value + more, metrics | measured

    return Method(
        init=lambda rng: {"prompt": {"context": prompt.init(rng)}},
        loss=in_two_steps(compare, judge),
        predict=lambda *given: compared(*given).logits,
        compare=compare,
        judge=judge,
        towers=("image", "text"),
        words=prompt.words,
        prompts=vectors,
        step_bytes=lambda batch: prompt.step_bytes(len(classes.names)),
    )
