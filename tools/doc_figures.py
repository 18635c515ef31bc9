"""Draws docs/figures/ from finished runs.

The figures of docs/reading-a-dann-run.md come from

    python -m experiments.main --config=configs/dann.py --workdir=runs/reversed
    python -m experiments.main --config=configs/dann.py --workdir=runs/watched \\
      --config.methods.dann.lam_max=0.0
    python -m tools.doc_figures --runs="lambda 0.3=runs/reversed,lambda 0=runs/watched"
"""

from __future__ import annotations

import importlib.resources
import pathlib

from absl import app, flags

from clipjax.evaluate.curves import charts
from clipjax.evaluate.drawing import escape
from clipjax.log import read_log
from experiments.evidence import training_curves

_RUNS = flags.DEFINE_list("runs", None, "name=workdir pairs.", required=True)
_METHOD = flags.DEFINE_string("method", "dann", "Whose curves.")
_OUT = flags.DEFINE_string("out", "docs/figures", "Folder to write to.")

SHOWN = {
    "Domain loss": "domain_loss.svg",
    "Domain classifier's accuracy": "domain_accuracy.svg",
    "Gradient norms, domain loss to class loss": "gradient_ratio.svg",
}


def standalone(svg: str) -> str:
    """A chart with the page's colours inside, for light and dark."""
    css = importlib.resources.files("clipjax").joinpath("assets/report.css").read_text()
    head, body = svg.split(">", 1)
    back = "svg { background: var(--card); padding: 12px; font-family: system-ui, sans-serif; }"
    if "xmlns=" not in head:
        head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}><style>{css}\n{back}</style>{body}\n"


def draw(runs: dict[str, pathlib.Path], method: str, out: pathlib.Path) -> None:
    """Writes the charts of SHOWN with a curve for each run."""
    records = []
    for name, workdir in runs.items():
        own = training_curves(read_log(workdir / "metrics.jsonl"))
        records += [r | {"method": name, "phase": name} for r in own if r["method"] == method]
    colours = {name: f"c{i}" for i, name in enumerate(runs)}
    out.mkdir(parents=True, exist_ok=True)
    for chart in charts(records, "render", "sketch", colours):
        svg = chart[chart.index("<svg") : chart.index("</svg>") + 6]
        for title, file in SHOWN.items():
            if f"<title>{escape(title)}</title>" in chart:
                (out / file).write_text(standalone(svg))


def main(argv: list[str]) -> None:
    """Draws what the flags name."""
    del argv
    runs = dict(pair.split("=", 1) for pair in _RUNS.value)
    draw(
        {name: pathlib.Path(path) for name, path in runs.items()},
        _METHOD.value,
        pathlib.Path(_OUT.value),
    )


if __name__ == "__main__":
    app.run(main)
