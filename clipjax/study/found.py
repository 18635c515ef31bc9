"""What a study finds: its methods trained and measured, and the content of results.json."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from clipjax.evaluate import results as report
from clipjax.evaluate.choice import choose
from clipjax.evaluate.metrics import most_frequent, one_class_macro
from clipjax.evaluate.select import uses_target_labels
from clipjax.evaluate.sweeps import candidate, sweep_table
from clipjax.evaluate.valley import epochs_of
from clipjax.runtime.machine import command, machine
from clipjax.study.concluded import conclude
from clipjax.study.cost import trained_with_cost
from clipjax.study.encode import Encoded
from clipjax.study.episode_rows import episode_rows
from clipjax.study.evaluator import (
    Outcome,
    measure_method,
    rule_table,
    zero_shot_outcome,
    zero_shot_rows,
)
from clipjax.study.forgetting import forgetting
from clipjax.study.other_rows import other_rows
from clipjax.study.prompt_words import prompt_words
from clipjax.study.recipe import Programs
from clipjax.study.restore import Trained
from clipjax.study.soup_rows import check_starts, soup_rows
from clipjax.study.trainer import trainers

Say = Callable[[str], None]


@dataclasses.dataclass
class Found:
    """What training and measuring gave; dicts are by method."""

    rows: list[dict[str, Any]]  # zero-shot's first
    outcomes: dict[str, Outcome] = dataclasses.field(default_factory=dict)  # zero-shot's, too
    done: dict[str, Trained] = dataclasses.field(default_factory=dict)
    rules: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a sweep's settings
    valleys: dict[str, Any] = dataclasses.field(default_factory=dict)  # SWAD's epochs
    cost: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def train_all(
    encoded: Encoded,
    workdir: pathlib.Path,
    programs: Programs | None,
    say: Say,
    lap: Callable[[str], None],
) -> Found:
    """Train and measure the study's methods, one program after the other; `lap` notes the time."""
    found, selection = Found(zero_shot_rows(encoded)), encoded.study.training.selection
    if encoded.has_texts:
        found.outcomes["zero_shot"] = zero_shot_outcome(encoded)
    groups = trainers(encoded, workdir, programs)
    check_starts(encoded, groups)
    for trainer in groups:
        say(trainer.described)
        by_name, spent = trained_with_cost(trainer, say)
        found.cost |= spent
        for name, trained in by_name.items():
            data = encoded.plan.methods[name].data
            rows, found.outcomes[name] = measure_method(name, trained, data, encoded)
            found.rows += rows + other_rows(name, trained, encoded)
            if any(trained.history):  # a closed form has none
                found.rules[name] = rule_table(trained.history)
                found.scores[name] = candidate(trained.history, selection)
            if getattr(trainer, "swad", None):
                found.valleys[name] = [epochs_of(es, trainer.swad) for es in trained.history]
            found.done[name] = trained
        lap(trainer.title)
    return found


def results_of(
    encoded: Encoded,
    found: Found,
    own: dict[str, Outcome],
    notes: list[str],
    timing: dict[str, float],
    lap: Callable[[str], None],
) -> dict[str, Any]:
    """Return the content of results.json; `own` outcomes are those in the study's own target."""
    study, selection = encoded.study, encoded.study.training.selection
    mixed, soups = soup_rows(encoded, found.done)
    results = _collected(encoded, found.rows + mixed, own, found.rules, timing, soups)
    results |= {"cost": found.cost, "notes": notes}
    results |= {k: value for k, value in (("soups", soups), ("valleys", found.valleys)) if value}
    more = {"episodes": episode_rows, "forgetting": forgetting, "prompts": prompt_words}
    for key, measured in more.items():
        if told := measured(encoded, found.done):
            results[key] = told
            lap(key)
    free = {k: v.candidate for k, v in own.items() if k not in results["target_labels"]}
    if len(free) > encoded.has_texts and not uses_target_labels(selection):
        results["choice"] = choose(free)
    results["verdict"] = conclude(encoded, own, results)
    if study.sweep:
        ends = {"selection": selection, "source": study.data.source_name}
        targets = study.target_of
        results["sweep"] = sweep_table(study.settings, found.rows, found.scores, targets, **ends)
    return results


def _collected(encoded: Encoded, rows, outcomes, rules, timing, soups) -> dict[str, Any]:
    """Return what every study has in results.json, its verdict aside."""
    study, dataset = encoded.study, encoded.plan.dataset
    distances = {name: outcome.distances for name, outcome in outcomes.items()}
    if None in next(iter(distances.values())):  # too few test images
        distances = {}
    data = {"name": dataset.name, "source": study.data.source_name, "target": study.data.target}
    data["classes"] = study.data.classes
    labels = {
        domain: part.labels for (domain, split), part in encoded.parts.items() if split == "test"
    }
    about = {
        "experiment": study.experiment,
        "model": study.encoder.model,
        "data": data,
        "classes": len(dataset.classes),
        "majority": {domain: most_frequent(found) for domain, found in labels.items()},
        "majority_macro": {domain: one_class_macro(y) for domain, y in labels.items()},
        "seeds": list(study.training.seeds),
        "selection": study.training.selection,
        "target_labels": [m.name for m in study.trained if m.data.labels == "target"],
        "command": command(),
        "machine": machine(),
    }
    target = lambda soup: study.target_of[soup[0]["of"][0]["method"]]
    targets = study.target_of | {name: target(soup) for name, soup in soups.items()}
    return report.collect(about, rows, distances, rules, timing, targets)
