"""The report's six tables, one after the other: `clipjax suite`.

Or every method of adaptation on every pair of domains, compared with zero-shot:

    clipjax suite --study=uda

Or ways of fine-tuning on shares of the data, on its own domain and on others:

    clipjax suite --study=robust

Or few-shot methods, by protocol and number of images a class:

    clipjax suite --study=few_shot

Or what of Domino acts when segmenting, beside controls:

    clipjax suite --study=domino

On the embedded data and the tiny CLIP; on DomainNet with

    clipjax suite --data=domainnet --data_root=/path --model=openai/clip-vit-base-patch32

the report's own figures are printed beside. Features are encoded once and shared; a killed suite
goes on where it was, row by row.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from clipjax.commands.choices import Choices
from clipjax.errors import ConfigError
from clipjax.io import as_path, check_reachable
from clipjax.runtime.cli import say, user_errors

if TYPE_CHECKING:
    from clipjax.study import Results, Study

WORD, CONFIG = "", ""
DOMAINNET = ("domainnet", "tfds:domainnet")
PAGES = ("suite.md", "suite.html")
STUDIES = ("report", "uda", "robust", "few_shot", "domino")
REPORT = ("real", "clipart")  # source and target there, where the flags name none


def define_flags() -> None:
    """The command line."""
    told = (
        "report: the report's tables. uda: all methods of configs/uda.py on all pairs. robust: "
        "configs/recipes/robust.py on shares of the data. few_shot: configs/few_shot.py on few "
        "images a class. domino: configs/domino_grid.py, segmentation in weather."
    )
    flags.DEFINE_enum("study", STUDIES[0], STUDIES, told)
    flags.DEFINE_list("tables", ["1", "2", "3", "4", "5", "6"], "Which tables, of the report.")
    flags.DEFINE_list("protocols", [], "Of few_shot: fsl, bng, dg, cdg by default; ablations.")
    flags.DEFINE_list("shots", [], "Of few_shot: images a class, as 1,4,16.")
    flags.DEFINE_list("methods", [], "Of few_shot and uda: those that run; all by default.")
    flags.DEFINE_string("workdir", "", "Where the files go; by default runs/suite or runs/STUDY.")
    flags.DEFINE_string("data", "", "As config.data.name; by default what lies at data_root.")
    flags.DEFINE_string("data_root", "", "Where the data lies; without it the embedded data.")
    flags.DEFINE_string("source", "", "Labelled domain; of uda: pairs from it alone.")
    flags.DEFINE_string("target", "", "Unlabelled domain; of uda: pairs to it alone.")
    told = "A Hub id or a directory in Hugging Face layout; tiny with the embedded data."
    flags.DEFINE_string("model", "", told)
    told = "An epoch or two and one seed: does everything run? Of few_shot's slow methods two."
    flags.DEFINE_bool("smoke", False, told)


def table_studies(numbers: list[str], given: Choices) -> dict[str, Study]:
    """Return table number -> what it runs."""
    from clipjax.configs import tables
    from clipjax.study import parse
    from clipjax.study.defaults import check_model

    data, _, source, target, _, smoke = given
    if data in DOMAINNET:
        source, target = source or REPORT[0], target or REPORT[1]
    found = {}
    for number in numbers:
        try:
            config = tables.get_config(number + (",smoke" if smoke else ""))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        given.put_into(config)
        config.data.source = source or config.data.source
        config.data.target = target or config.data.target
        if data in DOMAINNET:  # the report's lengths: an epoch of 120,000 photos is long
            tables.as_published(config)
            if smoke:
                tables.shorten(config)
        found[number] = parse(config.to_dict())
        check_model(found[number].encoder)
    return found


def pair_studies(given: Choices, methods: Sequence[str] = ()) -> dict[tuple[str, str], Study]:
    """Return (source, target) -> what a study of all methods, or some, runs of a pair of domains.

    ConfigError: unknown methods, domains, data.
    """
    from clipjax.commands.few_shot import chosen
    from clipjax.configs import uda
    from clipjax.data.dataset import has_labels
    from clipjax.data.open import open_dataset
    from clipjax.study import parse
    from clipjax.study.defaults import check_model

    config = uda.get_config("smoke" if given.smoke else None)
    config.stages = tuple(chosen(methods, config.stages))
    given.put_into(config)
    dataset = open_dataset(config.data.name, given.root or None)
    source, target = given.source, given.target
    for flag, name in (("source", source), ("target", target)):
        if name and name not in dataset.domains:
            known = ", ".join(dataset.domains)
            raise ConfigError(f"--{flag}={name} is no domain; known: {known}.")
    # Methods are compared by their test accuracy.
    trains = (name for name in dataset.domains if "train" in dataset.splits_of(name))
    domains = [name for name in trains if has_labels(dataset, name, "train", "test")]
    for flag, name in (("source", source), ("target", target)):
        if name and name not in domains:
            told = f"--{flag}={name} has no training images with labels, as a suite needs"
            raise ConfigError(f"{told}; leave it out, or adapt to it by `clipjax run`.")
    pairs = [(s, t) for s in ([source] if source else domains) for t in domains if s != t]
    found = {}
    for pair in pairs if not target else [pair for pair in pairs if pair[1] == target]:
        config.data.source, config.data.target = pair
        config.data.domains = pair  # others are no part of the comparison
        found[pair] = parse(config.to_dict())
        check_model(found[pair].encoder)
    if not found:
        raise ConfigError("--source and --target are one domain; give two, or leave one out.")
    return found


def published_rows(number: str, results: dict) -> list[tuple[str, str, str, str]]:
    """Return (method, domain, published accuracy, ours), in %, of a run on DomainNet from real."""
    from clipjax.configs import tables
    from clipjax.evaluate.rows import own_rows

    if results["data"]["source"] != REPORT[0]:
        return []
    ours = own_rows(results["rows"], "all" if number == "1" else "test")
    return [
        (method, domain, f"{100 * value:.0f}", f"{100 * ours[method, domain]['accuracy_mean']:.1f}")
        for method, domains in tables.PUBLISHED[int(number)].items()
        for domain, value in domains.items()
        if (method, domain) in ours
    ]


def published(number: str, results: dict) -> str:
    """Return the report's accuracies beside ours as Markdown; "" where there are none."""
    rows = published_rows(number, results)
    head = ["| method | domain | published | measured |", "| --- | --- | ---: | ---: |"]
    lines = [*head, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n" if rows else ""


def run_suite(workdir: pathlib.Path, studies: dict[str, Study], domainnet: bool) -> None:
    """Run every table in `workdir/tableN`, then write `suite.md` and `suite.html`.

    On `domainnet` the report's figures are printed beside ours.
    """
    from clipjax.commands.each import held, run_each
    from clipjax.evaluate import results
    from clipjax.evaluate.report import page as html_page
    from clipjax.io import write_atomically
    from clipjax.train.distributed import processes

    def begin(number: str) -> dict[str, Any]:
        if processes.is_first():
            say(f"== table {number}")
        return {"say": say}

    places = {number: workdir / f"table{number}" for number in studies}
    with held(workdir, places):
        for page in PAGES:
            if (workdir / page).is_dir():
                raise ConfigError(f"{workdir / page} is a folder; choose another --workdir.")
        pages, entries = [], []
        for number, found in run_each(places, studies, begin):
            pages.append(results.markdown(found.results))
            rows = published_rows(number, found.results) if domainnet else []
            if rows:
                say(published(number, found.results))
                pages.append(published(number, found.results))
            # A run of an earlier version has no page of its own.
            place = places[number]
            href = f"{place.name}/report.html" if (place / "report.html").exists() else None
            entries.append((f"Table {number}", found.results, rows or None, href))
        if processes.is_first():
            text, html = (workdir / name for name in PAGES)
            write_atomically(text, "\n".join(pages))
            write_atomically(html, html_page.suite_page(entries))
            say(f"all tables: {text}, {html}")


def run_pairs(workdir: pathlib.Path, studies: dict[tuple[str, str], Study]) -> None:
    """Run every pair in `workdir/SOURCE-to-TARGET`, then write `uda.md` and `uda.html`."""
    import urllib.parse

    from clipjax.commands.each import held, run_each
    from clipjax.evaluate import pairs
    from clipjax.io import write_atomically
    from clipjax.log.terminal import table
    from clipjax.study import Programs
    from clipjax.train.distributed import processes

    def tell(pair: tuple[str, str], done: Results) -> str:
        best = pairs.standings({pair: done.results})[0]
        return (
            f"{' to '.join(pair)}: best of {len(done.study.stages)} is {best.method}, "
            f"{best.accuracy[0]:.1f} % ({best.gain[0]:+.1f} to zero-shot)"
        )

    name = lambda pair: "-to-".join(urllib.parse.quote(end, safe="") for end in pair)
    places = {pair: workdir / name(pair) for pair in studies}
    options = {"pages": False, "programs": Programs()}  # of all pairs that have as many images
    with held(workdir, places):
        runs = run_each(places, studies, lambda pair: options, tell, notes=True)
        found = {pair: done.results for pair, done in runs}
        if processes.is_first():
            text, html = workdir / "uda.md", workdir / "uda.html"
            write_atomically(text, pairs.markdown(found))
            write_atomically(html, pairs.page(found))
            order = pairs.standings(found)
            say(f"\n{table(*pairs.cells(found, order))}\n")
            say(f"{pairs.sentence(found, order)}\n")
            say(f"all pairs: {text}, {html}")


def main() -> None:
    """Run what the flags name."""
    with user_errors():
        from clipjax.commands import domino, few_shot, few_shot_run, robust
        from clipjax.runtime.malloc import keep_memory
        from clipjax.study import run
        from clipjax.study.towers import trains_on_pixels
        from clipjax.train.distributed import processes

        given = flags.FLAGS
        shared = {key: given[key].value for key in ("data", "source", "target", "model", "smoke")}
        choices, study = Choices(root=given.data_root, **shared), given.study
        if study != "report" and given["tables"].present:
            raise ConfigError(f"--tables are of --study=report; leave them out of --study={study}.")
        asked = few_shot.Asked(*(given[name].value for name in few_shot.Asked._fields))
        takes = {"few_shot": asked._fields, "uda": ("methods",)}.get(study, ())
        if named := [n for n, value in asked._asdict().items() if value and n not in takes]:
            raise ConfigError(f"--{named[0]} are of --study=few_shot; leave them out.")
        studies = {
            "report": lambda: table_studies(given.tables, choices),
            "uda": lambda: pair_studies(choices, asked.methods),
            "robust": lambda: robust.robust_studies(choices),
            "few_shot": lambda: few_shot.few_shot_studies(choices, asked),
            "domino": lambda: {"grid": domino.domino_study(choices)},
        }[study]()
        keep_memory(one_arena=any(map(trains_on_pixels, studies.values())))
        processes.start()  # those of a cluster, or of the environment's variables
        workdir = as_path(given.workdir or f"runs/{'suite' if study == 'report' else study}")
        check_reachable(workdir)
        if study == "domino":
            run(studies["grid"], workdir, say)
        elif study == "robust":
            robust.run_robust(workdir, studies)
        elif study == "few_shot":
            apart = few_shot.ABLATIONS in asked.protocols
            few_shot_run.run_few_shot(workdir, studies, ablations=apart)
        elif study == "uda":
            run_pairs(workdir, studies)
        else:
            run_suite(workdir, studies, given.data in DOMAINNET)
