"""What a finished study leaves for people: evidence.json and report.html."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.evaluate import evidence, page
from clipjax.log import write_atomically
from clipjax.model.heads import as_model, predict
from experiments.run import config_text

WORST, EXAMPLES = 5, 4


def gather(config, plan, encoded, trained: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """What the page shows beyond results and metrics, as JSON.

    Args:
      config: of the run.
      plan: experiments.study.Plan.
      encoded: experiments.study.Encoded.
      trained: method -> (heads, parameters stacked over seeds).

    Returns:
      {"classes", "source", "target", "seed", "tsne" (`tsne_maps` and "labels" of the rows shown),
      "per_class" {"n", "accuracy" {method: per target class, mean over seeds}}, "worst" {method:
      `worst_classes` of the first seed}, "images" {target row: data URI}}.
    """
    source, target = (encoded.parts[d, "test"] for d in (config.data.source, config.data.target))
    num_classes = len(plan.dataset.classes)
    features = {"zero_shot": (source.features, target.features)}
    logits = {"zero_shot": encoded.scale * target.features @ np.asarray(encoded.text_weights).T}
    logits["zero_shot"] = logits["zero_shot"][None]  # [seeds, N, K], as of the others
    for name, (heads, params) in trained.items():
        logits[name], adapted = _outputs(heads, params, source.features, target.features)
        if heads.adapter is not None:  # without one, the features are CLIP's own
            features[name] = adapted
    maps = evidence.tsne_maps(features, seed=config.seeds[0])
    labels = [part.labels[maps[k]] for k, part in (("source", source), ("target", target))]
    worst = {
        name: evidence.worst_classes(found[0], target.labels, num_classes, WORST, EXAMPLES)
        for name, found in logits.items()
    }
    rows = sorted({e["row"] for found in worst.values() for c in found for e in c["examples"]})
    return {
        "classes": list(plan.dataset.classes),
        "source": config.data.source,
        "target": config.data.target,
        "seed": config.seeds[0],
        "tsne": maps | {"labels": np.concatenate(labels).tolist()},
        "per_class": {
            "n": np.bincount(target.labels, minlength=num_classes).tolist(),
            "accuracy": {k: _mean_per_class(v, target.labels) for k, v in logits.items()},
        },
        "worst": worst,
        "images": _images(config, plan, rows),
    }


def _outputs(heads, params, source, target) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Target logits of all seeds [S, N, K]; adapted features of both domains, of the first."""
    adapt = as_model(heads).features

    @jax.jit
    def run(params, source, target):
        first = jax.tree.map(lambda x: x[0], params)
        logits = jax.vmap(lambda p: predict(heads, p, target))(params)
        return logits, (adapt(first, source, None), adapt(first, target, None))

    return jax.device_get(run(params, jnp.asarray(source), jnp.asarray(target)))


def _mean_per_class(logits: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Accuracy of each class, mean over the seeds of logits [S, N, K]."""
    seeds = [evidence.per_class(each, labels, logits.shape[-1]) for each in logits]
    # A class has an example for every seed or for none.
    return [None if c[0] is None else round(float(np.mean(c)), 4) for c in zip(*seeds, strict=True)]


def _images(config, plan, rows: list[int]) -> dict[str, str]:
    """Thumbnails of target test examples as the model saw them."""
    examples = plan.dataset.source(config.data.target, "test")
    crop = plan.preprocess.crop
    return {
        str(row): evidence.thumbnail(crop(examples[row].image, examples[row].name)) for row in rows
    }


def write(config, plan, encoded, trained, results: dict, workdir: pathlib.Path) -> None:
    """Writes evidence.json and report.html of a study that has its results."""
    found = gather(config, plan, encoded, trained)
    write_atomically(workdir / "evidence.json", json.dumps(found) + "\n")
    log = workdir / "metrics.jsonl"
    metrics = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    settings = json.loads(config_text(config))
    write_atomically(workdir / "report.html", page.run_page(results, metrics, found, settings))
