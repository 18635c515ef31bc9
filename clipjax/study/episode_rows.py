"""Few-shot episodes after training: each method that answers them, beside CLIP as it came."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.linear import linear_logits
from clipjax.adapt.prototypes import prototype_head, set_means
from clipjax.adapt.step import merge
from clipjax.data.loading import sampler
from clipjax.data.unlabelled import labelled
from clipjax.evaluate.episodes import accuracies, interval
from clipjax.model.backbone import make_backbone
from clipjax.study.encode import Encoded
from clipjax.study.episode_sizes import enough_classes, judging_sampler
from clipjax.study.methods import Method
from clipjax.study.restore import Trained

MEANS = "class means"  # of the encoder's features, as they came


def _means(params, support, inputs, ids):
    return linear_logits(prototype_head(set_means(support)), inputs)


def _texts(params, support, inputs, ids):
    return inputs @ params[ids].T


def episode_rows(encoded: Encoded, done: Mapping[str, Trained]) -> list[dict[str, Any]]:
    """Return a row for each method, variant and domain, all on the same episodes.

    Domains without labels, or with too few images of a class, have none. Beside the methods stand
    zero-shot among the episode's classes, and the class means of CLIP's own features.
    """
    plan, classes, rows = encoded.plan, encoded.classes, []
    backbone = make_backbone(plan.module, lambda pixels, rng: pixels, ("image",), plan.words)
    baselines: set[sampler.Episodes] = set()
    for name, trained in done.items():
        method: Method = plan.methods[name]
        if method.kind.episode is None or not method.config.episodes:
            continue
        if not method.config.episodes.test:
            continue
        tasks = judging_sampler(method.config.episodes, len(classes.names))
        if tasks not in baselines:
            baselines.add(tasks)
            if encoded.has_texts:
                weights = jnp.asarray(encoded.text_weights)
                rows += _rows(encoded, tasks, "zero_shot", "", _texts, [weights], None)
            rows += _rows(encoded, tasks, MEANS, "", _means, [()], None)
        made = method.on(backbone, classes, method.config.phases[-1])
        answer = functools.partial(_method_answer, made.episode)
        for variant, stacked in trained.variants.items():
            stacked = jax.device_get(stacked)
            each = [
                merge(jax.tree.map(lambda x: x[i], stacked), trained.shared)  # noqa: B023
                for i in range(len(encoded.study.training.seeds))
            ]
            own = "" if variant == next(iter(trained.variants)) else variant
            rows += _rows(encoded, tasks, name, own, answer, each, trained.view)
    return rows


def _method_answer(episode: Callable, params, support, inputs, ids):
    return episode(params, support, inputs)


def _rows(encoded: Encoded, tasks: sampler.Episodes, name, variant, answer, each, view) -> list:
    names, found = encoded.classes.names, []
    judged = [names[k] for k in range(len(names)) if k not in tasks.left_out]
    for part in (part for part in encoded.parts if part[1] == "test"):
        labels = np.asarray(encoded.parts[part].labels)
        if enough_classes(tasks, labels) < tasks.way:
            continue
        known, seeds = labelled(labels), []
        for params in each:
            seen = view.features(view.placed(params), part) if view else encoded.parts[part]
            x = jnp.asarray(np.asarray(seen.features)[known], jnp.float32)
            given = jnp.asarray(labels[known], jnp.int32)
            seeds.append(np.asarray(accuracies(answer, params, x, given, jax.random.key(0), tasks)))
        mean, half = interval(np.mean(seeds, axis=0))
        found.append(
            {
                "method": name,
                "variant": variant,
                "domain": part[0],
                "way": tasks.way,
                "shot": tasks.shot,
                "query": tasks.query,
                "count": tasks.count,
                "classes": judged,
                "seen": not tasks.left_out,
                "accuracy": mean,
                "ci95": half,
                "accuracies": [round(float(one.mean()), 6) for one in seeds],
            }
        )
    return found
