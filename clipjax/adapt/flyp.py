"""FLYP: fine-tune as CLIP was trained, images against prompts of their classes.

Goyal et al. 2023 (arXiv 2212.00638): symmetric InfoNCE over the batch, each image with one prompt
of its class, drawn anew in every step. The other images of a class count as negatives, as in the
authors' code. Use heads = {"text": True}: the tuned text tower classifies, by all prompts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import Backbone, Classes, Head, Method, by_texts, compare_classes
from clipjax.adapt.similarities import DENOMINATORS, supervised_contrastive, text_ids


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, denominator: str = "diagonal"
) -> Method:
    """FLYP on a backbone; classes whose prompts are all the same are one.

    `denominator` is that of `clipjax.adapt.similarities.supervised_contrastive`: "diagonal" is
    FLYP; "exclude" and "soft" take the others of a class for no negatives. ValueError: an unknown
    one, or heads without a text tower.
    """
    if denominator not in DENOMINATORS:
        known = ", ".join(DENOMINATORS)
        raise ValueError(f"unknown denominator {denominator!r}; known: {known}.")
    if "text" not in head.towers:
        raise ValueError("flyp compares with prompts; use heads = {'text': True}.")

    def judge(params, seen, batch, rng, progress):
        source, tokens = batch["source"], np.asarray(classes.tokens)
        label, weight = source["label"], source.get("weight")
        which = jax.random.randint(rng, label.shape, 0, tokens.shape[1])
        text = backbone.encode["text"](params, jnp.asarray(tokens)[label, which])
        ids = jnp.asarray(text_ids(tokens))[label]
        value = supervised_contrastive(seen.image, text, ids, seen.scale, denominator, weight)
        hit = ids[jnp.argmax(seen.image @ text.T, axis=1)] == ids
        weight = jnp.ones(len(label)) if weight is None else weight
        return value, {"scale": seen.scale, "batch_accuracy": jnp.mean(hit * weight)}

    compare = compare_classes(backbone, classes)  # its texts are for added terms alone
    return by_texts(backbone, head, compare, judge, per_example=False)
