"""What a finished study leaves for people: evidence.json and report.html."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from clipjax.evaluate import evidence, page
from clipjax.evaluate.maps import kept
from clipjax.log import read_log, write_atomically
from experiments.encode import Encoded
from experiments.measure import Outcome
from experiments.plan import Plan
from experiments.recorded import RECORD
from experiments.run import config_text
from experiments.train import programs

WORST, EXAMPLES = 5, 4
# What a record holds beside measures, and measures that say what others say.
_NO_MEASURES = ("phase", "epoch", "step", "seed", "s_per_epoch", "steps_per_s", "negative_entropy")


def gather(config, plan: Plan, encoded: Encoded, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """What the page shows beyond results and metrics, as JSON.

    Args:
      config: of the run.
      plan: what it opened.
      encoded: its data.
      outcomes: by method, "zero_shot" first.

    Returns:
      {"classes", "class_names" (as prompts say them), "programs" (the methods that trained as one
      each), "source", "target", "seed", "tsne" (`tsne_maps` and "labels" of the rows shown),
      "per_class" {"n", "accuracy" {method: per target class, mean over seeds}}, "worst" {method:
      `worst_classes` of the first seed}, "images" {target row: data URI}}.
    """
    source, target = (encoded.parts[d, "test"] for d in (config.data.source, config.data.target))
    num_classes = len(plan.dataset.classes)
    features = kept({name: o.features for name, o in outcomes.items() if o.features is not None})
    logits = {name: o.logits for name, o in outcomes.items()}
    maps = evidence.tsne_maps(features, seed=config.seeds[0])
    labels = [part.labels[maps[k]] for k, part in (("source", source), ("target", target))]
    worst = {
        name: evidence.worst_classes(found[0], target.labels, num_classes, WORST, EXAMPLES)
        for name, found in logits.items()
    }
    rows = sorted({e["row"] for found in worst.values() for c in found for e in c["examples"]})
    return {
        "classes": list(plan.dataset.classes),
        "class_names": list(plan.class_names),
        "programs": [list(names) for names in programs(config, plan)],
        "source": config.data.source,
        "target": config.data.target,
        "seed": config.seeds[0],
        "tsne": maps | {"labels": np.concatenate(labels).tolist()},
        "per_class": {
            "n": np.bincount(target.labels, minlength=num_classes).tolist(),
            "accuracy": {k: _mean_per_class(v, target.labels) for k, v in logits.items()},
        },
        "worst": worst,
        "images": _images(config, plan, encoded, rows),
    }


def _mean_per_class(logits: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Accuracy of each class, mean over the seeds of logits [S, N, K]."""
    seeds = [evidence.per_class(each, labels, logits.shape[-1]) for each in logits]
    # A class has an example for every seed or for none.
    return [None if c[0] is None else round(float(np.mean(c)), 4) for c in zip(*seeds, strict=True)]


def _images(config, plan, encoded: Encoded, rows: list[int]) -> dict[str, str]:
    """Thumbnails of target test examples as the model saw them."""
    examples, crop = encoded.source(config.data.target, "test"), plan.preprocess.crop
    return {
        str(row): evidence.thumbnail(crop(examples[row].image, examples[row].name)) for row in rows
    }


def training_curves(records: list[dict]) -> list[dict[str, Any]]:
    """The records of metrics.jsonl by epoch: {"method", "phase", "epoch", measure: per seed}.

    Validations join the epoch they were made after; seeds that trained one after the other join
    each other; the gradients' ratio, measured at lambda 1, is taken at the lambda of the epoch.
    """
    merged: dict[tuple, dict[str, Any]] = {}
    for record in records:
        phase, epoch = record.get("phase"), record.get("epoch")
        if phase is None or epoch is None:
            continue
        start = {"method": phase.split("/")[0], "phase": phase, "epoch": epoch}
        entry = merged.setdefault((phase, epoch), start)
        measures = record.get("evaluation", record)
        for key, values in measures.items():
            if key not in _NO_MEASURES:
                values = values if isinstance(values, list) else [values]
                entry[key] = entry.get(key, []) + [v for v in values if v is not None]
    for entry in merged.values():
        if "grad_ratio" in entry and "lam" in entry:
            pairs = zip(entry["grad_ratio"], entry["lam"], strict=True)
            entry["grad_ratio"] = [ratio * lam for ratio, lam in pairs]
    return list(merged.values())


def write(config, plan, encoded, outcomes, results: dict, workdir: pathlib.Path) -> None:
    """Writes evidence.json and report.html of a study that has its results."""
    found = gather(config, plan, encoded, outcomes)
    write_atomically(workdir / RECORD, json.dumps(found) + "\n")
    log = read_log(workdir / "metrics.jsonl")
    # Of a sweep the best settings alone are shown.
    metrics = training_curves([r for r in log if str(r.get("phase")).split("/")[0] in outcomes])
    settings = json.loads(config_text(config))
    write_atomically(workdir / "report.html", page.run_page(results, metrics, found, settings))
