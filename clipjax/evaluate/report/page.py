"""report.html and suite.html: one file each, readable offline, without JavaScript.

How they look is said in assets/report: page.html, items.html, report.css.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from clipjax.evaluate.report import sections
from clipjax.evaluate.report.charts import legal
from clipjax.evaluate.report.tables import Chapter, Link, Table
from clipjax.io import ASSETS


def run_page(results: dict, metrics: list[dict], evidence: dict, config: dict) -> str:
    """The page of a run.

    Args:
      results: content of results.json.
      metrics: records of metrics.jsonl.
      evidence: content of evidence.json; what it lacks is not shown.
      config: of the run, as JSON.
    """
    data = results["data"]
    found = {
        ("results", "Results"): sections.headline(results),
        ("sweep", "Sweep"): sections.sweep(results),
        ("learning", "Learning"): sections.learning(results, metrics),
        ("features", "Features"): sections.features(evidence),
        ("classes", "Change per class"): sections.class_changes(evidence),
        ("mistakes", "Worst classes"): sections.worst(evidence),
        ("selection", "Choice of the checkpoint"): sections.selection(results),
        ("run", "About the run"): sections.about(results, config),
    }
    return document(
        f"{results['experiment']}: {data['source']} → {data['target']}",
        f"{data['name']}, {results['classes']} classes; model {results['model']}; "
        f"seeds {', '.join(map(str, results['seeds']))}",
        [sections.summary(results)],
        [Chapter(*name, items=items) for name, items in found.items()],
    )


def suite_page(entries: Sequence[tuple[str, dict, Sequence | None, str | None]]) -> str:
    """The page of several runs: a table each, beside published accuracies where there are some.

    Args:
      entries: (title, results, published rows (method, domain, published, measured; in %) or None,
        href of the run's own page or None).
    """
    header = ["method", "domain", "published, %", "measured, %"]
    beside, more = "Beside the published accuracies", "Curves, maps and mistakes"
    parts = []
    for i, (title, results, published, href) in enumerate(entries):
        data = results["data"]
        heading = f"{title}: {data['name']}, {data['source']} → {data['target']}"
        items = [
            *sections.headline(results),
            Table(header, published or [], beside, folded=False),
            Link(more, href or ""),
        ]
        parts.append(Chapter(f"part-{i}", heading, items=items))
    models = ", ".join(dict.fromkeys(str(results["model"]) for _, results, *_ in entries))
    return document("All tables", f"model {models}" if models else "", [], parts)


def document(title: str, subtitle: str, lead: Sequence[str], parts: Sequence[Chapter]) -> str:
    """A whole page: header, links to its chapters, the chapters; those that are empty left out.

    Args:
      title: heading.
      subtitle: below it.
      lead: sentences before all others.
      parts: the chapters.
    """
    style = (ASSETS / "report" / "report.css").read_text(encoding="utf-8")
    kept = [part for part in parts if part]
    page = _templates().get_template("page.html")
    return page.render(style=style, title=title, subtitle=subtitle, lead=lead, chapters=kept)


@functools.cache
def _templates():
    """The templates. What they are given is text, never markup, and what they lack an error."""
    import jinja2
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else legal(str(value))

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
