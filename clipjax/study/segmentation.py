"""A segmentation run: decoders trained on maps of a source domain, and tested on others."""

import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.domain import Domain, domain_embedding, entropy, readout
from clipjax.adapt.segment import Segmenter, make_segmenter
from clipjax.adapt.step import init_state, make_step
from clipjax.evaluate import segmentation_table as tables
from clipjax.evaluate.segmentation import confusion, overlap
from clipjax.io import write_atomically, write_json
from clipjax.log import MetricsLog
from clipjax.log.terminal import table
from clipjax.model.decoders import DECODERS, resize_map
from clipjax.model.hf.weights import read_json
from clipjax.study.segmentation_config import Segmentation, SegmentationMethod
from clipjax.study.segmentation_plan import (
    BATCH,
    Encoded,
    Plan,
    encoded,
    map_shape,
)
from clipjax.study.workdir import run_name
from clipjax.train.arrays import Epochs, epochs_program, fit_arrays, run_mesh
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.journal import Outputs
from clipjax.train.optim import make_optimizer
from clipjax.train.preemption import Notice
from clipjax.train.schedules import make_schedule

PyTree = Any
RESULTS, PAGE, TABLE = "segmentation.json", "segmentation.html", "segmentation.md"
NOTE = (
    "mIoU of one confusion matrix per seed and condition, in %, mean over seeds and standard "
    "deviation; all trained on the source alone, last epoch; mIoU% = 100 target / source"
)


def run(plan: Plan, workdir: pathlib.Path, say) -> None:
    """Train and test every method, going on where a killed run stopped; write the results."""
    config, started = plan.config, time.perf_counter()
    if (workdir / RESULTS).exists():
        found = read_json(workdir / RESULTS)
        _tell(found, say)
        say(f"this run is finished: {workdir / RESULTS}; use another --workdir to repeat it.")
        return
    MetricsLog(workdir / "metrics.jsonl").rewind(lambda record: True)
    data = plan.data
    many = f"{len(config.decoders)} methods, {len(config.seeds)} seeds"
    say(f"{many}, {len(data.train)} images of {data.train.domain}")
    train = encoded(plan, data.train)
    tests = {domain: encoded(plan, source) for domain, source in data.tests.items()}
    timing = {"encode": time.perf_counter() - started}
    found = _about(plan, tests)
    answers = {}
    for method in config.decoders:
        begun = time.perf_counter()
        made = _segmenter(plan, method, _class_weights(config, train.masks, len(data.classes)))
        params = _fit(plan, method, made, train, workdir, say)
        found["methods"][method.name], answers[method.name] = _tested(plan, made, params, tests)
        timing[method.name] = time.perf_counter() - begun
        told = found["methods"][method.name]["miou"]
        mean = lambda c, told=told: 100 * np.mean(told[c])
        shown = ", ".join(f"{c} {mean(c):.1f}" for c in tests)
        say(f"{method.name}: mIoU {shown} ({timing[method.name]:.0f} s)")
    for method in config.decoders:
        found["methods"][method.name]["against"] = _against(config, method)
    found["timing_s"] = {name: round(seconds, 1) for name, seconds in timing.items()}
    overlays = _overlays(plan, answers[config.decoders[0].name])
    write_atomically(workdir / PAGE, tables.page(found, overlays))
    write_atomically(workdir / TABLE, _markdown(found))
    write_json(workdir / RESULTS, found)  # last: a run that has it is finished
    _tell(found, say)
    say(f"results: {workdir / RESULTS}, {workdir / PAGE}")


def _class_weights(config: Segmentation, masks: np.ndarray, classes: int) -> np.ndarray | None:
    """Return weights of classes by their share of training pixels; None for 1 each."""
    if config.class_weights == "none":
        return None
    counts = np.bincount(masks.ravel(), minlength=classes)[:classes]  # without what is ignored
    share = counts / max(counts.sum(), 1)
    rules = {"sqrt": lambda p: np.maximum(p, 1e-6) ** -0.5, "enet": lambda p: 1 / np.log(1.02 + p)}
    return rules[config.class_weights](share).astype(np.float32)


