"""How to read a run's page, on the page itself: it is sent to people who have nothing else."""

import importlib.metadata

from clipjax.evaluate.report.tables import Facts, Item, Link, Note
from clipjax.io import ASSETS

ANCHOR = "reading"


def reading() -> list[Item]:
    """Explain the parts of the page, and where there is more."""
    more = "More of it: docs/report.md, docs/choosing.md and docs/reading-a-dann-run.md of clipjax."
    lines = (ASSETS / "report" / "reading.txt").read_text().splitlines()
    parts = [tuple(line.split(": ", 1)) for line in lines]
    return [Facts(parts), Note(more), Link("Documentation", _documentation())]


def _documentation() -> str:
    """Return the documentation's address as the package was published with; "" of none."""
    named = importlib.metadata.metadata("clipjax").get_all("Project-URL") or []
    found = dict(line.split(", ", 1) for line in named if ", " in line)
    return found.get("Documentation", "")
