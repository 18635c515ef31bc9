"""Puts the numbers and figures of a finished few-shot study into docs/few-shot.md and the recipes.

    clipjax suite --study=few_shot --workdir=runs/few_shot
    clipjax suite --study=few_shot --protocols=ablations --workdir=runs/ablations
    python -m tools.few_shot_page --workdir=runs/few_shot --ablations=runs/ablations

Each table stands below its heading, and is written anew; lines of other runs, as of zero-shot by
another template, stay. What a recipe's docstring says of `few_shot` is written anew too. Sentences
of the page are not: read them again.
"""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Iterable, Mapping

from clipjax.configs import few_shot, few_shot_ablations
from clipjax.evaluate import results
from clipjax.evaluate.few_shot import Cell, over_seeds
from clipjax.evaluate.report import few_shot as report
from clipjax.evaluate.report import few_shot_ablations as apart
from clipjax.evaluate.report import few_shot_tables as compared
from clipjax.evaluate.report.few_shot_published import ABLATIONS, ALPHA
from clipjax.evaluate.report.page import standalone
from clipjax.evaluate.report.tables import Table
from clipjax.log import read_log

PAGE = pathlib.Path("docs/few-shot.md")
FIGURES = pathlib.Path("docs/figures")
RECIPES = pathlib.Path("configs/recipes")
_CELL = re.compile(r"(?P<data>.+)-(?P<classes>all|base)-(?P<shots>\d+)shots-seed(?P<seed>\d+)")
_NUMBER = r"\d+\.\d ± \d+\.\d"
# In a docstring: shots 1, 4 and 16 of all classes, then base and perhaps new ones.
_SAID = re.compile(
    rf"(?P<name>tip(?:_f)? )?{_NUMBER},\s{_NUMBER},\s{_NUMBER};(?P<gap>\s+trained\s+on\s+"
    rf"base\s+classes\s+)(?P<base>{_NUMBER})(?P<on> on these)(?P<new> and {_NUMBER} on new ones)?"
)
DRAWN = ("alpha", "lambda", "eta", "late", "early")  # of the ablations


def read(workdir: pathlib.Path, methods: Iterable[str], variants: Mapping) -> compared.Comparison:
    """Returns the comparison of all finished cells of a workdir, in the methods' order."""
    found = {}
    for method in methods:
        for place in sorted((workdir / method).glob("*shots-seed*")):
            data, classes, shots, seed = _CELL.fullmatch(place.name).groups()
            cell = Cell(method, data, classes, int(shots), int(seed))
            found[cell] = results.read(place) | {"curves": read_log(place / "metrics.jsonl")}
    if not found:
        raise SystemExit(f"{workdir} holds no finished run of a few-shot study.")
    return compared.comparison(found, variants)


def beside(parts: compared.Comparison) -> Table:
    """Returns what the paper prints of the ablations beside ours."""
    known = {name: three for rows in ABLATIONS.values() for name, three in rows.items()} | ALPHA
    lines = []
    for name, paper in known.items():
        if ours := apart.values(parts, name):
            mine = " / ".join(f"{value.mean:.1f}" for value in ours)
            lines.append([name, mine, " / ".join(f"{x:.2f}" for x in paper)])
    header = ["base / new / harmonic mean, %", "here", "paper"]
    return Table(header, lines)


def with_table(page: str, heading: str, table: Table) -> str:
    """Returns a page with a table in place of the one below a heading; lines it lacks stay."""
    before, found, after = page.partition(f"\n{heading}")
    if not found:
        raise SystemExit(f"{PAGE} has no heading {heading!r}.")
    lines = after.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    new = report.markdown_table(table).split("\n")
    known = {_first(line) for line in new}
    own = [line for line in lines[start + 2 : end] if _first(line) not in known]
    lines[start:end] = [*new[:3], *own, *new[3:]]  # below zero-shot
    return before + found + "\n".join(lines)


def _first(line: str) -> str:
    return line.split("|")[1].strip()


def with_numbers(text: str, of: compared.Comparison, recipe: str) -> str:
    """Returns a recipe's text with what the study has of its method."""

    def told(match: re.Match) -> str:
        keys = of.every[(match["name"] or recipe).strip()]
        write = lambda key: compared.written(*over_seeds(keys[key]))
        few = ", ".join(write(("fsl", shots)) for shots in few_shot.SLOW_SHOTS)
        new = match["new"] and f" and {write(('bng', 'new'))} on new ones"
        said = f"{match['name'] or ''}{few};{match['gap']}{write(('bng', 'base'))}{match['on']}"
        return said + (new or "")

    return _SAID.sub(told, text)


def draw(charts: Mapping[str, str]) -> None:
    """Writes figures as files of their own, by name."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        svg = chart[chart.index("<svg") : chart.index("</svg>") + 6]
        (FIGURES / f"few_shot_{name}.svg").write_text(standalone(svg))


def main() -> None:
    """Writes page, figures and docstrings."""
    given = argparse.ArgumentParser(description="A finished few-shot study as docs.")
    given.add_argument("--workdir", type=pathlib.Path, required=True, help="the study")
    given.add_argument("--ablations", type=pathlib.Path, required=True, help="its ablations")
    given = given.parse_args()
    of = read(given.workdir, few_shot.methods(), few_shot.VARIANTS)
    groups, variants = few_shot_ablations.groups(), few_shot_ablations.variants()
    parts = read(given.ablations, few_shot_ablations.methods(), variants)
    tables = {
        "### Few images of every class": compared.fsl(of),
        "### Base and new classes": compared.halves(of, "bng"),
        "### Other domains": compared.dg(of),
        "### Another dataset": compared.halves(of, "cdg"),
        "### What training costs": compared.cost(of),
    }
    tables |= {f"#### {table.title}": table for table in apart.tables(parts, groups)}
    tables["#### Beside the paper's"] = beside(parts)
    page = PAGE.read_text()
    for heading, table in tables.items():
        page = with_table(page, heading, table)
    PAGE.write_text(page)
    draw({f"shots_{i}": chart for i, chart in enumerate(report.curves(of), 1)})
    draw(dict(zip(("loss", "accuracy"), report.overfitting(of), strict=True)))
    draw({name: svg for name, svg in apart.figures(parts, groups).items() if name in DRAWN})
    for recipe in sorted(RECIPES.glob("*.py")):
        text = recipe.read_text()
        if (new := with_numbers(text, of, recipe.stem)) != text:
            recipe.write_text(new)
    print(report.sentence(of), *report.notes(of), sep="\n")


if __name__ == "__main__":
    main()
