"""A segmentation run: decoders trained on maps of a source domain, and tested on others."""

import dataclasses
import pathlib
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from clipjax.adapt.domain import Domain, domain_embedding, entropy, readout
from clipjax.data.masks import NO_MASKS
from clipjax.evaluate import segmentation_grid
from clipjax.evaluate import segmentation_table as tables
from clipjax.io import write_atomically, write_json
from clipjax.log import MetricsLog
from clipjax.log.terminal import table
from clipjax.model.diffusion.random_weights import RANDOM, RANDOM_TOLD
from clipjax.model.hf.weights import read_json
from clipjax.study.defaults import MODEL, TINY
from clipjax.study.image_record import check_same_masks
from clipjax.study.mask_teacher import labels_of, told_of_labels
from clipjax.study.segmentation_config import Segmentation, SegmentationMethod
from clipjax.study.segmentation_data import Masked
from clipjax.study.segmentation_maps import Encoded, Encoder, are_cached
from clipjax.study.segmentation_plan import Plan
from clipjax.study.segmentation_pngs import ANSWERS
from clipjax.study.segmentation_rows import Rows
from clipjax.study.segmentation_trainer import Trainer

RESULTS, PAGE, TABLE = "segmentation.json", "segmentation.html", "segmentation.md"
NOTE = (
    "mIoU of one confusion matrix per seed and condition, in %, mean over seeds and standard "
    "deviation; all trained on the source alone, last epoch; mIoU% = 100 target / source"
)

VALIDATED = "; measured are validation images of the source, to choose by, and none of a target"


def run(plan: Plan, workdir: pathlib.Path, say) -> None:
    """Train and test every method, going on where a killed run stopped; write the results."""
    config, started = plan.config, time.perf_counter()
    if (workdir / RESULTS).exists():
        found = read_json(workdir / RESULTS)
        _tell(found, say)
        say(f"this run is finished: {workdir / RESULTS}; use another --workdir to repeat it.")
        return
    data = plan.data
    read = {"training": data.train} | {f"{c} in tests": test for c, test in data.tests.items()}
    check_same_masks(workdir, read | {f"mixing {x.domain}": x for x in plan.pool})
    MetricsLog(workdir / "metrics.jsonl").rewind(lambda record: True)
    many = f"{len(config.decoders)} methods, {len(config.seeds)} seeds"
    say(f"{many}, {len(data.train)} images of {data.train.domain}")
    extra = len(data.train) if config.mixing.shares else 0
    cached, told = are_cached(plan, len(data.train) + extra + sum(map(len, data.tests.values())))
    alien = config.model == MODEL and not config.data.embedded
    random = config.diffusion.model == RANDOM
    notes = *data.notes, plan.dense.note
    for words in filter(None, (RANDOM_TOLD * random, *notes, told, TINY * alien)):
        say(f"{words.rstrip('.')}.")
    encode = Encoder(plan, cached)
    train = encode(data.train)
    trains = {"masks": train} if train.source.masked else {}
    if any(method.labels == "teacher" for method in config.decoders):
        trains["teacher"] = train.relabelled(labels_of(plan.teacher, train.source))
    tests = {domain: encode(source) for domain, source in data.tests.items()}
    found = _about(plan, tests) | {"maps": told} | _constant(data, train, tests)
    weights = {labels: _class_weights(plan, train) for labels, train in trains.items()}
    trainer = Trainer(plan, workdir, say, weights, cached)
    rows = Rows(trainer, tests, workdir, say)
    found["methods"] = rows.methods(trains)
    for method in config.decoders:
        row = found["methods"][method.name]
        row["against"], row["fields"] = _against(config, method), dataclasses.asdict(method)
    found["mixing"] = rows.mixing(encode)
    overlays = {name: row.pop("overlays") for name, row in found["methods"].items()}
    found["seconds"] = round(time.perf_counter() - started, 1)
    write_atomically(workdir / PAGE, tables.page(found, overlays[config.decoders[0].name]))
    write_atomically(workdir / TABLE, _markdown(found))
    write_json(workdir / RESULTS, found)  # last: a run that has it is finished
    _tell(found, say)
    bare = f", {workdir / ANSWERS}" if found["not_measured"] else ""
    say(f"results: {workdir / RESULTS}, {workdir / PAGE}{bare}")


def _constant(data: Masked, train: Encoded, tests: dict[str, Encoded]) -> dict[str, Any]:
    """Return the most frequent class, of which masks, and the mIoU of answering it everywhere.

    Of the training masks; where there are none, of the first that are tested.
    """
    known = [train] if train.source.masked else [tests[domain] for domain in data.measured]
    if not known:
        return {"majority": None, "majority_of": None, "constant": {}}
    major = int(known[0].shares(data).argmax())
    constant = {domain: tests[domain].constant(major, data) for domain in data.measured}
    of = "train" if known[0] is train else data.measured[0]
    return {"majority": data.classes[major], "majority_of": of, "constant": constant}


