"""Maps of features before and after adaptation, by domain and by class."""

from __future__ import annotations

import numpy as np

from clipjax.evaluate.report.charts import scatter
from clipjax.evaluate.report.drawing import COLOURS

MAPS = 6  # shown of a run; each costs the page some 80 kB


def kept(maps: dict) -> dict:
    """The entries that a page has room for: the first, which is before, and the last ones.

    >>> list(kept(dict.fromkeys("abcdefgh")))
    ['a', 'd', 'e', 'f', 'g', 'h']
    """
    found = list(maps.items())
    return dict(found if len(found) <= MAPS else [found[0], *found[1 - MAPS :]])


def feature_maps(evidence: dict) -> tuple[list[str], list[str], str]:
    """Charts coloured by domain, the same coloured by class, and what to know about them."""
    found = evidence.get("tsne") or {}
    maps = kept(found.get("maps", {}))
    said = [
        f"The features of {name} are all the same: nothing to map."
        for name in found.get("collapsed", [])
    ]
    if not maps:
        return [], [], " ".join(said)
    names = [evidence["source"], evidence["target"]]
    sizes = len(found["source"]), len(found["target"])
    domain, label = np.repeat([0, 1], sizes), np.asarray(found["labels"])
    notes = [f"{evidence['classes'][k]}, {names[d]}" for k, d in zip(label, domain, strict=True)]
    shown = frequent(label[domain == 1] if sizes[1] else label)
    group = np.asarray([shown.index(k) if k in shown else -1 for k in label])
    classes = [evidence["classes"][k] for k in shown]
    by_domain = [
        scatter(f"{name}, by domain", points, domain, names, notes=notes)
        for name, points in maps.items()
    ]
    by_class = [
        scatter(
            f"{name}, by class",
            points,
            group,
            classes,
            shapes=domain,
            shape_names=names,
            notes=notes,
        )
        for name, points in maps.items()
    ]
    others = len(set(label.tolist())) - len(shown)
    text = (
        f"t-SNE of the features of {sizes[0]} + {sizes[1]} test images, the same on every map "
        f"(seed {evidence['seed']}); only neighbourhoods mean something, not axes or distances "
        "between groups. Methods without an adapter leave CLIP's features as they are."
    )
    text += f" By class: {len(shown)} classes, {others} others grey." if others else ""
    return by_domain, by_class, " ".join([text, *said])


def frequent(labels: np.ndarray) -> list[int]:
    """The classes with most examples, as many as there are colours; ties by index."""
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")[:COLOURS]
    return sorted(int(k) for k in order if counts[k])
