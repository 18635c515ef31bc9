"""Prototypical networks (Snell et al. 2017, arXiv 1703.05175): features trained by episodes.

In each episode the means of a few examples of each class answer for others of these classes. What
is learned is where features lie, so a trained network answers for classes that it never saw.
"""

import jax

from clipjax.adapt.episodes import (
    Sizes,
    as_tasks,
    check_memory_size,
    check_sets,
    episodic,
    query_loss,
)
from clipjax.adapt.linear import linear_logits
from clipjax.adapt.method import Backbone, Classes, Head, Method, on_backbone
from clipjax.adapt.prototypes import check_temperature, prototype_head, set_means


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    episodes: Sizes,
    temperature: float = 1.0,
    memory: int = 16,
    label_smoothing: float = 0.0,
) -> Method:
    """Episodes on a head's adapter; its class head has no part in it and is left out.

    The loss is the cross-entropy of the softmax of -`temperature` |f - c|^2, mean over the queries
    of all tasks of a step; 1 is the paper's, `temperature` 0 CLIP's own scale. Asked for all
    classes, it answers by the means of `memory` source examples of each class, which the encoder as
    it came has seen: with a trained image tower they would be of another encoder, so it is refused.

    ValueError: a negative temperature, a memory below 1, no adapter, an encoder that trains.
    """
    check_temperature(temperature)
    check_memory_size(memory)
    factor = temperature or classes.scale
    model = on_backbone(backbone, head)

    def init(rng):
        return {key: value for key, value in head.init(rng).items() if key == "adapter"}

    if "adapter" not in jax.eval_shape(init, jax.random.key(0)):
        raise ValueError(
            "without an adapter nothing trains by episodes; give heads = {'adapter': (256,)}, or "
            "take loss 'prototypes', which trains nothing."
        )

    def answer(params, support, inputs, weight=None):  # of embeddings
        seen = head.model.features(params, support.reshape(-1, support.shape[-1]), None)
        means = set_means(seen.reshape(*support.shape[:2], -1), weight)
        return linear_logits(
            prototype_head(means, factor), head.model.features(params, inputs, None)
        )

    def loss(params, batch, rng, progress):
        check_sets(batch, episodes)
        keys = (None, None) if rng is None else jax.random.split(rng)
        support, query = (
            as_tasks(
                model.features(params, batch[part]["inputs"], key), episodes.tasks, episodes.way
            )
            for part, key in zip(("support", "source"), keys, strict=True)
        )
        task = lambda s, q: linear_logits(
            prototype_head(set_means(s), factor), q.reshape(-1, q.shape[-1])
        )
        return query_loss(jax.vmap(task)(support, query), label_smoothing)

    made = {"init": init, "loss": loss, "answer": answer, "features": model.features}
    return episodic(backbone, classes, int(memory), **made)
