"""Zero-shot, then every method of the config, then the results."""

from __future__ import annotations

import hashlib
import json
import pathlib
import time

from clipjax.errors import DataError
from clipjax.evaluate import results as report
from clipjax.evaluate.sweeps import candidate, sweep_table
from clipjax.io import write_json
from clipjax.log import MetricsLog
from clipjax.study import report_data as evidence
from clipjax.study.encode import Encoded, encode
from clipjax.study.evaluator import measure_method, rule_table, zero_shot_outcome, zero_shot_rows
from clipjax.study.methods import own_config
from clipjax.study.model_record import check_same_model
from clipjax.study.plan import Plan, warn_of_idle_domain_loss
from clipjax.study.sweep import settings
from clipjax.study.trainer import trainers
from clipjax.train.distributed import processes


def check_same_images(workdir: pathlib.Path, encoded: Encoded) -> None:
    """Ties a workdir to its images: a run that goes on must see those it began with.

    Raises:
      DataError: images came, went, changed, or can be read now and could not be then.
      ConfigError: another process sees other images.
    """
    found = {}
    for place in encoded.parts:
        source = encoded.source(*place)
        found["/".join(place)] = hashlib.sha256(repr(source).encode()).hexdigest()[:16]
    processes.agree("set of images", found)
    processes.from_first(lambda: _compare_images(workdir, found))


def _compare_images(workdir: pathlib.Path, found: dict[str, str]) -> None:
    record = workdir / "images.json"
    if not record.exists():
        write_json(record, found)
        return
    before = json.loads(record.read_text())
    if changed := sorted(k for k in before.keys() | found.keys() if before.get(k) != found.get(k)):
        raise DataError(
            f"the images of {', '.join(changed)} are not those that the run in {workdir} began "
            "with; start it anew in another --workdir."
        )


def run(config, plan: Plan, workdir: pathlib.Path, say) -> dict | None:
    """Runs the study and writes its results; returns them, of several processes to the first."""
    started = time.perf_counter()
    timing = {}

    def lap(what: str) -> None:
        timing[what] = round(time.perf_counter() - started - sum(timing.values()), 2)

    if processes.is_first():  # drops a line that a kill cut short
        MetricsLog(workdir / "metrics.jsonl").rewind(lambda record: True)
    told = check_same_model(workdir, plan.identity, plan.model)
    for note in (*plan.notes, *filter(None, [told])):
        say(f"note: {note}")
    for name, method in plan.methods.items():
        for line in warn_of_idle_domain_loss(plan, name, method):
            say(line)
    encoded = encode(config, plan, say)
    check_same_images(workdir, encoded)
    lap("encode")
    rows = zero_shot_rows(config, encoded)
    outcomes, rules, scores = {"zero_shot": zero_shot_outcome(config, encoded)}, {}, {}
    for trainer in trainers(config, plan, encoded, workdir):
        say(trainer.described)
        for name, trained in trainer.train().items():
            own = own_config(config, plan.methods[name])
            more, outcomes[name] = measure_method(name, trained, own, encoded)
            rows += more
            rules[name] = rule_table(trained.history)
            scores[name] = candidate(trained.history, config.selection)
        lap(trainer.title)
    ends = {name: own_config(config, m).data.target for name, m in plan.methods.items()}
    # Maps, distances and mistakes are of the config's own target.
    target = config.data.target
    outcomes = {k: v for k, v in outcomes.items() if ends.get(k, target) == target}
    distances = {name: found.distances for name, found in outcomes.items()}
    if None in distances["zero_shot"]:  # too few test images
        distances = {}
    if not processes.is_first():
        return None
    results = report.collect(config, plan.dataset, rows, distances, rules, timing, ends)
    if config.sweep:
        results["sweep"] = sweep_table(settings(config), rows, scores, ends, config)
        best = {"zero_shot", *results["sweep"]["best"].values()}  # what the page looks at closely
        outcomes = {name: found for name, found in outcomes.items() if name in best}
    evidence.write(config, plan, encoded, outcomes, results, workdir)
    lap("page with t-SNE")
    report.write(workdir, results)
    say(report.table(results))
    say(f"time: {', '.join(f'{what} {seconds:.1f} s' for what, seconds in timing.items())}")
    say(f"results: {workdir / 'results.json'}, {workdir / 'results.md'}, {workdir / 'report.html'}")
    return results
