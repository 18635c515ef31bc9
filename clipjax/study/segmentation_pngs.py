"""Answers on images without masks, written as masks: palette PNGs of class numbers."""

import io
import os
import pathlib
import urllib.parse

import numpy as np
from PIL import Image

from clipjax.data.masks import MixedMasks
from clipjax.data.readers.list_files import CLASSES
from clipjax.evaluate.report.segments import colours
from clipjax.io import is_remote, write_atomically

ANSWERS = "answers"  # folder of a workdir: METHOD/DOMAIN/, below it as the images lie


class AnswerFiles:
    """A file for each image of a tested domain, with `classes.txt` above all.

    Values are numbers of classes, a line of `classes.txt` each, so that the files can be read as
    masks (docs/your-data.md).
    """

    def __init__(self, workdir: pathlib.Path, method: str, source: MixedMasks):
        self.root = workdir / ANSWERS
        self.folder = self.root / urllib.parse.quote(method, safe=" ,+%") / source.domain
        self.classes = source.classes
        names = [source.name_of(i) for i in range(len(source))]
        common = os.path.commonpath([os.path.dirname(name) for name in names])
        self.names = [f"{os.path.splitext(os.path.relpath(n, common))[0]}.png" for n in names]
        if not is_remote(workdir):
            self.root.mkdir(exist_ok=True)
        write_atomically(self.root / CLASSES, "\n".join(self.classes) + "\n")

    def write(self, index: int, answer: np.ndarray) -> None:
        """Write the answer on an image, uint8 [H, W]."""
        path, out = self.folder / self.names[index], io.BytesIO()
        picture = Image.fromarray(answer)
        picture.putpalette(colours(len(self.classes)).tobytes())
        picture.save(out, "PNG")
        if not is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, out.getvalue())