def _class_weights(plan: Plan, train: Encoded) -> np.ndarray | None:
    """Return weights of classes by their share of training pixels; None for 1 each."""
    rule = plan.config.class_weights
    if rule == "none":
        return None
    rules = {"sqrt": lambda p: np.maximum(p, 1e-6) ** -0.5, "enet": lambda p: 1 / np.log(1.02 + p)}
    return rules[rule](train.shares(plan.data)).astype(np.float32)


def _against(config: Segmentation, method: SegmentationMethod) -> str:
    """Return the method that differs from this one in having no W; "" if there is none."""
    if not method.uses_domain:
        return ""
    alike = lambda one: (one.decoder, one.stats, one.classifier, one.labels, one.lr)
    for other in config.decoders:
        if not other.uses_domain and alike(other) == alike(method):
            return other.name
    return ""


def _about(plan: Plan, tests: dict[str, Encoded]) -> dict[str, Any]:
    """Return what is known before training: of the run, and of what CLIP says of the domains."""
    config = plan.config
    names = list(config.descriptions)
    truth = np.concatenate(
        [np.full(len(t), names.index(c) if c in names else -1) for c, t in tests.items()]
    )
    of = np.repeat(list(tests), [len(test) for test in tests.values()])
    images = np.concatenate([test.embedding for test in tests.values()])

    def read(scale: float) -> Domain:
        return domain_embedding(jnp.asarray(images), jnp.asarray(plan.reader.descriptions), scale)

    def movement(domain: Domain) -> float:
        w = np.asarray(domain.embedding)
        apart = np.linalg.norm(w - w.mean(axis=0), axis=1).mean()
        return float(apart / np.linalg.norm(w.mean(axis=0)))

    random = config.diffusion.model == RANDOM
    scales = {"1": read(1.0), "clip": read(plan.reader.scale)}
    weights = np.asarray(scales["clip"].weights)
    largest = np.eye(len(names))[weights.argmax(axis=1)]
    return {
        "experiment": config.experiment,
        "model": config.diffusion.model or config.model,
        "domain_model": config.domain_model or config.model,
        "levels": list(plan.dense.levels),
        "trains": plan.dense.trains,
        "labels": told_of_labels(plan.teacher, config, bool(plan.data.measured)),
        "seeds": list(config.seeds),
        "classes": list(plan.data.classes),
        "conditions": list(tests),
        "not_measured": {c: NO_MASKS for c in tests if c not in plan.data.measured},
        "descriptions": dict(config.descriptions),
        "images": {
            "train": dict(zip(config.data.sources, map(len, plan.data.train.rows), strict=True)),
            config.data.evaluate: {domain: len(test) for domain, test in tests.items()},
        },
        "split": config.data.evaluate,
        "note": f"{RANDOM_TOLD}; " * random + NOTE + VALIDATED * (config.data.evaluate == "val"),
        "domain": {
            "descriptions": len(names),
            # Of images whose domain has a description.
            "readout": float(readout(scales["clip"], jnp.asarray(truth), jnp.asarray(truth >= 0)))
            if (truth >= 0).any()
            else None,
            "entropy": {key: float(entropy(domain)) for key, domain in scales.items()},
            "movement": {key: movement(domain) for key, domain in scales.items()},
            "alpha": {c: weights[of == c].mean(axis=0).tolist() for c in tests},
            "named": {c: largest[of == c].mean(axis=0).tolist() for c in tests},
        },
        "methods": {},
    }


def _parts(found: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, header and lines of the tables that are not empty."""
    parts = [("", *tables.cells(found)), ("", *tables.paired(found))]
    parts += [(made.title, made.header, made.lines) for made in tables.compared(found)]
    parts.append(("mixing", *segmentation_grid.mixing(found)))
    parts.append(("images by the name that CLIP gives them", *tables.named(found)))
    return [part for part in parts if part[2]]


def _words(found: dict[str, Any]) -> list[str]:
    """Return the sentences, without full stops."""
    told = [tables.note(found), segmentation_grid.sentence(found), tables.reading(found)]
    return list(filter(None, told))


def _markdown(found: dict[str, Any]) -> str:
    """Write the tables as Markdown."""
    parts = []
    for title, header, lines in _parts(found):
        rows = [header, ["---", *("---:" for _ in header[1:])], *lines]
        text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"{title}\n\n{text}" if title else text)
    return "\n\n".join([*parts, *(f"{words}." for words in _words(found))]) + "\n"


def _tell(found: dict[str, Any], say) -> None:
    """Say what was found."""
    for title, header, lines in _parts(found):
        say(f"\n{title}\n{table(header, lines)}" if title else f"\n{table(header, lines)}")
    say("")
    for words in _words(found):
        say(f"{words}.")
