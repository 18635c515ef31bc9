"""Seconds and memory from the start of a process to its first batch, on a folder of 200,000 files.

    python -m benchmarks.index                 two domains, 100 classes; some 20 seconds
    python -m benchmarks.index --files=600000

The files are hard links to a few JPEGs of 500 x 375 pixels. "cold" walks over them and writes the
index, "warm" reads it; each is a process of its own that opens the dataset, names it as the feature
cache does, and decodes a batch. Memory is the peak above what the imports took. Linux only.
"""

from __future__ import annotations

import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

DOMAINS = ("photo", "drawing")

_FILES = flags.DEFINE_integer("files", 200_000, "How many.")
_CLASSES = flags.DEFINE_integer("classes", 100, "Class folders of each domain.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Warm starts.")
_ROOT = flags.DEFINE_string("root", "", "Where a started process finds the files.")
_STARTED = flags.DEFINE_float("started", 0, "When a started process was started.")


def memory(field: str) -> int:
    """Bytes of this process: now (VmRSS) or at most ever (VmHWM)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def jpegs(count: int) -> list[bytes]:
    """Smooth random pictures of 500 x 375, about as large as photographs are."""
    from PIL import Image

    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
        buffer = io.BytesIO()
        picture.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def make(root: pathlib.Path, files: int, classes: int) -> None:
    """Links `files` files into domain/class folders; 10,000 links a picture at most."""
    originals = []
    for number, content in enumerate(jpegs(-(-files // 10_000))):
        originals.append(root.parent / f"original{number}.jpg")
        originals[-1].write_bytes(content)
    folders = [root / domain / f"class{i:03d}" for domain in DOMAINS for i in range(classes)]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(files):
        name = f"picture_{number:07d}.jpg"
        os.link(originals[number % len(originals)], folders[number % len(folders)] / name)


def start(root: str, started: float) -> str:
    """Opens the dataset and decodes a batch, as a run does."""
    import jax  # noqa: F401

    from clipjax import open_dataset
    from clipjax.data.images.preprocess import Preprocess
    from clipjax.data.loading.loader import image_batches

    # Imports that happen on first use are no part of what is measured.
    next(iter(image_batches(open_dataset("emoji").source("flat", "val"), Preprocess(), 8)))
    before, begin = memory("VmRSS"), time.time()
    source = open_dataset("folder", root).source(DOMAINS[0], "train")
    opened = time.time()
    repr(source)  # what the feature cache knows it by
    keyed = time.time()
    batch = next(iter(image_batches(source, Preprocess(), 64)))
    end = time.time()
    assert batch["mask"].all()
    growth = (memory("VmHWM") - before) / 1e6
    return (
        f"opened in {opened - begin:.2f} s, named in {keyed - opened:.2f} s, first batch of 64 in "
        f"{end - keyed:.2f} s: {end - begin:.2f} s, {end - started:.2f} s with start and imports; "
        f"memory + {growth:.0f} MB"
    )


def main(argv: list[str]) -> None:
    """Does the task of a started process, or makes the files and starts them."""
    del argv
    if _ROOT.value:
        print(start(_ROOT.value, _STARTED.value), flush=True)
        return
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory) / "files"
        begin = time.time()
        make(root, _FILES.value, _CLASSES.value)
        print(f"{_FILES.value:,} files linked in {time.time() - begin:.1f} s", flush=True)
        time.sleep(3)  # folders that have just changed are not yet trusted to an index
        env = os.environ | {"JAX_PLATFORMS": "cpu", "CLIPJAX_CACHE": f"{directory}/cache"}
        for row in ("cold", *["warm"] * _ROUNDS.value):
            print(row, end=": ", flush=True)
            options = [f"--root={root}", f"--started={time.time()}"]
            command = [sys.executable, "-m", "benchmarks.index", *options]
            subprocess.run(command, check=True, env=env)


if __name__ == "__main__":
    app.run(main)
