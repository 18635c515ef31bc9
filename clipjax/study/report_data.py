"""Write evidence.json and report.html of a finished study."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.data.unlabelled import labelled
from clipjax.evaluate.metrics import per_class_accuracy
from clipjax.evaluate.report import answers, page
from clipjax.evaluate.report import tsne as evidence
from clipjax.evaluate.report.figures import kept
from clipjax.io import to_json, write_atomically
from clipjax.log import read_log
from clipjax.study.config import Study
from clipjax.study.encode import Encoded
from clipjax.study.evaluator import Outcome
from clipjax.study.prepared import RECORD, Plan
from clipjax.study.trainer import programs
from clipjax.study.workdir import config_text

WORST, EXAMPLES = 5, 4
# What a record holds beside measures, and measures that say what others say.
_NO_MEASURES = (
    "phase", "epoch", "step", "seed", "s_per_epoch", "steps_per_s", "negative_entropy", "mano",
    "nuclear_norm", "mixval", "doc",
)  # fmt: skip


def record(plan: Plan) -> dict[str, Any]:
    """Return what stands for a finished run's data (`clipjax.study.prepared.Recorded`)."""
    return {
        "classes": list(plan.dataset.classes),
        "class_names": list(plan.class_names),
        "programs": [list(names) for names in programs(plan)],
    }


def gather(encoded: Encoded, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Return what the page shows beyond results and metrics, as JSON; "zero_shot" comes first.

    "programs" are the methods that trained as one each, "per_class" has {method: accuracy of each
    target class, mean over seeds}, "confusion" and "calibration" are of all seeds
    (`clipjax.evaluate.report.answers`), "worst" is of the first one, "images" {target row: data
    URI}. "tsne" holds the maps, and under "sheet" the images mapped.
    """
    data, seed, plan = encoded.study.data, encoded.study.training.seeds[0], encoded.plan
    source, target = (encoded.parts[domain, "test"] for domain in (data.source_name, data.target))
    num_classes, known = len(plan.dataset.classes), labelled(target.labels)
    features = kept({name: o.features for name, o in outcomes.items() if o.features is not None})
    logits = {name: o.logits for name, o in outcomes.items()}
    maps = evidence.tsne_maps(features, seed=seed)
    labels = [part.labels[maps[k]] for k, part in (("source", source), ("target", target))]
    worst = {
        name: evidence.worst_classes(found[0], target.labels, num_classes, WORST, EXAMPLES)
        for name, found in logits.items()
    }
    rows = sorted({e["row"] for found in worst.values() for c in found for e in c["examples"]})
    examples, crop = encoded.source(data.target, "test"), plan.preprocess.crop
    return record(plan) | {
        "source": data.source_name,
        "target": data.target,
        "seed": seed,
        "tsne": maps | {"labels": np.concatenate(labels).tolist(), "sheet": _sheet(encoded, maps)},
        "per_class": {
            "n": np.bincount(target.labels[known], minlength=num_classes).tolist(),
            "accuracy": {
                k: _mean_per_class(v[:, known], target.labels[known]) for k, v in logits.items()
            },
        },
        "confusion": {k: answers.confusion(v, target.labels) for k, v in logits.items()},
        "calibration": {k: answers.reliability(v, target.labels) for k, v in logits.items()},
        "worst": worst,
        "images": {  # as the model saw them
            str(row): evidence.thumbnail(crop(examples[row].image, examples[row].name))
            for row in rows
        },
    }


def _sheet(encoded: Encoded, maps: Mapping[str, Any]) -> dict[str, Any]:
    """Return the images that are mapped, source first, as the model saw them; {} without a map."""
    data, crop = encoded.study.data, encoded.plan.preprocess.crop

    def images():
        for end, domain in (("source", data.source_name), ("target", data.target)):
            examples = encoded.source(domain, "test")
            for row in maps[end]:
                yield crop(examples[row].image, examples[row].name)

    return evidence.mosaic(images()) if maps["maps"] else {}


def _mean_per_class(logits: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Return the accuracy of each class, mean over the seeds of logits [S, N, K]."""
    seeds = [per_class_accuracy(each, labels, logits.shape[-1]) for each in logits]
    # A class has an example for every seed or for none.
    means = np.mean([[round(float(v), 4) for v in each] for each in seeds], axis=0)
    return [None if np.isnan(mean) else round(float(mean), 4) for mean in means]


def training_curves(records: list[dict], method_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """Merge the records of metrics.jsonl by epoch: {"method", "phase", "epoch", measure: per seed}.

    Phases that `method_of` (phase -> its method) lacks are left out. Validations join the epoch
    they were made after; the gradients' ratio, measured at lambda 1, is multiplied by the epoch's.
    """
    merged: dict[tuple, dict[str, Any]] = {}
    for record in records:
        phase, epoch = record.get("phase"), record.get("epoch")
        if phase not in method_of or epoch is None:
            continue
        start = {"method": method_of[phase], "phase": phase, "epoch": epoch}
        entry = merged.setdefault((phase, epoch), start)
        for key, values in record.get("evaluation", record).items():
            if key not in _NO_MEASURES:
                values = values if isinstance(values, list) else [values]
                entry[key] = entry.get(key, []) + values
    for entry in merged.values():
        if "grad_ratio" in entry and "lam" in entry:
            pairs = zip(entry["grad_ratio"], entry["lam"], strict=True)
            entry["grad_ratio"] = [None if None in pair else pair[0] * pair[1] for pair in pairs]
        for key, values in entry.items():
            if isinstance(values, list):
                entry[key] = [v for v in values if v is not None]
    return list(merged.values())


def write(encoded: Encoded, outcomes, results: dict, workdir: pathlib.Path) -> None:
    """Write evidence.json and report.html of a study that has its results."""
    found = gather(encoded, outcomes)
    write_atomically(workdir / RECORD, to_json(found) + "\n")
    write_page(encoded.study, found, results, workdir)


def write_page(
    study: Study, found: dict[str, Any], results: dict[str, Any], workdir: pathlib.Path
) -> None:
    """Write report.html of what a run has left: its evidence, results and metrics."""
    # Of a sweep the best settings alone are shown.
    names = found["per_class"]["accuracy"]
    shown = {phase: name for phase, name in study.method_of.items() if name in names}
    metrics = training_curves(read_log(workdir / "metrics.jsonl"), shown)
    settings = json.loads(config_text(study))
    text = page.run_page(results, metrics, found, settings, workdir)
    write_atomically(workdir / "report.html", text)
