"""What a run says before it works: device, model, images, steps, and where its files go."""

import importlib.metadata
import pathlib

from clipjax.log.terminal import wrapped
from clipjax.runtime.machine import machine
from clipjax.study.epochs import planned_epoch
from clipjax.study.methods import Method
from clipjax.study.plan import evaluated, needed_parts
from clipjax.study.prepared import Plan, task_bytes


def header(plan: Plan, workdir: pathlib.Path | None) -> str:
    """Return the lines; images are counted as the folders have them, unreadable ones too.

    `workdir` is None of a run that keeps no files.
    """
    study, dataset = plan.study, plan.dataset
    found, data = machine(), study.data
    sizes = {part: len(dataset.source(*part)) for part in needed_parts(study, dataset)}
    domains, classes = evaluated(study, dataset), len(dataset.classes)
    said = {
        "data": f"{dataset.name}, {data.source_name} (labelled) -> {data.target}",
        "device": f"{found['devices']}, {found['cores']} cores ({found['processor']})",
        "model": f"{study.encoder.model}, {plan.preprocess.size} pixels",
        "images": f"{sum(sizes.values())} of {len(domains)} domains, {classes} classes",
        "steps": _steps(plan),
        "files": "none are kept" if workdir is None else str(workdir),
    }
    lines = [f"clipjax {importlib.metadata.version('clipjax')}: {study.experiment}"]
    lines += [f"  {name:8}{told}" for name, told in said.items()]
    return "\n".join(wrapped(line, indent=" " * 8) for line in lines)


def _steps(plan: Plan) -> str:
    """Say how long methods train, those of one length together."""
    found: dict[str, list[str]] = {}
    for name, method in plan.methods.items():
        found.setdefault(_length(plan, method), []).append(name)
    if not found:
        return "none: zero-shot alone"
    seeds = len(plan.study.training.seeds)
    named = lambda names: ", ".join(names) if len(names) < 9 else f"{len(names)} methods"
    told = "; ".join(f"{named(names)}: {length}" for length, names in found.items())
    return f"{told}; {seeds} seed{'s' * (seeds > 1)}"


def _length(plan: Plan, method: Method) -> str:
    if not method.trains:
        return "closed form"
    if episodes := method.config.episodes:
        steps, tasks = episodes.count // episodes.tasks, episodes.tasks
        sets = f"{tasks} episode{'s' * (tasks > 1)} of {episodes.way} classes"
        size = f"about {task_bytes(plan, method) / 1e6:.1f} MB a step"
        return f"{method.config.epochs} epochs of {steps} steps of {sets}, {size}"
    each = planned_epoch(method.data, method.config.batch_size, plan.dataset)
    return f"{method.config.epochs} epochs of {each} steps"
