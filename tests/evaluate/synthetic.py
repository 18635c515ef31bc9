"""A small made-up run with everything a page can show, and with names that try to break it."""

from __future__ import annotations

import numpy as np

from clipjax.evaluate.metrics import per_class_accuracy
from clipjax.evaluate.report import answers
from clipjax.evaluate.report import tsne as evidence
from clipjax.evaluate.rows import row
from clipjax.evaluate.verdict import decide

EVIL = "<script>alert(1)</script>"
CLASSES = [EVIL, 'a "quoted" & long class name that goes on', "bell\x07", "\udcff", "cat", "dog"]
METHODS = ("zero_shot", "finetune", "dann")


def results(seeds=(0, 1), methods=METHODS) -> dict:
    """Content of results.json."""
    rng, rows = np.random.default_rng(0), []
    for method in methods:
        for domain in ("real", "sketch", "clipart"):
            hits = rng.uniform(0.2, 0.9, 1 if method == "zero_shot" else len(seeds))
            measures = {"accuracy": hits, "macro_accuracy": hits / 2}
            rows.append(row(method, domain, "test", 40, measures))
    return {
        "version": 2,
        "experiment": "dann",
        "model": "tiny",
        "data": {"name": "photos", "source": "real", "target": "sketch"},
        "classes": len(CLASSES),
        "seeds": list(seeds),
        "selection": "last",
        "rows": rows,
        "domain_gap": dict.fromkeys(methods, 12.3),
        "variant_gap": {},
        "proxy_a_distance": {m: [1.2] * len(seeds) for m in methods},
        "timing_s": {"encode": 1.0},
        "versions": {"clipjax": "0.1.0"},
        "majority": {"real": 0.2, "sketch": 0.25},
        "command": f"clipjax run dann 'root={EVIL}'",
        "machine": {"devices": "1 x cpu", "processor": EVIL, "cores": 2, "system": "Linux"},
    }


def with_variant(found: dict, method: str, variant: str) -> dict:
    """Results in which a method has a second variant of accuracy 0, and of a gap of 4.6 points."""
    none = {"accuracy": [0.0, 0.0], "macro_accuracy": [0.0, 0.0]}
    domains = dict.fromkeys(each["domain"] for each in found["rows"])
    more = [row(method, domain, "test", 40, none, variant=variant) for domain in domains]
    return found | {"rows": found["rows"] + more, "variant_gap": {method: {variant: 4.6}}}


def metrics(epochs=5, seeds=2, methods=METHODS[1:]) -> list[dict]:
    """Records of metrics.jsonl, of the kinds there are."""
    rng = np.random.default_rng(1)
    keys = ["class_loss", "loss", "source_accuracy", "grad_norm", "lr"]
    dann = ["domain_loss", "domain_accuracy_source", "domain_accuracy_target", "lam", "grad_ratio"]
    records = []
    for method in methods:
        for epoch in range(1, epochs + 1):
            names = keys + dann * (method == "dann")
            values = {name: rng.uniform(0, 1, seeds).tolist() for name in names}
            records.append({"phase": method, "epoch": epoch, "step": epoch} | values)
        records.append({"phase": "evaluate", "method": method, "information_maximization": {}})
    return records


def per_class(logits, labels, num_classes) -> list[float | None]:
    """Accuracy of each class as evidence.json has it."""
    found = per_class_accuracy(logits, labels, num_classes)
    return [None if np.isnan(v) else round(float(v), 4) for v in found]


def found(methods=METHODS, num_classes=6, n=40) -> dict:
    """Content of evidence.json."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, num_classes, n)
    logits = {m: rng.standard_normal((n, num_classes)) for m in methods}
    image = evidence.thumbnail(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8))
    worst = {m: evidence.worst_classes(x, labels, num_classes) for m, x in logits.items()}
    return {
        "classes": (CLASSES + [f"class {i}" for i in range(num_classes)])[:num_classes],
        "source": "real",
        "target": "sketch",
        "seed": 0,
        "tsne": {
            "source": list(range(n)),
            "target": list(range(n)),
            "maps": {m: rng.standard_normal((2 * n, 2)).round(2).tolist() for m in methods},
            "collapsed": [],
            "labels": [*labels.tolist(), *labels.tolist()],
            "sheet": evidence.mosaic(rng.integers(0, 255, (2 * n, 9, 9, 3), dtype=np.uint8)),
        },
        "confusion": {m: answers.confusion(x[None], labels) for m, x in logits.items()},
        "calibration": {m: answers.reliability(x[None], labels) for m, x in logits.items()},
        "per_class": {
            "n": np.bincount(labels, minlength=num_classes).tolist(),
            "accuracy": {m: per_class(x, labels, num_classes) for m, x in logits.items()},
        },
        "worst": worst,
        "images": {str(row): image for row in range(n)},
    }


def selection_rules() -> dict:
    """What results hold when checkpoints were compared."""
    rule = {"epoch": [3, 4], "source": [0.7, 0.8], "target": [0.5, 0.6]}
    last = {"epoch": [5], "source": [0.7], "target": [0.5]}
    return {"dann": {"last": last, "source_val": rule}}


def choice(methods=METHODS, seeds=2) -> dict:
    """What results hold when methods were compared; the last one is taken."""
    rng = np.random.default_rng(3)
    rules = ("ensemble_agreement", "atc", "source_val", "effective_classes")
    draw = lambda name: rng.uniform(0, 1, 1 if name == "zero_shot" else seeds).tolist()
    scores = {name: {rule: draw(name) for rule in rules} for name in methods}
    why = {methods[1]: "predicts 1.0 effective classes, zero-shot 5.0"}
    about = {"rule": "ensemble_agreement", "n": 40, "pick": methods[-1]}
    return about | {"scores": scores, "refused": why}


def with_verdict(found: dict) -> dict:
    """Results with the verdict of made-up answers to 40 test images; finetune is source-only."""
    rng = np.random.default_rng(4)
    runs = lambda name: 1 if name == "zero_shot" else len(found["seeds"])
    names = dict.fromkeys(each["method"] for each in found["rows"])
    right = {name: rng.uniform(size=(runs(name), 40)) < 0.6 for name in names}
    return found | {"verdict": decide(found, right, source_only=["finetune"])}
