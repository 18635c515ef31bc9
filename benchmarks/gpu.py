"""Checks and times on a GPU what the tests cannot, beside PyTorch: towers, steps, features.

    python -m benchmarks.gpu                on a GPU, 6 minutes planned; writes runs/gpu.json
    python -m benchmarks.gpu --write        the tables of docs/performance.md, too
    python -m benchmarks.gpu --sections=parity,encode
    python -m benchmarks.gpu --dry-run      tiny sizes on the CPU: does it run, do the checks hold?

It needs clipjax with JAX for CUDA (`pip install -e . "jax[cuda13]"`) and, for the other side,
PyTorch for CUDA, transformers and diffusers. Weights are random: speed does not depend on them.
Every section has its seconds, and starts while half of them are left of --seconds; one that has
used them up ends after its row: no row starts later than that, and none is cut off. A section that
fails is written down with its error, the others still run, and the exit status is 1 at the end; so
it is where a check does not hold. PyTorch is timed where it sees the GPU, with sdpa attention, call
by call in alternation; what XLA compiles is kept in JAX_COMPILATION_CACHE_DIR, if that is set.
**Nothing of it has been run on a GPU so far.** Checks and what they allow:

- Towers: relative distance (norm of the difference over the norm) of both towers' embeddings to the
  CPU's in float32: 1e-4 where products are exact ("highest"), 1e-2 with JAX's default there, which
  rounds the inputs of float32 products to 10 bits (TF32), 5e-2 in bfloat16, whose step is 0.8 %.
- Steps, and 8 steps of stacked runs: 1e-3 of losses and the gradient's norm, products exact.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch lives beside it

from absl import app, flags, logging  # noqa: E402

from benchmarks.gpu_rows import Check, Place, tables  # noqa: E402

PAGE = pathlib.Path("docs/performance.md")
# Section -> seconds, in the order in which they matter. 360 are planned, with the last row.
SECONDS = {"parity": 60, "cached": 35, "encode": 50, "dann": 85, "diffusion": 80, "dense": 30}

Sections = Mapping[str, Callable[[Place], Iterator]]


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_bool("dry-run", False, "Tiny sizes on the CPU.")
    flags.DEFINE_list("sections", list(SECONDS), "Which parts.")
    flags.DEFINE_float("seconds", 320, "Of all sections together.")
    flags.DEFINE_string("out", "runs/gpu.json", "Where the numbers go.")
    flags.DEFINE_bool("write", False, f"Write the tables of {PAGE}.")


def no_torch(dry: bool) -> str:
    """Why PyTorch is not timed; "" if it can be."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    if dry:
        torch.set_num_threads(1)
    return "" if dry or torch.cuda.is_available() else "PyTorch sees no GPU"


def run_sections(
    sections: Sections, place: Place, total: float, keep: Callable[[dict], None]
) -> tuple[dict[str, dict], bool]:
    """Run the sections, a row at a time; what was found, and whether all held.

    `keep` is called with all that was found after every section.
    """
    found: dict[str, dict] = {}
    started, good = time.perf_counter(), True
    for name, section in sections.items():
        begun = time.perf_counter()
        left, budget = total - (begun - started), SECONDS.get(name, 0)
        part: dict[str, Any] = {"rows": []}
        found[name] = part
        if left < budget / 2 or left <= 0:
            part["skipped"] = f"skipped: {max(0, left):.0f} s were left, it may take {budget}"
            print(f"{name}: {part['skipped']}", flush=True)
            continue
        try:
            for row in section(place):
                part["rows"].append(row._asdict())
                held = row.good if isinstance(row, Check) else True
                good &= held
                print(f"{name}: {_told(row)}{'' if held else '  DOES NOT HOLD'}", flush=True)
                if not place.dry and time.perf_counter() - begun > min(budget, left):
                    part["skipped"] = "skipped: no time"  # what it has not come to
                    break
        except Exception as error:  # written down, printed whole, and the exit status says so
            traceback.print_exc()
            good = False
            part["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"{name}: FAILED, {part['error']}", flush=True)
        part["seconds"] = round(time.perf_counter() - begun, 1)
        keep(found)
    return found, good


def _told(row: Any) -> str:
    """A row as a line."""
    if isinstance(row, Check):
        return f"{row.name}: {row.error:.2e}, allowed {row.allowed:.0e}"
    sides = {"PyTorch": row.torch, "compiled": row.compiled}
    others = [
        f", {side} {rate:.1f} ({row.ours / rate:.2f})" for side, rate in sides.items() if rate
    ]
    return (
        f"{row.name}: {row.ours:.1f} {row.unit}{''.join(others)}{'; ' * bool(row.note)}{row.note}"
    )


def machine(place: Place) -> dict[str, Any]:
    """What it ran on."""
    import jax

    device = jax.local_devices()[0]
    about = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    if not place.torch:
        import torch

        about["torch"] = torch.__version__
    return about | {"dry_run": place.dry, "day": time.strftime("%Y-%m-%d")}


def page_table(about: Mapping[str, Any], found: dict[str, dict]) -> str:
    """What stands between the markers of the page."""
    text = tables(found)
    if about:
        words = f"{about['device']}, jax {about['jax']}, torch {about.get('torch', 'missing')}"
        text = f"{words}, {about['day']}.\n\n{text}"
    return text


def main(argv: list[str]) -> None:
    """Runs what the flags name; the exit status is 1 unless all of it held."""
    del argv
    given = flags.FLAGS
    dry = given["dry-run"].value
    if dry and given.write:
        sys.exit("benchmarks.gpu: --write is for numbers of a GPU; leave --dry-run out.")
    import jax

    logging.set_verbosity(logging.WARNING)
    if dry:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles sooner
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        sys.exit(f"benchmarks.gpu: JAX runs on the {jax.default_backend()}; give --dry-run.")
    from benchmarks import gpu_sections
    from clipjax.aot.report import fill

    place = Place(dry, no_torch(dry), 3 if dry else 15)
    sections = {name: getattr(gpu_sections, name) for name in given.sections}
    about, out = machine(place), pathlib.Path(given.out)
    if given.write:
        fill(PAGE, "", "gpu")  # refuses a page without markers before the work
    out.parent.mkdir(parents=True, exist_ok=True)

    def keep(found):
        out.write_text(json.dumps(about | {"sections": found}, indent=1) + "\n")

    seconds = float("inf") if dry else given.seconds  # a dry run leaves nothing out
    found, good = run_sections(sections, place, seconds, keep)
    keep(found)
    if not dry:
        print(page_table(about, found))
    if given.write:
        fill(PAGE, page_table(about, found), "gpu")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
