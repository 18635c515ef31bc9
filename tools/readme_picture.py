"""Draws the README's picture: five things in six styles, and how well CLIP knows each style.

    clipjax run dann --workdir=runs/first
    python -m tools.readme_picture --workdir=runs/first

The drawings are test images of the embedded data, the figures are the run's.
"""

import base64
import html
import importlib.resources
import pathlib

import pyarrow.parquet as pq
from absl import app, flags

from clipjax.evaluate import results as report

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A finished run on the embedded data.", required=True
)
_OUT = flags.DEFINE_string("out", "docs/figures/first_look.svg", "File to write.")

THINGS = ("flamingo", "motor_scooter", "saxophone", "birthday_cake", "shark")
STYLES = ("render", "flat", "clipart", "cartoon", "stencil", "sketch")
METHODS = {"zero_shot": ("zero-shot CLIP", "#8a8983"), "blend": ("adapted (blend)", "#2a78d6")}

CELL, GAP, LEFT, TOP, BAR = 72, 28, 16, 54, 11
CSS = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1c1c1a; }
.muted { fill: #6d6c67; font-size: 11px; } .small { font-size: 10px; font-weight: 600; }
.back { fill: #fdfdfb; }
@media (prefers-color-scheme: dark) {
  .back { fill: #1d1d1b; } text { fill: #eeede8; } .muted { fill: #a8a69e; }
}
"""
WIDTH = 2 * LEFT + len(STYLES) * CELL + (len(STYLES) - 1) * GAP


def drawings() -> dict[tuple[str, str], str]:
    """Return (thing, style) -> data URI."""
    file = importlib.resources.files("clipjax").joinpath("assets/emoji/test.parquet")
    with importlib.resources.as_file(file) as path:
        rows = pq.read_table(path, columns=["image", "identity", "domain"]).to_pylist()
    coded = lambda row: base64.b64encode(row["image"]["bytes"]).decode()
    found = {
        (row["identity"], row["domain"]): f"data:image/webp;base64,{coded(row)}"
        for row in rows
        if row["identity"] in THINGS
    }
    if missing := {(t, s) for t in THINGS for s in STYLES} - found.keys():
        raise SystemExit(f"the embedded test images have no {sorted(missing)[0]}.")
    return found


def text(x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {style}>{html.escape(words)}</text>'


def picture(results: dict) -> str:
    """Return the picture as SVG."""
    accuracy: dict[tuple[str, str], float] = {}  # of a method's first variant, its own answer
    for row in results["rows"]:
        if row["split"] == "test":
            accuracy.setdefault((row["method"], row["domain"]), 100 * row["accuracy_mean"])
    source, target = results["data"]["source"], results["data"]["target"]
    role = {source: "labelled source", target: "unlabelled target"}
    images, lines = drawings(), []
    bars = TOP + len(THINGS) * (CELL + 6) + 20
    for column, style in enumerate(STYLES):
        left = LEFT + column * (CELL + GAP)
        middle = left + CELL / 2
        lines.append(text(middle, 22, style, 'font-weight="600"'))
        lines.append(text(middle, 39, role.get(style, ""), 'class="muted"'))
        for place, thing in enumerate(THINGS):
            y = TOP + place * (CELL + 6)
            box = f'x="{left:g}" y="{y:g}" width="{CELL}" height="{CELL}"'
            lines.append(f'<rect {box} rx="6" fill="#fff" stroke="#e3e2dc"/>')
            inner = f'x="{left + 4:g}" y="{y + 4:g}" width="{CELL - 8}" height="{CELL - 8}"'
            lines.append(f'<image {inner} href="{images[thing, style]}"/>')
        for place, (method, (_, colour)) in enumerate(METHODS.items()):
            value, y = accuracy[method, style], bars + place * (BAR + 6)
            track = f'x="{left:g}" y="{y:g}" height="{BAR}" rx="2"'
            lines.append(f'<rect {track} width="{CELL}" fill="{colour}" opacity="0.18"/>')
            lines.append(f'<rect {track} width="{CELL * value / 100:.1f}" fill="{colour}"/>')
            lines.append(text(left + CELL - 3, y + BAR - 2, f"{value:.0f}", 'class="small"', "end"))
    legend, y = LEFT, bars + len(METHODS) * (BAR + 6) + 20
    for name, colour in METHODS.values():
        lines.append(
            f'<rect x="{legend:g}" y="{y - 10:g}" width="12" height="12" rx="2" fill="{colour}"/>'
        )
        lines.append(text(legend + 17, y, name, "", "start"))
        legend += 150
    chance = 100 / results["classes"]
    most = 100 * max(results["majority"].values())
    note = f"test accuracy in %; chance {chance:.1f}, most frequent class {most:.1f}"
    y += 19
    lines.append(text(LEFT, y, note, 'class="muted"', "start"))
    size = f'width="{WIDTH}" height="{y + 16:g}" viewBox="0 0 {WIDTH} {y + 16:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    head += f"<title>Five things in six styles</title><style>{CSS}</style>"
    back = '<rect class="back" width="100%" height="100%" rx="10"/>'
    return "\n".join([head, back, *lines, "</svg>\n"])


def main(argv: list[str]) -> None:
    """Draws the picture from the run that the flag names."""
    del argv
    results = report.read(pathlib.Path(_WORKDIR.value))
    if not results:
        raise SystemExit(f"{_WORKDIR.value} has no results.json; give a finished run.")
    pathlib.Path(_OUT.value).write_text(picture(results))


if __name__ == "__main__":
    app.run(main)
