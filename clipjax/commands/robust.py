"""`clipjax suite --study=robust`: fine-tuning over shares of the data, subsets and seeds."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from clipjax.errors import ConfigError
from clipjax.runtime.cli import say

if TYPE_CHECKING:
    from clipjax.commands.choices import Choices
    from clipjax.data.dataset import Dataset
    from clipjax.evaluate.robust import Cell
    from clipjax.study import Results, Study

ID = "id"  # the source where a dataset has a domain of this name, as WILDS' have


def robust_studies(given: Choices) -> dict[Cell, Study]:
    """Return (share of the data, subset, seed) -> what runs, in the order it runs.

    ConfigError: flags that this study does not take, or data without ID and OOD.
    """
    from clipjax.configs.recipes import robust
    from clipjax.data.open import is_embedded, open_dataset
    from clipjax.study import parse
    from clipjax.study.defaults import MODEL, check_model

    if given.target:
        told = "--study=robust takes every domain but the source as OOD"
        raise ConfigError(f"{told}; leave --target={given.target} out.")
    config = robust.get_config("smoke" if given.smoke else None)
    given.put_into(config)
    dataset = open_dataset(config.data.name, given.root or None)
    if not is_embedded(dataset) and not given.smoke:
        robust.as_published(config)
    source, others = _ends(dataset, given.source)
    others = others[:1] if given.smoke else others
    if given.smoke and is_embedded(dataset) and given.model in ("", MODEL):
        robust.shorten(config)
    classes = len(dataset.classes_of(source))
    fewer = {domain for domain in others if len(dataset.classes_of(domain)) < classes}
    # No method reads the target; one of test images alone would be dealt into splits, and one must
    # have all classes.
    able = (d for d in others if d not in fewer and "val" in dataset.splits_of(d))
    config.data.source, config.data.target = source, next(able, source)
    config.data.domains = (source, *others)
    shares = robust.SMOKE_FRACTIONS if given.smoke else robust.FRACTIONS
    found = {}
    for subset, seed in robust.SMOKE_PAIRS if given.smoke else robust.PAIRS:
        for share in shares:
            if subset and share in (0.0, 1.0):  # nothing to draw
                continue
            own = config.copy_and_resolve_references()
            own.seeds, own.data.subset_seed, own.data.fraction = (seed,), subset, share or 1.0
            if not share:
                robust.without_data(own)
            found[share, subset, seed] = parse(own.to_dict())
    check_model(next(iter(found.values())).encoder)
    return found


def _ends(dataset: Dataset, source: str) -> tuple[str, list[str]]:
    """Return the source, and the other domains whose test images have labels."""
    from clipjax.data.dataset import has_labels
    from clipjax.data.open import is_embedded
    from clipjax.study.defaults import SOURCE

    usual = SOURCE if is_embedded(dataset) else ID
    known = ", ".join(dataset.domains)
    if source and source not in dataset.domains:
        raise ConfigError(f"--source={source} is no domain; known: {known}.")
    if not source and usual not in dataset.domains:
        told = f"no domain is called {usual}, which --study=robust would train on"
        raise ConfigError(f"{told}; name one by --source: {known}.")
    source = source or usual
    if "train" not in dataset.splits_of(source) or not has_labels(dataset, source, "train"):
        raise ConfigError(f"--source={source} has no training images with labels; take another.")
    tests = (name for name in dataset.domains if "test" in dataset.splits_of(name))
    others = [name for name in tests if name != source and has_labels(dataset, name, "test")]
    if not others:
        told = f"no domain beside {source} has test images with labels"
        raise ConfigError(f"{told}, and --study=robust measures OOD on them; add one.")
    return source, others


def run_robust(workdir: pathlib.Path, studies: dict[Cell, Study]) -> None:
    """Run every cell in a folder of its own, then write the pages and the figures."""
    from clipjax.commands.each import held, run_each
    from clipjax.evaluate.report import robust as report
    from clipjax.evaluate.report.page import standalone
    from clipjax.evaluate.robust import points
    from clipjax.io import write_atomically
    from clipjax.log.terminal import table
    from clipjax.study import Programs
    from clipjax.train.distributed import processes

    def tell(cell: Cell, done: Results) -> str:
        share, subset, seed = cell
        here = points({cell: done.results})
        told = ", ".join(report.in_few(way, path[0]) for way, path in here.items())
        return f"{100 * share:g} % of the data, subset {subset}, seed {seed} (ID / OOD): {told}"

    name = lambda share, subset, seed: f"data{100 * share:g}-subset{subset}-seed{seed}"
    places = {cell: workdir / name(*cell) for cell in studies}
    options = {"pages": False, "programs": Programs()}  # as many steps whatever the share
    with held(workdir, places):
        runs = run_each(places, studies, lambda cell: options, tell, notes=True)
        found = {cell: done.results for cell, done in runs}
        if processes.is_first():
            text, html = workdir / "robust.md", workdir / "robust.html"
            write_atomically(text, report.markdown(found))
            write_atomically(html, report.page(found))
            for figure, svg in report.charts(points(found)).items():
                write_atomically(workdir / f"robust_{figure}.svg", standalone(svg))
            for title, header, lines in report.terminal(found):
                say(f"\n{title}\n{table(header, lines)}")
            for sentence in report.sentences(found):
                say(f"{sentence}.")
            say(f"all shares: {text}, {html}")
