"""The comparison of `clipjax.evaluate.few_shot` as tables: protocols, datasets, cost."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from clipjax.evaluate.few_shot import (
    ZERO_SHOT,
    Cell,
    Cost,
    Key,
    Values,
    costs,
    gathered,
    harmonic,
    over_seeds,
)
from clipjax.evaluate.metrics import harmonic_mean
from clipjax.evaluate.report.few_shot_published import (
    BASE_NEW,
    COST,
    CROSS,
    CROSS_METHODS,
    DOMAINS,
    ELEVEN,
    METHODS,
    VARIANTS,
    pairs,
)
from clipjax.evaluate.report.tables import Table

Every = Mapping[str, Mapping[Key, Values]]
Found = Mapping[Cell, Mapping[str, Any]]
DASH = "–"
PUBLISHED = "published: base / new / harmonic mean"


class Comparison(NamedTuple):
    """What pages are made of."""

    every: Every  # row -> key -> accuracies
    cost: Mapping[str, Cost]
    found: Found

    @property
    def seeds(self) -> list[int]:
        """The seeds of the subsets."""
        return sorted({cell.seed for cell in self.found})

    @property
    def images(self) -> int:
        """Test images of the datasets together."""
        sizes = {}
        for cell, results in self.found.items():
            source = results["data"]["source"]
            if cell.classes == "all":
                sizes[cell.data] = next(
                    row["n"]
                    for row in results["rows"]
                    if (row["domain"], row["split"]) == (source, "test")
                )
        return sum(sizes.values())


def comparison(found: Found, variants: Mapping[str, tuple[str, str]]) -> Comparison:
    """Compare the rows of finished cells."""
    return Comparison(gathered(found, variants), costs(found, variants), found)


def _cell(values: Values | None) -> str:
    return written(*over_seeds(values)) if values else DASH


def written(mean: float, spread: float | None) -> str:
    """Write an accuracy with its spread.

    >>> written(50.04, 1.25), written(50.0, None)
    ('50.0 ± 1.2', '50.0')
    """
    return f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def fsl(of: Comparison) -> Table:
    """Figure 3 of seed 004 as numbers: accuracy by the number of images a class."""
    shots = sorted({key[1] for keys in of.every.values() for key in keys if key[0] == "fsl"})
    lines = [
        [name, *(_zero_or(of, name, ("fsl", k)) for k in shots)]
        for name, keys in of.every.items()
        if any(key[0] == "fsl" for key in keys)
    ]
    head = ["images a class", *map(str, shots)]
    return Table(head, lines, "Few-shot learning: test accuracy, %", folded=False)


def _zero_or(of: Comparison, name: str, key: Key) -> str:
    """Write a value; zero-shot has no spread, as it trains on nothing."""
    values = of.every[name].get(key)
    if not values or name != ZERO_SHOT:
        return _cell(values)
    return written(over_seeds(values).mean, None)


def halves(of: Comparison, protocol: str) -> Table:
    """Base, new and their harmonic mean (BNG, table 1), or another dataset's (CDG, table 3)."""
    lines = []
    zero, known = of.every[ZERO_SHOT], _mean_of_eleven(of) if protocol == "bng" else {}
    for name, keys in of.every.items():
        base, new = (keys.get((protocol, half)) for half in ("base", "new"))
        if not base and not new:
            continue
        line = [name, *(_zero_or(of, name, (protocol, half)) for half in ("base", "new"))]
        both = harmonic(base, new) if base and new else None
        spread = both and (None if name == ZERO_SHOT else both.spread)
        line.append(written(both.mean, spread) if both else DASH)
        if protocol == "cdg":
            told = [_change(keys, zero, half) for half in ("base", "new")]
            line += told
        if known:
            line.append(known.get(name, ""))
        lines.append(line)
    header = ["method", "base", "new", "harmonic mean", *([PUBLISHED] if known else [])]
    title = "Base to new: trained on base classes, %"
    if protocol == "cdg":
        header += ["base: forgotten", "new: forgotten"]
        title = "Cross-dataset: trained on base classes, tested on another dataset's, %"
    return Table(header, lines, title, folded=False)


def _mean_of_eleven(of: Comparison) -> dict[str, str]:
    """Return row -> what the paper's table 1 has of it on the mean, of its datasets alone."""
    if {cell.data for cell in of.found} != ELEVEN:
        return {}
    return dict(zip(METHODS, map(_halves, pairs(BASE_NEW)["average"]), strict=True))


def _halves(pair: tuple[float, float]) -> str:
    return "{:.1f} / {:.1f} / {:.1f}".format(*pair, harmonic_mean(*pair))


