"""Near-duplicates and the split: which identities belong together, and who goes where."""

import hashlib
from collections import Counter

import numpy as np

CELL = 4  # pixels averaged to one value: 64 x 64 becomes 16 x 16
# Two drawings of one domain are near-duplicates when the distance of their 16 x 16 versions is
# below the domain's threshold. The distance is that of the inks (white minus colour), relative
# to how much ink the two have (0 = equal, 1.41 = no overlap), so that pale and thin drawings
# count like bold ones; a mirrored drawing counts as the same. Thresholds were set by looking at
# the pairs around them: in the shaded domains, different objects of one outline (round yellow
# faces) come close earlier than in the black and the line drawings.
THRESHOLDS = {
    "render": 0.20,
    "flat": 0.20,
    "clipart": 0.16,
    "cartoon": 0.16,
    "stencil": 0.25,
    "sketch": 0.25,
}
MAX_PER_GROUP = 2
# Men, women and persons in one role are drawn alike and are many: one of each role will do.
MAX_PER_GROUP_IN = {"person": 1, "person in action": 1}
SPLITS = ("train", "val", "test")
TEST_SHARE, VAL_SHARE = 0.33, 0.10
MIN_TEST, MIN_VAL = 3, 1


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Ink (1 - colour) at 16 x 16, float64 [n, 16, 16, 3], of uint8 images [n, 64, 64, 3]."""
    ink = 1 - images.astype(np.float64) / 255
    n, height, width, channels = ink.shape
    blocks = ink.reshape(n, height // CELL, CELL, width // CELL, CELL, channels)
    return blocks.mean(axis=(2, 4))


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Relative, mirror-tolerant distances [n, m] of thumbnails [n, ...] and [m, ...]."""

    def plain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        norm_a, norm_b = (a**2).sum(1)[:, None], (b**2).sum(1)[None]
        square = np.maximum(norm_a + norm_b - 2 * a @ b.T, 0)
        return np.sqrt(square / np.sqrt(norm_a * norm_b))

    return np.minimum(plain(first, second), plain(first, second[:, :, ::-1]))


def near_pairs(images: dict[str, np.ndarray]) -> dict[str, list[tuple[int, int]]]:
    """Index pairs (i < j) below the threshold, per domain."""
    result = {}
    for domain, pixels in images.items():
        small = thumbnails(pixels)
        close = np.triu(distances(small, small) < THRESHOLDS[domain], k=1)
        result[domain] = [(int(i), int(j)) for i, j in np.argwhere(close)]
    return result


def group_ids(identities: list[str], keys: list[str | None], pairs: set) -> list[str]:
    """Name of the group of each identity: the connected components of pairs and equal keys.

    A group is named after its alphabetically first member.
    """
    parent = list(range(len(identities)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with_key: dict[str, int] = {}
    links = list(pairs)
    for i, key in enumerate(keys):
        if key is not None:
            links.append((i, first_with_key.setdefault(key, i)))
    for i, j in links:
        parent[root(i)] = root(j)
    names: dict[int, str] = {}
    for i in sorted(range(len(identities)), key=identities.__getitem__):
        names.setdefault(root(i), identities[i])
    return [names[root(i)] for i in range(len(identities))]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def thin_out(rows: list[dict]) -> list[dict]:
    """Keep at most two of each group and class (of persons one), chosen by the name's hash."""
    kept, taken = [], Counter()
    for row in sorted(rows, key=lambda row: _hash("keep " + row["identity"])):
        limit = MAX_PER_GROUP_IN.get(row["class"], MAX_PER_GROUP)
        key = row["group"], row["class"]
        if taken[key] < limit:
            taken[key] += 1
            kept.append(row)
    return kept


def split_groups(rows: list[dict], class_names: tuple[str, ...]) -> dict[str, str]:
    """Assign every group to train, val or test: about 57 / 10 / 33 % within each class.

    Groups are visited in the order of their names' hashes, first filling test, then val, the
    rest is train; a pair is passed over where it would overshoot. A group with members in
    several classes is assigned with the first one and counted in all of them.
    """
    split: dict[str, str] = {}
    for name in class_names:
        sizes = Counter(row["group"] for row in rows if row["class"] == name)
        total = sizes.total()
        room = {
            "test": max(MIN_TEST, round(TEST_SHARE * total)),
            "val": max(MIN_VAL, round(VAL_SHARE * total)),
            "train": total,
        }
        for group in sizes.keys() & split.keys():
            room[split[group]] -= sizes[group]
        for group in sorted(sizes.keys() - split.keys(), key=_hash):
            part = next(part for part in ("test", "val", "train") if room[part] >= sizes[group])
            split[group] = part
            room[part] -= sizes[group]
    return split
