"""report.html and suite.html by assets/report: one file each, to be read offline."""

import functools
import re
from collections.abc import Sequence
from typing import Any

from clipjax.evaluate.report import classes, sections
from clipjax.evaluate.report.card import card
from clipjax.evaluate.report.charts import legal
from clipjax.evaluate.report.reading import ANCHOR, reading
from clipjax.evaluate.report.tables import Chapter, Link, Sheet, Table
from clipjax.io import ASSETS


def run_page(
    results: dict, metrics: list[dict], evidence: dict, config: dict, workdir: Any = None
) -> str:
    """Render the page of a run from results.json, metrics.jsonl, evidence.json and config.json.

    `workdir` is the run's folder, which commands name.
    """
    data = results["data"]
    return document(
        f"{results['experiment']}: {data['source']} → {data['target']}",
        f"{data['name']}, {results['classes']} classes; model {results['model']}; "
        f"seeds {', '.join(map(str, results['seeds']))}",
        [],
        [
            Chapter("verdict", "", items=card(results, workdir)),
            Chapter("results", "Results", items=sections.headline(results)),
            Chapter("beyond", "Other classes and episodes", items=sections.beyond(results)),
            Chapter("prompts", "Learned prompts", items=sections.prompts(results)),
            Chapter("sweep", "Sweep", items=sections.sweep(results)),
            Chapter("learning", "Learning", items=sections.learning(results, metrics)),
            Chapter("features", "Features", items=sections.features(results, evidence)),
            Chapter("confusions", "Confusions", items=classes.confusions(results, evidence)),
            Chapter("calibration", "Calibration", items=classes.calibration(results, evidence)),
            Chapter("classes", "Change per class", items=classes.class_changes(results, evidence)),
            Chapter("mistakes", "Worst classes", items=classes.worst(results, evidence)),
            Chapter("methods", "Choice of the method", items=sections.choice(results)),
            Chapter("selection", "Other selection rules", items=sections.selection(results)),
            Chapter("run", "About the run", items=sections.about(results, config)),
            Chapter(ANCHOR, "How to read this page", items=reading()),
        ],
    )


def suite_page(entries: Sequence[tuple[str, dict, Sequence | None, str | None]]) -> str:
    """Render the page of several runs: a table each, beside published accuracies if there are any.

    Entries are (title, results, published rows (method, domain, published, measured; in %) or None,
    href of the run's own page or None).
    """
    header = ["method", "domain", "published, %", "measured, %"]
    parts = []
    for i, (title, results, published, href) in enumerate(entries):
        data = results["data"]
        heading = f"{title}: {data['name']}, {data['source']} → {data['target']}"
        items = [
            *sections.headline(results),
            Table(header, published or [], "Beside the published accuracies", folded=False),
            Link("Curves, maps and mistakes", href or ""),
        ]
        parts.append(Chapter(f"part-{i}", heading, items=items))
    models = ", ".join(dict.fromkeys(str(results["model"]) for _, results, *_ in entries))
    return document("All tables", f"model {models}" if models else "", [], parts)


def document(title: str, subtitle: str, lead: Sequence[str], parts: Sequence[Chapter]) -> str:
    """Render a whole page: header, lead sentences, the chapters that are not empty and links."""
    page = _templates().get_template("page.html")
    script = any(isinstance(item, Sheet) for part in parts for item in part.items)
    return page.render(title=title, subtitle=subtitle, lead=lead, chapters=parts, script=script)


def standalone(svg: str) -> str:
    """Return a chart as a file of its own, with the page's colours inside, for light and dark."""
    css = (ASSETS / "report" / "report.css").read_text()
    head, body = svg.split(">", 1)
    back = "svg { background: var(--card); font-family: system-ui, sans-serif; }"
    # A margin for what a page lets stick out.
    size = re.search(r'viewBox="0 0 (\S+) (\S+)"', head)
    wide, high = (float(part) + 24 for part in size.groups())
    head = head.replace(size[0], f'viewBox="-12 -12 {wide:g} {high:g}"')
    if "xmlns=" not in head:
        head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}><style>{css}\n{back}</style>{body}\n"


@functools.cache
def _templates():
    """Load the templates: values are escaped, a missing one is an error."""
    import jinja2
    from markupsafe import Markup

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else legal(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
