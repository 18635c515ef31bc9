"""Draws docs/figures/ from a finished run.

The figures of docs/reading-a-dann-run.md come from

    clipjax suite --tables=5
    python -m tools.doc_figures --workdir=runs/suite/table5
"""

from __future__ import annotations

import json
import pathlib

from absl import app, flags

from clipjax.evaluate import results as report
from clipjax.evaluate.report.charts import escape
from clipjax.evaluate.report.figures import learning_charts
from clipjax.evaluate.report.page import standalone
from clipjax.log import read_log
from clipjax.study import parse
from clipjax.study.report_data import training_curves

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run.", required=True)
_OUT = flags.DEFINE_string("out", "docs/figures", "Folder to write to.")

SHOWN = {
    "Domain loss": "domain_loss.svg",
    "Domain classifier's accuracy": "domain_accuracy.svg",
}


def draw(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the charts of SHOWN, a curve for each method."""
    study = parse(json.loads((workdir / "config.json").read_text()))
    records = training_curves(read_log(workdir / "metrics.jsonl"), study.method_of)
    methods = list(dict.fromkeys(record["method"] for record in records))
    data = report.read(workdir)["data"]
    colours = {name: f"c{i}" for i, name in enumerate(methods)}
    out.mkdir(parents=True, exist_ok=True)
    for chart in learning_charts(records, data["source"], data["target"], colours):
        svg = chart[chart.index("<svg") : chart.index("</svg>") + 6]
        for title, file in SHOWN.items():
            if f"<title>{escape(title)}</title>" in chart:
                (out / file).write_text(standalone(svg))


def main(argv: list[str]) -> None:
    """Draws what the flags name."""
    del argv
    draw(pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value))


if __name__ == "__main__":
    app.run(main)
