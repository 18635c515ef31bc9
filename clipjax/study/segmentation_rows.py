"""Rows of a segmentation run: a trained method measured in every condition, kept by name."""

import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data.masks import mixed
from clipjax.errors import DataError
from clipjax.evaluate.segmentation import confusion, overlap
from clipjax.io import is_remote, write_json
from clipjax.model.hf.weights import read_json
from clipjax.study.segmentation_answers import answered
from clipjax.study.segmentation_config import SegmentationMethod
from clipjax.study.segmentation_maps import Encoded, Encoder
from clipjax.study.segmentation_plan import Plan, mixture
from clipjax.study.segmentation_pngs import AnswerFiles
from clipjax.study.segmentation_trainer import Trainer

PyTree = Any
ROWS = "rows"  # folder of a workdir: a killed run goes on after the last row in it
MEASURES = ("miou", "foreground", "accuracy")


class Rows:
    """Makes the rows of a run, those that a run before it has left aside."""

    def __init__(self, trainer: Trainer, tests: dict[str, Encoded], workdir: pathlib.Path, say):
        self.trainer, self.tests, self.say = trainer, tests, say
        self.plan: Plan = trainer.plan
        self.workdir, self.folder = workdir, workdir / ROWS
        if not is_remote(workdir):
            self.folder.mkdir(exist_ok=True)

    def methods(self, trains: Mapping[str, Encoded]) -> dict[str, dict[str, Any]]:
        """Return the row of every method, trained on the images with its kind of labels."""
        methods = self.plan.config.decoders
        return {m.name: self._made(m, trains.get(m.labels), m.name) for m in methods}

    def mixing(self, encode: Encoder) -> dict[str, Any] | None:
        """Return rows of training with shares of another domain's images; None if none are."""
        config, data = self.plan.config, self.plan.data
        if not config.mixing.shares:
            return None
        by_name = {method.name: method for method in config.decoders}
        method, domain, total = by_name[config.mixed], config.mixing.domain, len(data.train)
        name_of = lambda share: f"{method.name}, {100 * share:g} % {domain}"
        names = {share: name_of(share) for share in config.mixing.shares}
        left = [share for share, name in names.items() if not self._path(name).exists()]
        sources = self.plan.pool
        pool = encode(mixed(sources)) if left else None
        rows = []
        for share, name in names.items():
            of = mixture(sources, share, total, config.data.subset_seed)
            index = np.concatenate([of.rows[0], len(sources[0]) + of.rows[1]])
            train = pool.taken(index, of) if pool else None
            rows.append(self._made(method, train, name))
        return {
            "method": method.name,
            "domain": domain,
            "shares": list(config.mixing.shares),
            "miou": {c: [row["miou"][c] for row in rows] for c in data.measured},
        }

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / f"{urllib.parse.quote(name, safe=' ,+%')}.json"

    def _made(self, method: SegmentationMethod, train: Encoded | None, name: str) -> dict[str, Any]:
        """Return a row: of its file where there is one, else trained, if it trains, and tested.

        DataError: a file of other domains with masks.
        """
        if self._path(name).exists():
            row = read_json(self._path(name))
            if set(row["miou"]) != set(self.plan.data.measured):
                told = f"{self._path(name)} was made when masks of other domains were there"
                raise DataError(f"{told}; use another --workdir.")
            return row
        trains = method.decoder != "zero_shot"
        params = self.trainer.train(method, train, name) if trains else None
        row = self._tested(method, params, name)
        write_json(self._path(name), row)
        mean = lambda c: f"{100 * np.mean(row['miou'][c]):.1f}"
        told = (f"{c} {mean(c) if c in row['miou'] else 'not measured'}" for c in self.tests)
        self.say(f"{name}: mIoU {', '.join(told)}")
        return row

    def _tested(
        self, method: SegmentationMethod, params: PyTree | None, name: str
    ) -> dict[str, Any]:
        """Return a method's measures by condition and seed, and pictures of its first answers.

        Of a condition without masks there are no measures: the first seed's answers are written.
        """
        config, data = self.plan.config, self.plan.data
        classes = len(data.classes)
        row: dict[str, Any] = {key: {} for key in ("iou", *MEASURES, "miou_percent", "overlays")}
        for condition, test in self.tests.items():
            masked, shown = test.source.masked, []
            files = None if masked else AnswerFiles(self.workdir, name, test.source)
            matrices = np.zeros((len(config.seeds), classes, classes), np.int64)
            for index, (mask, seen) in enumerate(answered(self.trainer, method, params, test)):
                if masked:
                    matrices += [confusion(mask, each, classes) for each in seen]
                else:
                    files.write(index, seen[0])
                shown += [seen[0]] * (len(shown) < config.overlays)
            row["overlays"][condition] = self._overlay(test, shown)
            if not masked:
                continue
            found = [overlap(matrix) for matrix in matrices]
            row["iou"][condition] = [_plain(each.iou) for each in found]
            for key in MEASURES:
                row[key][condition] = [float(getattr(each, key)) for each in found]
            if condition != data.source and data.source in row["miou"]:
                pairs = zip(row["miou"][condition], row["miou"][data.source], strict=True)
                share = lambda after, before: 100 * after / before if before else None
                row["miou_percent"][condition] = [share(*pair) for pair in pairs]
        return row

    def _overlay(self, test: Encoded, answers: Sequence[np.ndarray]) -> str:
        """Draw images, truths where there are some, and answers; "" of none."""
        from clipjax.evaluate.report.segments import strip

        examples = [test.source[i] for i in range(len(answers))]
        images, masks = ([getattr(e, key) for e in examples] for key in ("image", "mask"))
        layers = (masks, answers) if test.source.masked else (answers,)
        return strip(images, *layers) if examples else ""


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(x) else float(x) for x in values]