def _change(keys: Mapping[Key, Values], zero: Mapping[Key, Values], half: str) -> str:
    """Write by how many points a method is below zero-shot on another dataset."""
    values = keys.get(("cdg", half))
    if not values or keys is zero:
        return ""
    change = over_seeds(zero["cdg", half]).mean - over_seeds(values).mean
    return f"{round(change, 1) + 0.0:+.1f}"


def by_dataset(of: Comparison) -> Table:
    """Base and new of each dataset, and of what cdg tests on (tables 1 and 3), where several are.

    Or of one that the paper has.
    """
    names = list(dict.fromkeys(cell.data for cell in of.found))
    known, far = pairs(BASE_NEW), pairs(CROSS)
    lines = []
    for data in names if len(names) > 1 or names[0] in known else []:
        theirs = dict(zip(METHODS, known.get(data, ()), strict=False))
        after = dict(zip(CROSS_METHODS, far.get(data, ()), strict=False))
        for name, keys in of.every.items():
            base, new, *there = (
                {k: v for k, v in keys.get((protocol, half), {}).items() if k[0] == data}
                for protocol in ("bng", "cdg")
                for half in ("base", "new")
            )
            if base:
                both = written(*harmonic(base, new)) if new else DASH
                line = [data, name, _cell(base), _cell(new), both]
                line.append(_halves(theirs[name]) if name in theirs else "")
                line += [_cell(half) for half in there]
                line.append("{:.1f} / {:.1f}".format(*after[name]) if name in after else "")
                lines.append(line)
    header = ["dataset", "method", "base", "new", "harmonic mean", PUBLISHED]
    header += [f"elsewhere: {half}" for half in ("base", "new")]
    return Table([*header, "published elsewhere"], lines, "Each dataset, %")


def dg(of: Comparison) -> Table:
    """Trained on one domain, tested on the others (table 2)."""
    keys = [key for keys in of.every.values() for key in keys if key[0] == "dg"]
    domains = list(dict.fromkeys(domain for _, (_, domain) in keys))
    shots = max((shots for _, (shots, _) in keys), default=0)
    known = {}
    if set(domains) == set(VARIANTS):
        order = [VARIANTS.index(domain) + 1 for domain in domains]
        known = {n: " / ".join(f"{v[i]:.1f}" for i in (0, *order)) for n, v in DOMAINS.items()}
    lines = []
    for name, own in of.every.items():
        if not any(key[0] == "dg" for key in own):
            continue
        each = [own.get(("dg", (shots, domain))) for domain in domains]
        joined = {
            (f"{data}/{domain}", seed): value
            for domain, values in zip(domains, each, strict=True)
            for (data, seed), value in (values or {}).items()
        }
        mean = over_seeds(joined)
        line = [name, _zero_or(of, name, ("fsl", shots))]
        line += [_zero_or(of, name, ("dg", (shots, domain))) for domain in domains]
        line.append(written(mean.mean, None if name == ZERO_SHOT else mean.spread))
        lines.append([*line, known.get(name, "")] if known else line)
    header = ["method", "own domain", *domains, "mean of the others"]
    header += ["published: own / others"] if known else []
    return Table(header, lines, f"Other domains: {shots} images a class, %", folded=False)


def cost(of: Comparison) -> Table:
    """What training costs beside what it reaches (table 5)."""
    header = ["method", "iterations", "seconds", "CPU seconds", "peak memory, MB", "parameters"]
    header += ["few-shot", "harmonic mean"]
    known = COST if {cell.data for cell in of.found} == {"imagenet"} else {}
    header += ["published: iterations / time / memory"] if known else []
    lines = []
    for name, keys in of.every.items():
        best = max((key for key in keys if key[0] == "fsl"), default=None, key=lambda k: k[1])
        base, new = (keys.get(("bng", half)) for half in ("base", "new"))
        ends = [_zero_or(of, name, best) if best else DASH]
        ends.append(f"{harmonic(base, new).mean:.1f}" if base and new else DASH)
        if known:
            ends.append(" / ".join(known.get(name, ())))
        if name == ZERO_SHOT:
            lines.append([name, "0", "0", "0", DASH, "0", *ends])
        elif one := of.cost.get(name):
            peak = DASH if one.peak_bytes is None else f"{one.peak_bytes / 1e6:,.0f}"
            cpu = DASH if one.cpu_seconds is None else f"{one.cpu_seconds:.2f}"
            line = [name, f"{one.iterations:.0f}", f"{one.seconds:.2f}", cpu, peak]
            lines.append([*line, f"{one.parameters:,.0f}", *ends])
    return Table(header, lines, "What training costs, on the largest subset", folded=False)


def tables(of: Comparison) -> list[Table]:
    """Return the tables that have lines."""
    made = [fsl(of), halves(of, "bng"), by_dataset(of), dg(of), halves(of, "cdg"), cost(of)]
    return [table for table in made if table.lines]
