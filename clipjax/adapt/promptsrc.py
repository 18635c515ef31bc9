"""PromptSRC: learned tokens in both towers, held near the encoder as it came.

Khattak et al. 2023 (arXiv 2307.06948). Independent tokens of text and image, as deep as MaPLe's but
without coupling, and

    CE + 25 mean|t - t0| + 10 mean|f - f0| + sum KL(p0 || p) / (B K)

of normalised class texts t, image embeddings f and answers p, and those of the encoder as it came
(0), which sees the same crop. Means of |.| are over all elements; KL is divided by the number of
answers too, as in the authors' code. Third, their Gaussian average of the prompts over epochs is
the config's: average = {"kind": "gauss", "every": "epoch", "mean": 15.0, "std": 1.0}, a result
beside the last. 46,080 parameters of ViT-B/16 with 4 + 4 tokens and depth 9. t0 is zero-shot of the
run's own `prompts`: the mean of normalised embeddings, where theirs is of embeddings as they come.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.context import CHUNK, check_deep, deep_tokens, make_context
from clipjax.adapt.coop import text_method
from clipjax.adapt.losses import weighted_mean
from clipjax.adapt.method import Backbone, Classes, Method, in_two_steps


class Seen(NamedTuple):
    """What is compared: `clipjax.adapt.method.Compared`, and the teacher's image embeddings."""

    image: jax.Array
    text: jax.Array
    row: jax.Array
    scale: jax.Array
    taught: jax.Array

    @property
    def logits(self) -> jax.Array:
        """Scaled similarities, [B, K]."""
        return self.scale * self.image @ self.text.T


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    tokens: int = 4,
    depth: int = 9,
    words: str = "a photo of a",
    text_anchor: float = 25.0,
    image_anchor: float = 10.0,
    logit_anchor: float = 1.0,
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> Method:
    """PromptSRC on a backbone.

    Parameters: {"prompt": {"context": float32 [n, D], "deep": [depth - 1, n, D], "image": [n, W],
    "image_deep": [depth - 1, n, W]}}, without the deep ones where depth is 1.

    Args:
      tokens, depth, words: as of `clipjax.adapt.maple`, n tokens in each tower.
      text_anchor, image_anchor, logit_anchor: factors on the three distances.

    Raises:
      ValueError: a negative factor, fewer words than tokens, a depth beyond a tower's, or as
        `make_context` does.
    """
    if min(text_anchor, image_anchor, logit_anchor) < 0:
        raise ValueError("text_anchor, image_anchor and logit_anchor must not be negative.")
    check_deep(backbone, tokens, depth, words)
    prompt = make_context(backbone, classes, words=words, learned=tokens, chunk=chunk)

    def init(rng):
        one, two, three, four = jax.random.split(rng, 4)
        text, width = backbone.sizes.text.hidden_size, backbone.sizes.vision.hidden_size
        own = {"context": prompt.init(one)} | deep_tokens(two, depth, tokens, deep=text)
        own["image"] = 0.02 * jax.random.normal(three, (tokens, width))
        return {"prompt": own | deep_tokens(four, depth, tokens, image_deep=width)}

    def image(params, inputs, rng=None):
        own = params["prompt"]
        return backbone.encode["image"](params, inputs, rng, own["image"], own.get("image_deep"))

    made = text_method(backbone, classes, prompt, label_smoothing, init=init, image=image)

    def compare(params, source, rng):
        teacher = {"clip": params["teacher"]}
        taught = backbone.encode["image"](teacher, source["inputs"], rng)
        return Seen(*made.compare(params, source, rng), jax.lax.stop_gradient(taught))

    def judge(params, seen, batch, rng, progress):
        weight, zero_shot = batch["source"].get("weight"), jnp.asarray(classes.weights)
        value, metrics = made.judge(params, seen, batch, rng, progress)
        own, taught = (
            jax.nn.log_softmax(logits)
            for logits in (seen.logits, classes.scale * seen.taught @ zero_shot.T)
        )
        apart = jnp.mean(jnp.exp(taught) * (taught - own), axis=1)
        away = jnp.mean(jnp.abs(seen.image - seen.taught), axis=1)
        found = {
            "text_distance": jnp.mean(jnp.abs(seen.text - zero_shot)),
            "image_distance": weighted_mean(away, weight),
            "logit_distance": weighted_mean(apart, weight),
        }
        factors = text_anchor, image_anchor, logit_anchor
        more = sum(f * x for f, x in zip(factors, found.values(), strict=True))
        return value + more, metrics | found

    two = {"compare": compare, "judge": judge, "loss": in_two_steps(compare, judge)}
    return made._replace(**two, reads=("source", "teacher"))
