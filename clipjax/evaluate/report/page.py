"""report.html and suite.html: one file each, readable offline, without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clipjax.evaluate.report import curves, sections
from clipjax.evaluate.report.drawing import escape
from clipjax.evaluate.report.feature_maps import feature_maps
from clipjax.io import ASSETS

_STYLE = ASSETS / "report.css"


class Section(NamedTuple):
    """A part of a page; one with an empty body is left out."""

    name: str  # anchor
    heading: str
    body: str


class Entry(NamedTuple):
    """A run on the page of a suite."""

    title: str
    results: dict
    published: Sequence[Sequence[str]] | None  # method, domain, published, measured; in %
    href: str | None  # of the run's own page


def run_page(results: dict, metrics: list[dict], evidence: dict, config: dict) -> str:
    """The page of a run.

    Args:
      results: content of results.json.
      metrics: records of metrics.jsonl.
      evidence: content of evidence.json; what it lacks is not shown.
      config: of the run, as JSON.
    """
    data = results["data"]
    kinds = sections.colours(results)
    learned = curves.charts(metrics, data["source"], data["target"], kinds)
    several = len(results["seeds"]) > 1
    note = "Mean of each epoch" + (", and over seeds; bands from lowest to highest." * several)
    return document(
        f"{results['experiment']}: {data['source']} → {data['target']}",
        f"{data['name']}, {results['classes']} classes; model {results['model']}; "
        f"seeds {', '.join(map(str, results['seeds']))}",
        sections.summary(results),
        [
            Section("results", "Results", sections.headline(results)),
            Section("sweep", "Sweep", sections.sweep(results)),
            Section(
                "learning",
                "Learning",
                sections.paragraph(note, "note") * bool(learned) + sections.grid(learned),
            ),
            Section("features", "Features", _features(evidence)),
            Section("classes", "Change per class", sections.class_changes(results, evidence)),
            Section("mistakes", "Worst classes", sections.worst(evidence)),
            Section("selection", "Choice of the checkpoint", sections.selection(results)),
            Section("run", "About the run", sections.about(results, config)),
        ],
    )


def _features(evidence: dict) -> str:
    by_domain, by_class, said = feature_maps(evidence)
    note = sections.paragraph(said, "note") if said else ""
    return note + sections.grid(by_domain) + sections.grid(by_class)


def suite_page(entries: Sequence[tuple[str, dict, Sequence | None, str | None]]) -> str:
    """The page of several runs: a table each, beside published accuracies where there are some.

    Args:
      entries: (title, results, published rows or None, href of the run's page or None); see
        `Entry`.
    """
    entries = [Entry(*entry) for entry in entries]
    parts = []
    for i, entry in enumerate(entries):
        body = sections.headline(entry.results)
        if entry.published:
            header = ["method", "domain", "published, %", "measured, %"]
            body += "<h3>Beside the published accuracies</h3>"
            body += sections.table(header, entry.published)
        if entry.href:
            body += f'<p><a href="{escape(entry.href)}">Curves, maps and mistakes</a></p>'
        data = entry.results["data"]
        heading = f"{entry.title}: {data['name']}, {data['source']} → {data['target']}"
        parts.append(Section(f"part-{i}", heading, body))
    models = ", ".join(dict.fromkeys(str(e.results["model"]) for e in entries))
    return document("All tables", f"model {models}" if models else "", "", parts)


def document(title: str, subtitle: str, lead: str, parts: Sequence[Section]) -> str:
    """A whole page: header, links to its sections, the sections."""
    kept = [part for part in parts if part.body]
    links = "".join(f'<a href="#{p.name}">{escape(p.heading)}</a>' for p in kept)
    body = "".join(
        f'<section id="{p.name}"><h2>{escape(p.heading)}</h2>{p.body}</section>' for p in kept
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>"
        '<link rel="icon" href="data:,"></head>\n'
        f'<body><header><h1>{escape(title)}</h1><p class="muted">{escape(subtitle)}</p>{lead}'
        f"<nav>{links}</nav></header>\n<main>{body}</main></body></html>\n"
    )
