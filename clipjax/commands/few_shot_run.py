"""Runs the cells of `clipjax suite --study=few_shot` and writes its pages."""

from __future__ import annotations

import contextlib
import pathlib
import time
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from clipjax.runtime.cli import say

if TYPE_CHECKING:
    from clipjax.evaluate.few_shot import Cell
    from clipjax.study import Study


def run_few_shot(
    workdir: pathlib.Path, studies: Mapping[Cell, Study], *, ablations: bool = False
) -> None:
    """Run every cell in a folder of its own; write the pages after each method.

    They are `few_shot.md` and `few_shot.html`, of `ablations` `ablations.md` and `.html`.
    """
    from clipjax.configs import few_shot, few_shot_ablations
    from clipjax.data.open import open_dataset
    from clipjax.evaluate import results
    from clipjax.evaluate.report import few_shot as report
    from clipjax.evaluate.report import few_shot_ablations as apart
    from clipjax.evaluate.report import few_shot_tables as compared
    from clipjax.io import write_atomically
    from clipjax.log.terminal import table
    from clipjax.runtime.claim import claimed
    from clipjax.study import Programs, run
    from clipjax.study.model_record import check_one_model
    from clipjax.study.plan import open_model
    from clipjax.study.prepared import Opened
    from clipjax.train.distributed import processes

    groups = few_shot_ablations.groups()
    variants = few_shot_ablations.variants() if ablations else few_shot.VARIANTS
    with contextlib.ExitStack() as held:
        processes.from_first(lambda: held.enter_context(claimed(workdir)))
        places = {cell: workdir / cell.method / _folder(cell) for cell in studies}
        processes.from_first(lambda: [results.read(place) for place in places.values()])
        model = open_model(next(iter(studies.values())))
        datasets, programs, found, method = {}, Programs(), {}, ""
        for number, (cell, study) in enumerate(studies.items()):
            if cell.method != method:  # what one has compiled serves no other
                method, programs = cell.method, Programs()
            started = time.perf_counter()
            if cell.data not in datasets:
                datasets[cell.data] = open_dataset(study.data.name, study.data.root)
            opened = Opened(datasets[cell.data], model)
            done = run(study, places[cell], pages=False, programs=programs, opened=opened)
            if done is None:  # not the first process
                continue
            check_one_model(places[next(iter(studies))], places[cell])
            found[cell] = done.results | {"curves": done.curves}
            here = compared.comparison({cell: done.results}, variants)
            say(
                f"{number + 1}/{len(studies)} {cell.method}, {cell.data}, {cell.classes} classes, "
                f"{cell.shots} shots, seed {cell.seed}: {report.in_few(here)}; "
                f"{time.perf_counter() - started:.1f} s"
            )
            left = list(studies)[number + 1 :]
            if left and left[0].method == method:
                continue
            of, name = compared.comparison(found, variants), "few_shot"
            shown, text, html = compared.tables(of), report.markdown(of), report.page(of)
            said = [report.sentence(of), *report.notes(of)]
            if ablations:
                name, shown, said = "ablations", apart.tables(of, groups), report.notes(of)
                text, html = apart.markdown(of, groups), apart.page(of, groups)
            pages = workdir / f"{name}.md", workdir / f"{name}.html"
            for page, content in zip(pages, (text, html), strict=True):
                write_atomically(page, content)
        if processes.is_first():
            for each in shown:
                say(f"\n{each.title}\n{table(each.header, each.lines)}")
            for told in filter(None, said):
                say(told)
            say(f"all methods: {', '.join(map(str, pages))}")


def _folder(cell: Cell) -> str:
    data = urllib.parse.quote(cell.data, safe="")
    return f"{data}-{cell.classes}-{cell.shots}shots-seed{cell.seed}"
