"""The content of evidence.json, as JSON values: maps of features, worst classes, thumbnails."""

import base64
import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from clipjax.data.unlabelled import labelled

THUMBNAIL = 64  # pixels
TILE, MOST_TILES = 40, 600  # of a `mosaic`: pixels of a side, images
_COMPONENTS = 50  # of a PCA before t-SNE, as van der Maaten and Hinton 2008 do
_ITERATIONS = 500  # twice sklearn's 250 of early exaggeration; twice as many move little


def tsne_maps(
    features: dict[str, tuple[np.ndarray, np.ndarray]], seed: int, limit: int = 300
) -> dict[str, Any]:
    """Map two domains' features to the plane, the same examples for every entry.

    t-SNE (van der Maaten and Hinton 2008) from the first two principal components, with a
    perplexity of 30 or the largest that fewer points allow. `features` map names to (source float
    [N, F], target float [M, F]), N and M the same in all; `seed` is for t-SNE and for drawing at
    most `limit` examples from each domain.

    Returns {"source": chosen rows, "target": chosen rows, "maps": {name: [[x, y], ...]},
    "collapsed": [names]}. A map lists the source's rows first. Fewer than 6 points, or one feature,
    give no map; features that are all equal are `collapsed`.
    """
    found: dict[str, Any] = {"source": [], "target": [], "maps": {}, "collapsed": []}
    if not features:
        return found
    rng = np.random.default_rng(seed)
    sizes = {tuple(len(part) for part in pair) for pair in features.values()}
    if len(sizes) > 1:
        raise ValueError(f"maps of different examples, {sorted(sizes)}; give every entry the same.")
    rows = [np.sort(rng.permutation(n)[:limit]) for n in sizes.pop()]
    found["source"], found["target"] = (r.tolist() for r in rows)
    for name, pair in features.items():
        x = np.concatenate([np.asarray(f, np.float32)[r] for f, r in zip(pair, rows, strict=True)])
        if len(x) < 6 or x.shape[1] < 2:
            continue
        if np.ptp(x, axis=0).max() <= 1e-6 * max(np.abs(x).max(), 1e-30):
            found["collapsed"].append(name)
        else:
            found["maps"][name] = _tsne(x, seed).astype(float).round(2).tolist()
    return found


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # One thread: several round differently, and are slow on a busy machine.
    with threadpool_limits(1):
        if min(x.shape) > _COMPONENTS:
            x = PCA(_COMPONENTS, svd_solver="full").fit_transform(x)
        return TSNE(
            init="pca",
            perplexity=min(30.0, (len(x) - 1) / 3),
            max_iter=_ITERATIONS,
            angle=0.7,  # coarser than 0.5, a fifth faster, no higher divergence
            random_state=seed,
        ).fit_transform(x)


def worst_classes(
    logits: np.ndarray, labels: np.ndarray, num_classes: int, worst: int = 5, examples: int = 4
) -> list[dict[str, Any]]:
    """Find the `worst` classes by logits [N, K] and labels int [N], with wrong `examples` of each.

    Examples without a label (NO_LABEL) do not count.
    Classes without mistakes are left out. Among equal accuracies, the class with more examples
    comes first, then the one of lower index. Examples are those of the largest margin, logit of the
    answer over logit of the label. Returns [{"class", "accuracy", "n", "confusions": [[class,
    count], ...] most frequent first, "examples": [{"row", "predicted"}, ...]}, ...].
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    known = np.flatnonzero(labelled(labels))
    logits, labels = logits[known], labels[known]
    answers = np.argmax(logits, axis=-1)
    margin = logits.max(axis=-1) - logits[np.arange(len(labels)), labels]
    n = np.bincount(labels, minlength=num_classes)
    wrong = np.bincount(labels[answers != labels], minlength=num_classes)
    accuracy = 1 - wrong / np.maximum(n, 1)
    found = []
    for c in [c for c in np.lexsort((-n, accuracy)) if wrong[c]][:worst]:
        rows = np.flatnonzero((labels == c) & (answers != c))
        counts = np.bincount(answers[rows], minlength=num_classes)
        confused = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
        shown = rows[np.argsort(-margin[rows], kind="stable")][:examples]
        each = {"class": int(c), "accuracy": round(float(accuracy[c]), 4), "n": int(n[c])}
        each["confusions"] = [[int(k), int(counts[k])] for k in confused]
        each["examples"] = [{"row": int(known[i]), "predicted": int(answers[i])} for i in shown]
        found.append(each)
    return found


def reduced(image: np.ndarray, side: int):
    """Reduce a uint8 image [H, W, 3] to a Pillow image of at most `side` pixels a side."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    return picture


def thumbnail(image: np.ndarray) -> str:
    """Encode a uint8 image [H, W, 3] as a data URI of at most 64 pixels a side.

    >>> thumbnail(np.zeros((2, 2, 3), np.uint8))[:22]
    'data:image/webp;base64'
    """
    return _uri(reduced(image, THUMBNAIL), 80)


def mosaic(images: Iterable[np.ndarray]) -> dict[str, Any]:
    """Put the first 600 uint8 images [H, W, 3] side by side, each in a square of 40 pixels.

    Returns {"src": data URI of a WebP of some 0.4 kB an image, "tile": 40, "columns", "count"};
    {} of none.
    """
    from PIL import Image

    tiles = [reduced(image, TILE) for image, _ in zip(images, range(MOST_TILES), strict=False)]
    if not tiles:
        return {}
    columns = math.ceil(math.sqrt(len(tiles)))
    size = TILE * columns, TILE * math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", size, "white")
    for i, tile in enumerate(tiles):
        across, down = ((TILE - side) // 2 for side in tile.size)
        sheet.paste(tile, (TILE * (i % columns) + across, TILE * (i // columns) + down))
    return {"src": _uri(sheet, 70), "tile": TILE, "columns": columns, "count": len(tiles)}


def _uri(picture, quality: int) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
