"""A user's prompt learning on clipjax's context: the first words of a template are learned."""

from clipjax.adapt.context import make_context
from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import Method


def make_method(backbone, classes, *, length=2):
    prompt = make_context(backbone, classes, words="a photo of a", learned=length, chunk=2)

    def logits(params, inputs, texts, rng=None):
        weights = prompt.encode(params, params["prompt"]["context"], texts)
        return backbone.scale(params) * backbone.encode["image"](params, inputs, rng) @ weights.T

    def loss(params, batch, rng, progress):
        source = batch["source"]
        found = logits(params, source["inputs"], classes, rng)
        value = smoothed_cross_entropy(found, source["label"], weight=source.get("weight"))
        return value, {"class_loss": value}

    init = lambda rng: {"prompt": {"context": prompt.init(rng)}}
    return Method(init, loss, logits, towers=("image", "text"), words=prompt.words)