def _segmenter(
    plan: Plan, method: SegmentationMethod, class_weights: np.ndarray | None
) -> Segmenter:
    width = {"width": plan.config.width}
    if method.decoder == "mask":
        shift = {"none": 0, "add": 1, "sub": -1}[method.prompt]
        width |= {"hidden": plan.config.width, "shift": shift, "modulate": method.norm == "domino"}
    module = DECODERS[method.decoder](len(plan.data.classes), stats=method.stats, **width)
    described = {}
    if method.uses_domain:
        described["descriptions"] = jnp.asarray(plan.descriptions)
        described |= {"scale": method.scale or plan.scale, "control": method.control}
    if method.decoder == "mask":
        described["texts"] = jnp.asarray(plan.texts)
    rest = {"class_weights": class_weights, "normaliser": plan.config.normaliser}
    return make_segmenter(module, resize_map, map_shape(plan), **described, **rest)


def _fit(plan: Plan, method: SegmentationMethod, made: Segmenter, train: Encoded, workdir, say):
    """Train all seeds of a method as one program; return parameters stacked over seeds."""
    config = plan.config
    seeds = np.array(config.seeds, np.uint32)
    steps = -(-len(train.maps) // config.batch_size) * config.epochs
    rate = make_schedule("linear", config.lr, steps, warmup=config.warmup)
    optimizer = make_optimizer(rate, weight_decay=config.weight_decay, clip_norm=1.0)
    begin = lambda seed: init_state(made.init(jax.random.key(seed)), optimizer, seed=seed)
    states = jax.jit(jax.vmap(begin))(seeds)
    rows = {"inputs": train.maps, "label": train.masks, "embedding": train.embedding}
    rows["condition"] = train.condition
    epochs = Epochs(
        (method.name,), config.epochs, config.batch_size, config.save_every,
        mesh=run_mesh(len(seeds)),
    )  # fmt: skip
    step = make_step(made.loss, optimizer, total_steps=steps)
    folder, log = workdir / "checkpoints" / method.name, MetricsLog(workdir / "metrics.jsonl")
    with Notice() as notice, Checkpointer(folder, run=run_name(workdir)) as checkpointer:
        states = fit_arrays(
            epochs_program(lambda _: step, epochs),
            states,
            {"source": rows},
            epochs,
            Outputs(checkpointer, log, say=say, stop=notice.reached),
        )
    return states.params


def _tested(plan: Plan, made: Segmenter, params: PyTree, tests: dict[str, Encoded]):
    """Return a method's measures by condition and seed, and the first seed's first answers."""
    config, count, classes = plan.config, len(plan.config.seeds), len(plan.data.classes)

    @functools.partial(jax.jit, static_argnums=3)
    def answer(params, rows, rng, size):
        logits = jax.vmap(lambda p: made.logits(p, rows, rng))(params)
        return jax.vmap(lambda x: resize_map(x, size).argmax(-1).astype(jnp.uint8))(logits)

    row = {"iou": {}, "miou": {}, "foreground": {}, "accuracy": {}}
    shown = {}
    for condition, test in tests.items():
        matrices = np.zeros((count, classes, classes), np.int64)
        for number, first in enumerate(range(0, len(test.maps), BATCH)):
            size = min(BATCH, len(test.maps) - first)
            index = np.arange(first, first + BATCH) % len(test.maps)  # one shape
            rows = {
                "inputs": test.maps[index],
                "embedding": test.embedding[index],
                "condition": test.condition[index],
            }
            found = np.asarray(answer(params, rows, jax.random.key(number), test.masks.shape[1:]))[
                :, :size
            ]
            for seed in range(count):
                matrices[seed] += confusion(test.masks[first : first + size], found[seed], classes)
            if not first:
                shown[condition] = found[0, : config.overlays]
        seen = [overlap(matrix) for matrix in matrices]
        row["iou"][condition] = [
            [None if np.isnan(x) else float(x) for x in each.iou] for each in seen
        ]
        for key in ("miou", "foreground", "accuracy"):
            row[key][condition] = [float(getattr(each, key)) for each in seen]
        if condition != plan.data.source:
            source = row["miou"][plan.data.source]
            row.setdefault("miou_percent", {})[condition] = [
                100 * each.miou / before for each, before in zip(seen, source, strict=True)
            ]
    return row, shown


def _against(config: Segmentation, method: SegmentationMethod) -> str:
    """Return the method that differs from this one in having no W; "" if there is none."""
    if not method.uses_domain:
        return ""
    alike = (method.decoder, method.stats)
    for other in config.decoders:
        if not other.uses_domain and (other.decoder, other.stats) == alike:
            return other.name
    return ""


def _about(plan: Plan, tests: dict[str, Encoded]) -> dict[str, Any]:
    """Return what is known before training: of the run, and of what CLIP says of the domains."""
    config = plan.config
    names = list(config.descriptions)
    truth = np.concatenate(
        [np.full(len(t.maps), names.index(c) if c in names else -1) for c, t in tests.items()]
    )
    of = np.repeat(list(tests), [len(test.maps) for test in tests.values()])
    images = np.concatenate([test.embedding for test in tests.values()])

    def read(scale: float) -> Domain:
        return domain_embedding(jnp.asarray(images), jnp.asarray(plan.descriptions), scale)

    def movement(domain: Domain) -> float:
        w = np.asarray(domain.embedding)
        apart = np.linalg.norm(w - w.mean(axis=0), axis=1).mean()
        return float(apart / np.linalg.norm(w.mean(axis=0)))

    scales = {"1": read(1.0), "clip": read(plan.scale)}
    weights = np.asarray(scales["clip"].weights)
    background = {
        c: overlap(confusion(t.masks, np.zeros_like(t.masks), len(plan.data.classes))).miou
        for c, t in tests.items()
    }
    return {
        "experiment": config.experiment,
        "model": config.model,
        "seeds": list(config.seeds),
        "classes": list(plan.data.classes),
        "conditions": list(tests),
        "descriptions": dict(config.descriptions),
        "images": {
            "train": dict(zip(config.data.sources, map(len, plan.data.train.rows), strict=True)),
            "test": {domain: len(test.masks) for domain, test in tests.items()},
        },
        "note": NOTE,
        "background": background,
        "domain": {
            "descriptions": len(names),
            # Of images whose domain has a description.
            "readout": float(readout(scales["clip"], jnp.asarray(truth), jnp.asarray(truth >= 0)))
            if (truth >= 0).any()
            else None,
            "entropy": {key: float(entropy(domain)) for key, domain in scales.items()},
            "movement": {key: movement(domain) for key, domain in scales.items()},
            "alpha": {c: weights[of == c].mean(axis=0).tolist() for c in tests},
        },
        "methods": {},
    }


def _overlays(plan: Plan, answers: dict[str, np.ndarray]) -> dict[str, str]:
    """Return pictures of the first method by condition: images, truths and answers."""
    from clipjax.evaluate.report.segments import strip

    found = {}
    for condition, answer in answers.items():
        shown = [plan.data.tests[condition][i] for i in range(len(answer))]
        if shown:
            images, masks = ([getattr(s, key) for s in shown] for key in ("image", "mask"))
            found[condition] = strip(images, masks, list(answer))
    return found


def _markdown(found: dict[str, Any]) -> str:
    """Write the tables as Markdown."""
    parts = []
    for header, lines in (tables.cells(found), tables.paired(found)):
        rows = [header, ["---", *("---:" for _ in header[1:])], *lines]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows) if lines else "")
    return "\n\n".join(filter(None, [*parts, f"{NOTE}.", f"{tables.reading(found)}."])) + "\n"


def _tell(found: dict[str, Any], say) -> None:
    """Say what was found."""
    say(f"\n{table(*tables.cells(found))}\n{NOTE}.\n")
    header, lines = tables.paired(found)
    if lines:
        say(f"{table(header, lines)}\n")
    say(f"{tables.reading(found)}.\n")
