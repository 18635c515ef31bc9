"""Runs the cells of `clipjax suite --study=few_shot` and writes its pages."""

from __future__ import annotations

import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipjax.runtime.cli import say

if TYPE_CHECKING:
    from clipjax.evaluate.few_shot import Cell
    from clipjax.study import Results, Study


def run_few_shot(
    workdir: pathlib.Path, studies: Mapping[Cell, Study], *, ablations: bool = False
) -> None:
    """Run every cell in a folder of its own; write the pages after each method.

    They are `few_shot.md` and `few_shot.html`, of `ablations` `ablations.md` and `.html`.
    """
    from clipjax.commands.each import held, run_each
    from clipjax.configs import few_shot, few_shot_ablations
    from clipjax.data.open import open_dataset
    from clipjax.evaluate.report import few_shot as report
    from clipjax.evaluate.report import few_shot_ablations as apart
    from clipjax.evaluate.report import few_shot_tables as compared
    from clipjax.io import write_atomically
    from clipjax.log.terminal import table
    from clipjax.study import Programs
    from clipjax.study.plan import open_model
    from clipjax.study.prepared import Opened
    from clipjax.train.distributed import processes

    groups = few_shot_ablations.groups()
    variants = few_shot_ablations.variants() if ablations else few_shot.VARIANTS

    def tell(cell: Cell, done: Results) -> str:
        here = compared.comparison({cell: done.results}, variants)
        return (
            f"{cell.method}, {cell.data}, {cell.classes} classes, {cell.shots} shots, seed "
            f"{cell.seed}: {report.in_few(here)}"
        )

    places = {cell: workdir / cell.method / _folder(cell) for cell in studies}
    last = {cell.method: cell for cell in studies}  # of its method
    with held(workdir, places):
        model = open_model(next(iter(studies.values())))
        datasets, programs, found = {}, {}, {}

        def options(cell: Cell) -> dict[str, Any]:
            if cell.method not in programs:  # what one has compiled serves no other
                programs.clear()
                programs[cell.method] = Programs()
            if cell.data not in datasets:
                data = studies[cell].data
                datasets[cell.data] = open_dataset(data.name, data.root)
            opened = Opened(datasets[cell.data], model)
            return {"pages": False, "programs": programs[cell.method], "opened": opened}

        for cell, done in run_each(places, studies, options, tell):
            found[cell] = done.results | {"curves": done.curves}
            if cell != last[cell.method]:
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
