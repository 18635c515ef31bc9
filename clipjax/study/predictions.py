"""predictions.csv: what a run's methods answer to each image of the target that it has read."""

import csv
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from clipjax.adapt.step import merge
from clipjax.data.dataset import Part
from clipjax.data.splits import SPLITS
from clipjax.evaluate.choice import ZERO_SHOT
from clipjax.evaluate.rows import best_seed
from clipjax.io import write_atomically
from clipjax.study.encode import Encoded
from clipjax.study.restore import Trained

FILE = "predictions.csv"
COLUMNS = ("path", "split", "method", "class", "probability", "runner_up", "runner_up_probability")
Answers = dict[Part, tuple[np.ndarray, np.ndarray]]  # the two likeliest classes of each image


def predict(
    encoded: Encoded, trained: Mapping[str, Trained], rows: Sequence[Mapping]
) -> dict[str, Answers]:
    """Return every method's two likeliest classes, int [N, 2], and their probabilities [N, 2].

    They are of the images of the target's parts that the run has encoded, of zero-shot first. Of a
    trained method's own result the seed answers that is the best on held-out source images, as it
    is exported; `rows` are of results. Several processes share the work, so all must call this.
    """
    data = encoded.study.data
    parts = [(data.target, split) for split in SPLITS if (data.target, split) in encoded.parts]
    zero_shot = lambda part: encoded.zero_shot(encoded.parts[part].features)
    found = {}
    if encoded.has_texts:
        found[ZERO_SHOT] = {part: _likeliest(zero_shot(part)) for part in parts}
    for name, each in trained.items():
        logits = _answerer(each, best_seed(rows, name, data.source_name))
        found[name] = {part: _likeliest(logits(part)) for part in parts}
    return found


def _answerer(trained: Trained, seed: int) -> Callable[[Part], np.ndarray]:
    """Return part -> one seed's logits of its images."""
    own = jax.tree.map(lambda x: x[seed], jax.device_get(trained.params))
    params = merge(own, trained.shared)
    placed = trained.view.placed(params)
    wide = lambda part: np.asarray(trained.view.features(placed, part).features, np.float32)
    return lambda part: np.asarray(trained.answer(params, wide(part))[0])


def _likeliest(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two largest logits' classes and probabilities, [N, K] -> [N, 2] each."""
    p = np.asarray(jax.nn.softmax(np.asarray(logits, np.float32), axis=-1))
    classes = np.argsort(-p, axis=-1, kind="stable")[:, :2]  # equal ones as argmax has them
    return classes, np.take_along_axis(p, classes, axis=-1)


def write(workdir: pathlib.Path, encoded: Encoded, found: Mapping[str, Answers]) -> None:
    """Write predictions.csv: a line for each method and image, named as its dataset names it."""
    names, text = encoded.plan.dataset.classes, io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for method, parts in found.items():
        for part, (classes, probabilities) in parts.items():
            source = encoded.source(*part)
            for row, ((one, two), (p, q)) in enumerate(
                zip(classes.tolist(), probabilities.tolist(), strict=True)
            ):
                first, second = (names[one], f"{p:.4f}"), (names[two], f"{q:.4f}")
                lines.writerow((source.name_of(row), part[1], method, *first, *second))
    write_atomically(workdir / FILE, text.getvalue())
