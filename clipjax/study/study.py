"""Runs a config: zero-shot, every method of a study, the results; pretraining; segmentation."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

from clipjax.errors import ConfigError
from clipjax.evaluate import results as report
from clipjax.evaluate import terminal
from clipjax.io import as_path, write_json
from clipjax.log import MetricsLog, read_log
from clipjax.runtime.claim import claimed
from clipjax.study import predictions, pretrain, report_data, segmentation, segmentation_plan
from clipjax.study import workdir as workdirs
from clipjax.study.config import Config, Pretraining, Study, checked
from clipjax.study.encode import encode, encode_texts
from clipjax.study.found import results_of, train_all
from clipjax.study.header import header
from clipjax.study.image_record import (
    check_finished_images,
    check_finished_names,
    check_same_images,
)
from clipjax.study.model_record import TEACHER, check_finished, check_same_model
from clipjax.study.plan import prepare
from clipjax.study.prepared import NOTHING, RECORD, Opened, Plan, idle_domain_losses, read_record
from clipjax.study.recipe import Programs
from clipjax.study.restore import Trained
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.trainer import trainers
from clipjax.train.distributed import processes

PyTree = Any
Say = Callable[[str], None]
# What opens and runs a config that is no study; both need a workdir.
_OTHERS = {
    Pretraining: (pretrain.prepare, pretrain.run),
    Segmentation: (segmentation_plan.prepare, segmentation.run),
}


silent = lambda line: None  # in place of `say`


@dataclasses.dataclass(frozen=True)
class Results:
    """Results, curves and parameters of a study."""

    study: Study  # what was run
    results: dict[str, Any]  # the content of results.json
    curves: list[dict[str, Any]]  # the records of metrics.jsonl, in order
    workdir: pathlib.Path | None = None  # where its files are; None where none were asked for
    _trained: dict[str, Trained] | None = None
    # Draws the pages into a workdir; None of a run that was finished before.
    draw: Callable[[pathlib.Path], None] | None = dataclasses.field(default=None, repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each method, its variants, domain and split (`clipjax.evaluate.rows.row`)."""
        return self.results["rows"]

    @functools.cached_property
    def trained(self) -> dict[str, Trained]:
        """The methods after training, by name."""
        if self._trained is not None:
            return self._trained
        plan = prepare(self.study, training=False, recorded=read_record(self.workdir))
        return {
            name: trained
            for trainer in trainers(encode_texts(plan), self.workdir)
            for name, trained in trainer.restored().items()
        }

    @property
    def params(self) -> dict[str, PyTree]:
        """Parameters by method, stacked over seeds: heads, and "clip" where the encoder trained."""
        return {name: trained.params for name, trained in self.trained.items()}


def run(
    config: Config,
    workdir: str | os.PathLike | None = None,
    say: Say = silent,
    *,
    pages: bool = True,
    programs: Programs | None = None,
    opened: Opened = NOTHING,
) -> Results | None:
    """Run a study, or pretraining; a run that was killed goes on, a finished one is read.

    Encoded features go to the user's cache folder, unless `Features(cache=False)`.

    Args:
      config: made in Python, or by `clipjax.study.parse`.
      workdir: where its files go, also gs://...; None for none: a study then works in a temporary
        folder that it removes, and writes no pages.
      say: called with each line for people.
      pages: whether to write report.html and predictions.csv, which takes seconds, beside
        results.json.
      programs: what runs of the same methods on other images have compiled, `Programs()` for the
        first of them; the numbers are the same without.
      opened: a study's dataset or model, where it is open already; the config then only names it.

    Returns:
      What a study found; None from pretraining, and, where processes share a run, from all but
      the first.

    Raises:
      ClipjaxError: whatever cannot run, before anything expensive; or what stops it.
    """
    config = checked(config)
    if workdir is not None:
        return _run_in(config, as_path(workdir), say, pages, programs, opened)
    if not isinstance(config, Study) or processes.several():
        told = "pretraining, segmentation, and runs of several processes"
        raise ConfigError(f"{told}, need a workdir.")
    with tempfile.TemporaryDirectory() as folder:
        options = {"pages": False, "kept": False, "programs": programs}
        found = run_study(prepare(config, opened=opened), pathlib.Path(folder), say, **options)
        return dataclasses.replace(found, workdir=None)


