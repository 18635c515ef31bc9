"""Low-rank factors (LoRA) on the query projections of a tower's blocks; the tower is shared."""

import jax

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import Method, class_weights


def make_method(backbone, classes, *, tower="text", rank=2, widths=(24,)):
    part = {"text": "text", "image": "vision"}[tower]

    def effective(params):
        blocks = dict(params["clip"][part])
        for name, factors in params["lora"].items():
            attention = blocks[name]["self_attn"]
            kernel = attention["q_proj"]["kernel"] + factors["a"] @ factors["b"]
            attention = {**attention, "q_proj": {**attention["q_proj"], "kernel": kernel}}
            blocks[name] = {**blocks[name], "self_attn": attention}
        return {**params, "clip": {**params["clip"], part: blocks}}

    def logits(params, inputs, texts, rng=None):
        params = effective(params)
        weights = class_weights(backbone, params, texts.tokens)
        return backbone.scale(params) * backbone.encode["image"](params, inputs, rng) @ weights.T

    def loss(params, batch, rng, progress):
        source = batch["source"]
        found = logits(params, source["inputs"], classes, rng)
        value = smoothed_cross_entropy(found, source["label"], weight=source.get("weight"))
        return value, {"class_loss": value}

    def init(rng):
        a = lambda width: 0.1 * jax.random.normal(rng, (width, rank))
        b = lambda width: jax.numpy.zeros((rank, width))
        return {"lora": {f"block_{i}": {"a": a(w), "b": b(w)} for i, w in enumerate(widths)}}

    embed = lambda params, pixels: backbone.encode["image"](effective(params), pixels)
    return Method(init, loss, logits, embed=embed, towers=("image", "text"), alters=(tower,))
