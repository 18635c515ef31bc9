"""Images per second from JPEG files to batches of crops, against PIL in a PyTorch DataLoader.

    python -m benchmarks.data                            every row; about 5 minutes
    python -m benchmarks.data --workers=2 --rounds=9     some of them

The files are synthetic photographs of 500 x 375 pixels, about 50 KB each; a crop is CLIP's: bicubic
to a shorter side of 224, centre 224 x 224. clipjax loads them with `load_ahead`, in threads of this
process or in worker processes; PyTorch in as many DataLoader workers as `--workers` says, with
torchvision's steps written in PIL (resize, centre crop, to tensor, normalise).

clipjax hands over uint8 and normalises on the device; torchvision's usual steps give float32, four
times the bytes between processes. That is part of the design and of the first ratio; the second is
against a DataLoader that hands over uint8 too, so only reading is compared.

All sides run in one process in alternation. A rate counts from the arrival of two batches for each
worker, so that no start of a worker counts. A row prints the medians over the rounds and the
medians of the paired ratios (above 1: clipjax is faster) with their range.

Measured (2 cores of an Intel Xeon, Sapphire Rapids; Pillow 13, torch 2.13; `--rounds=3`, nothing
else running): images per second, ratios with their range over the rounds.

    workers        clipjax   float tensors              uint8 tensors
    2 threads          260   194   1.40 (1.25 to 1.40)   223   1.13 (1.10 to 1.31)

Two threads are what a run on two cores takes by default. Pillow's resize is 60-70 % of a crop.
"""

from __future__ import annotations

import io
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.workers import load_ahead

WIDTH, HEIGHT, SIZE = 500, 375, 224

_WORKERS = flags.DEFINE_multi_integer("workers", [1, 2], "Threads or processes of either side.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed passes of every side a row.")
_IMAGES = flags.DEFINE_integer("images", 1280, "Images a pass; several passes over the files.")
_BATCH = flags.DEFINE_integer("batch", 32, "Images a batch.")
_FILES = flags.DEFINE_integer("files", 64, "Different files.")


def photograph(seed: int) -> bytes:
    """A JPEG file with the spectrum of a photograph: smooth noise of many scales, and grain."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave in range(8):
        shape = (3 << octave, 4 << octave)
        for channel in range(3):
            noise = Image.fromarray(rng.normal(size=shape).astype(np.float32))
            smooth = np.asarray(noise.resize((WIDTH, HEIGHT), resample=3))
            pixels[..., channel] += smooth * 60 * 0.62**octave
    pixels += rng.normal(scale=2, size=(HEIGHT, WIDTH, 1))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


class Load(NamedTuple):
    """Our side: number of a batch -> uint8 [B, 224, 224, 3]."""

    files: list[pathlib.Path]
    batch: int
    preprocess: Preprocess = Preprocess(size=SIZE)

    def __call__(self, number: int) -> np.ndarray:
        first = number * self.batch
        paths = [self.files[i % len(self.files)] for i in range(first, first + self.batch)]
        return np.stack([self.preprocess.crop(p.read_bytes(), str(p)) for p in paths])


class TorchFiles(NamedTuple):
    """Their side: a map-style dataset of tensors [3, 224, 224], as torchvision's steps make."""

    files: list[pathlib.Path]
    images: int
    floats: bool

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Any:
        import torch
        from PIL import Image

        with Image.open(self.files[index % len(self.files)]) as file:
            picture = file.convert("RGB")
        scale = SIZE / min(picture.size)
        size = tuple(int(side * scale) for side in picture.size)
        picture = picture.resize(size, resample=Image.Resampling.BICUBIC)
        left, top = (round((side - SIZE) / 2) for side in size)
        picture = picture.crop((left, top, left + SIZE, top + SIZE))
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        if not self.floats:
            return tensor
        rules = Preprocess()
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (rules.mean, rules.std))
        return tensor.float().div(255).clone().sub_(mean).div_(std)  # with torchvision's copies


def torch_batches(files: list[pathlib.Path], workers: int, floats: bool) -> Iterable:
    """A DataLoader; its workers are new processes, because this one has threads."""
    from torch.utils.data import DataLoader

    data = TorchFiles(files, _IMAGES.value, floats)
    return DataLoader(
        data, _BATCH.value, num_workers=workers, multiprocessing_context="spawn", drop_last=True
    )


def our_batches(files: list[pathlib.Path], workers: int, threads: int) -> Iterator[np.ndarray]:
    """Batches of clipjax's loader."""
    load, count = Load(files, _BATCH.value), _IMAGES.value // _BATCH.value
    return load_ahead(load, 0, count, workers=workers, threads=threads)


def rate(make: Callable[[], Iterable], workers: int) -> float:
    """Images per second after two batches of each worker: then all of them are at work."""
    batches = iter(make())
    for _ in range(2 * workers):
        next(batches)
    started, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch)
    return count / (time.perf_counter() - started)


def compare(files: list[pathlib.Path], workers: int) -> list[str]:
    """The rows of one number of workers."""
    sides = {
        "threads": lambda: our_batches(files, 0, workers),
        "processes": lambda: our_batches(files, workers, 1),
        "float": lambda: torch_batches(files, workers, True),
        "uint8": lambda: torch_batches(files, workers, False),
    }
    rounds = [
        {name: rate(make, workers) for name, make in sides.items()} for _ in range(_ROUNDS.value)
    ]
    median = {name: statistics.median(r[name] for r in rounds) for name in sides}
    rows = []
    for ours in ("threads", "processes"):
        row = f"{workers} {ours:10} {median[ours]:8.0f}"
        for theirs in ("float", "uint8"):
            ratios = sorted(r[ours] / r[theirs] for r in rounds)
            spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
            row += f"   {median[theirs]:8.0f} {statistics.median(ratios):7.2f} {spread:14}"
        rows.append(row)
    return rows


def main(argv: list[str]) -> None:
    """Prints two rows for every number of workers."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / f"{i}.jpg" for i in range(_FILES.value)]
        for seed, path in enumerate(files):
            path.write_bytes(photograph(seed))
        size = statistics.mean(path.stat().st_size for path in files) / 1000
        print(f"{len(files)} files of {WIDTH} x {HEIGHT}, {size:.0f} KB on average")
        print("workers        clipjax/s   torch float/s   ratio         torch uint8/s   ratio")
        for workers in _WORKERS.value:
            print("\n".join(compare(files, workers)), flush=True)


if __name__ == "__main__":
    app.run(main)
