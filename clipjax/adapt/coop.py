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
    *,
    init: Any = None,
    image: Any = None,
) -> Method:
    """A method that learns context, and tokens of the text tower's blocks where it has "deep" ones.

    Args:
      extra: class texts [K, P] -> (added loss, metrics).
      init: rng -> its parameters; by default {"prompt": {"context"}} alone.
      image: (params, inputs, rng=None) -> embeddings [B, P], of an image tower that it alters.
    """
    embed = image or backbone.encode["image"]

    def compared(params, inputs, texts, rng=None, label=None):
        own = params["prompt"]
        text = prompt.encode(params, own["context"], texts, own.get("deep"))
        return Compared(embed(params, inputs, rng), text, label, backbone.scale(params))

    def compare(params, source, rng):
        return compared(params, source["inputs"], classes, rng, source["label"])

    def judge(params, seen, batch, rng, progress):
        value, metrics = class_loss(seen.logits, batch["source"], label_smoothing)
        more, measured = extra(seen.text)
        return value + more, metrics | measured

    return Method(
        init=init or (lambda rng: {"prompt": {"context": prompt.init(rng)}}),
        loss=in_two_steps(compare, judge),
        predict=lambda *given: compared(*given).logits,
        compare=compare,
        judge=judge,
        embed=image,
        towers=("image", "text"),
        alters=("image",) if image else (),
        words=prompt.words,
        prompts=lambda params: params["prompt"]["context"],
        step_bytes=lambda batch: prompt.step_bytes(len(classes.names)),
    )
