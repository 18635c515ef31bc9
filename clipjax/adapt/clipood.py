"""CLIPood: the image tower trained with a margin that grows with how unlike two classes' texts are.

Shu et al. 2023 (arXiv 2302.00864), as their code has it: cross-entropy of

    scale (s_k + margin (1 - t_y . t_k))

where s_k are similarities of an image with all texts t and y is its class. Texts and scale stay as
they came; the parameters from zero-shot on are averaged with Beta weights, in the config:
average = {"kind": "beta", "b": 0.5}. It takes no heads, and answers for any classes by their texts.
"""

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import label_accuracy, smoothed_cross_entropy
from clipjax.adapt.method import Backbone, Classes, Compared, Method, in_two_steps


def margin_softmax(
    image: jax.Array,
    text: jax.Array,
    label: jax.Array,
    scale: jax.Array | float,
    margin: float,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of similarities with a margin (MMS), in nats; arguments of length 1.

    Args:
      image: float [B, P].
      text: float [K, P], of the classes; it gets no gradient.
      label: int [B].
      scale: factor on similarities.
      margin: added to similarities with texts at a right angle to the image's own.
      weight: float [B] of `clipjax.adapt.losses.weigh`.
    """
    text = jax.lax.stop_gradient(text)
    alike = text[label] @ text.T
    logits = scale * (image @ text.T + margin * (1 - alike))
    return smoothed_cross_entropy(logits, label, weight=weight)


def make_method(backbone: Backbone, classes: Classes, *, margin: float = 0.3) -> Method:
    """CLIPood on a backbone. ValueError: a negative margin."""
    if margin < 0:
        raise ValueError(f"margin is {margin}; it must not be negative.")
    encode = backbone.encode["image"]

    def compare(params, source, rng):
        image = encode(params, source["inputs"], rng)
        text, scale = jnp.asarray(classes.weights), jnp.asarray(classes.scale)
        return Compared(image, text, source["label"], scale)

    def judge(params, seen, batch, rng, progress):
        source = batch["source"]
        label, weight = source["label"], source.get("weight")
        value = margin_softmax(seen.image, seen.text, label, seen.scale, margin, weight)
        right = label_accuracy(seen.logits, label, weight)  # without the margin
        return value, {"class_loss": value, "source_accuracy": right}

    return Method(
        init=lambda rng: {},
        loss=in_two_steps(compare, judge),
        predict=lambda params, x, texts: texts.scale * encode(params, x) @ texts.weights.T,
        compare=compare,
        judge=judge,
        from_zero_shot=True,
    )