def _run_in(
    config: Config,
    workdir: pathlib.Path,
    say: Say,
    pages: bool,
    shared: Programs | None,
    opened: Opened,
) -> Results | None:
    """Run with files. Of several processes the first speaks and writes; all must see the files."""
    say = say if processes.is_first() else silent
    processes.agree("config", workdirs.config_text(config), workdirs.differences)
    check = lambda: workdirs.check_workdir(workdir, config)
    processes.from_first(check)
    if found := _finished(config, workdir, say, opened):
        return found
    with contextlib.ExitStack() as held:
        processes.from_first(lambda: held.enter_context(claimed(workdir)))
        # As another run may have left it.
        processes.from_first(lambda: (check(), workdirs.check_files(workdir)))
        if found := _finished(config, workdir, say, opened):
            return found
        # Everything is checked before the workdir becomes this config's.
        workdirs.check_checkpoints(workdir / "checkpoints", workdirs.name_of(config))
        open_all = functools.partial(prepare, opened=opened)
        work = functools.partial(run_study, pages=pages, programs=shared)
        open_all, work = _OTHERS.get(type(config), (open_all, work))
        ready = processes.together(lambda: open_all(config))
        workdirs.claim_workdir(workdir, config)
        return work(ready, workdir, say)


def _finished(config: Config, workdir: pathlib.Path, say: Say, opened: Opened) -> Results | None:
    """Say and return what a finished run found; None for any other."""
    results = processes.from_first(lambda: report.read(workdir))
    if not results:
        return None
    told = ""
    if isinstance(config, Study):
        check_finished_images(workdir, config, opened, say)
        processes.from_first(lambda: check_finished_names(workdir, config))
        told = processes.from_first(lambda: check_finished(workdir, config))
    say(terminal.show(results, workdir))
    say(f"this run is finished: {workdir / 'results.json'}; use another --workdir to repeat it.")
    if told:
        say(f"note: {told}")
    return Results(config, results, read_log(workdir / "metrics.jsonl"), workdir)


def run_study(
    plan: Plan,
    workdir: pathlib.Path,
    say: Say,
    *,
    pages: bool = True,
    programs: Programs | None = None,
    kept: bool = True,
) -> Results | None:
    """Run a prepared study and write its results, with `pages` those for people, too.

    `kept` is False of a workdir that its caller removes.
    """
    started, timing = time.perf_counter(), {}
    say(header(plan, workdir if kept else None))

    def lap(what: str) -> None:
        timing[what] = round(time.perf_counter() - started - sum(timing.values()), 2)

    if processes.is_first():  # drops a line that a kill cut short
        MetricsLog(workdir / "metrics.jsonl").rewind(lambda record: True)
    if plan.teacher is not None:  # first: a model's record beside none is one of an older run
        check_same_model(workdir, plan.teacher.identity, plan.teacher.model, TEACHER)
    told = check_same_model(workdir, plan.identity, plan.model)
    notes = [*plan.notes, *idle_domain_losses(plan)]
    for note in (*notes, *filter(None, [told])):
        say(f"note: {note}")
    encoded = encode(plan, say)
    check_same_images(workdir, encoded)
    lap("encode")
    found, study = train_all(encoded, workdir, programs, say, lap), plan.study
    # Maps, distances and mistakes are of the study's own target.
    is_own = lambda name: study.target_of.get(name) in (None, study.data.target)
    own = {name: outcome for name, outcome in found.outcomes.items() if is_own(name)}
    results = results_of(encoded, found, own, notes, timing, lap)
    if study.sweep:
        best = {"zero_shot", *results["sweep"]["best"].values()}
        own = {name: outcome for name, outcome in own.items() if name in best}
    of_own = {name: trained for name, trained in found.done.items() if name in own}
    answers = predictions.predict(encoded, of_own, found.rows) if pages else None
    if not processes.is_first():
        return None
    draw = functools.partial(report_data.write, encoded, own, results)
    if not pages:  # what exports read of a finished run
        write_json(workdir / RECORD, report_data.record(plan))
    else:
        predictions.write(workdir, encoded, answers)
        lap("predictions")
        draw(workdir)
        lap("page with t-SNE")
    report.write(workdir, results)
    say(terminal.show(results, workdir if kept else None))
    say(f"time: {', '.join(f'{what} {seconds:.1f} s' for what, seconds in timing.items())}")
    if pages:
        names = ("results.json", "results.md", "report.html", predictions.FILE)
        say(f"results: {', '.join(str(workdir / name) for name in names)}")
    curves = read_log(workdir / "metrics.jsonl")
    return Results(study, results, curves, workdir, found.done, draw)
