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


def published(number: str, results: dict) -> str:
    """The report's accuracies beside ours, where the data is what the report used."""
    from configs import tables

    if "domainnet" not in results["data"]["name"].lower():
        return ""
    ours = {
        (r["method"], r["domain"]): r["accuracy_mean"]
        for r in results["rows"]
        if r["split"] == ("all" if number == "1" else "test")
    }
    lines = ["| method | domain | published | measured |", "| --- | --- | ---: | ---: |"]
    for method, domains in tables.PUBLISHED[int(number)].items():
        for domain, value in domains.items():
            if (method, domain) in ours:
                measured = 100 * ours[method, domain]
                lines.append(f"| {method} | {domain} | {100 * value:.0f} | {measured:.1f} |")
    return "\n".join(lines) + "\n"


def run_suite(workdir: pathlib.Path, configs: dict[str, object]) -> None:
    """Runs every table in `workdir/tableN`, then writes `workdir/suite.md`."""
    from clipjax.evaluate import report
    from clipjax.log import write_atomically
    from experiments import run

    pages = []
    for number, config in configs.items():
        print(f"== table {number}", flush=True)
        place = workdir / f"table{number}"
        run.run(config, place)
        results = report.read(place)
        pages += [report.markdown(results), published(number, results)]
    write_atomically(workdir / "suite.md", "\n".join(page for page in pages if page))
    print(f"all tables: {workdir / 'suite.md'}")


def main(argv: list[str]) -> None:
    """Runs the tables that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected words {argv[1:]}; options start with --.")
    with explained():
        run_suite(pathlib.Path(_WORKDIR.value), table_configs(_TABLES.value, _CHOICES.value))


if __name__ == "__main__":
    app.run(main)
