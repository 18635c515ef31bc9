"""The report's tables on frozen features, one after the other: `python -m experiments.suite`.

Features are encoded once and shared; a killed suite goes on where it was, row by row. Tables 2 and
6 train the encoder and are not here yet.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from clipjax.errors import ConfigError
from experiments.cli import explained

_TABLES = flags.DEFINE_list("tables", ["1", "3", "4", "5"], "Which tables.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/suite", "Where the tables' files go.")
_CHOICES = flags.DEFINE_string(
    "choices", "", "As after a config file: source=...,target=...,root=...,model=...,smoke."
)


def table_configs(numbers: list[str], choices: str) -> dict[str, object]:
    """Table number -> config.

    Raises:
      ConfigError: a table or a choice that does not exist.
    """
    from configs import tables

    try:
        return {n: tables.get_config(f"{n},{choices}") for n in numbers}
    except ValueError as error:
        raise ConfigError(str(error)) from None


def published_rows(number: str, results: dict) -> list[tuple[str, str, str, str]]:
    """(method, domain, the report's accuracy, ours), in %, where the data is what it used."""
    from configs import tables

    if "domainnet" not in results["data"]["name"].lower():
        return []
    ours = {
        (r["method"], r["domain"]): r["accuracy_mean"]
        for r in results["rows"]
        if r["split"] == ("all" if number == "1" else "test")
    }
    return [
        (method, domain, f"{100 * value:.0f}", f"{100 * ours[method, domain]:.1f}")
        for method, domains in tables.PUBLISHED[int(number)].items()
        for domain, value in domains.items()
        if (method, domain) in ours
    ]


def published(number: str, results: dict) -> str:
    """The report's accuracies beside ours as Markdown; "" where there are none."""
    rows = published_rows(number, results)
    head = ["| method | domain | published | measured |", "| --- | --- | ---: | ---: |"]
    lines = [*head, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n" if rows else ""


def run_suite(workdir: pathlib.Path, configs: dict[str, object]) -> None:
    """Runs every table in `workdir/tableN`, then writes `suite.md` and `suite.html`."""
    from clipjax.evaluate import page, report
    from clipjax.log import write_atomically
    from experiments import run

    pages, entries = [], []
    for number, config in configs.items():
        print(f"== table {number}", flush=True)
        place = workdir / f"table{number}"
        run.run(config, place)
        results = report.read(place)
        pages += [report.markdown(results), published(number, results)]
        # A run of an earlier version has no page of its own.
        href = f"{place.name}/report.html" if (place / "report.html").exists() else None
        rows = published_rows(number, results)
        entries.append((f"Table {number}", results, rows or None, href))
    write_atomically(workdir / "suite.md", "\n".join(page for page in pages if page))
    write_atomically(workdir / "suite.html", page.suite_page(entries))
    print(f"all tables: {workdir / 'suite.md'}, {workdir / 'suite.html'}")


def main(argv: list[str]) -> None:
    """Runs the tables that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected words {argv[1:]}; options start with --.")
    with explained():
        run_suite(pathlib.Path(_WORKDIR.value), table_configs(_TABLES.value, _CHOICES.value))


if __name__ == "__main__":
    app.run(main)
