"""From packages to rows: which identities there are, their groups and splits, their files."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .classes import CLASS_NAMES, assign_classes, name_key, slug
from .drawing import Artist, decode, encode
from .grouping import (
    SPLITS,
    distances,
    group_ids,
    near_pairs,
    split_groups,
    thin_out,
    thumbnails,
)
from .sources import DOMAINS, EMOJIBASE, Archive

CSV_FIELDS = ("identity", "hexcode", "name", "class", "group", "split")


def candidates(archives: dict[str, Archive], artist: Artist) -> list[dict]:
    """Every emoji that a class takes and that all six domains draw, sorted by identity."""
    data = archives[EMOJIBASE.name]
    emojis = data.json("en/data.json")
    subgroup_keys: dict[int, list[str]] = {}
    for entry in data.json("en/messages.json")["subgroups"]:
        subgroup_keys.setdefault(entry["order"], []).append(entry["key"])
    classes = assign_classes(emojis, subgroup_keys)
    rows = [
        {
            "identity": slug(entry["label"]),
            "hexcode": entry["hexcode"],
            "name": entry["label"],
            "class": classes[entry["hexcode"]],
        }
        for entry in emojis
        if entry["hexcode"] in classes and artist.has(entry["hexcode"])
    ]
    rows.sort(key=lambda row: row["identity"])
    slugs = [row["identity"] for row in rows]
    if len(set(slugs)) != len(slugs):
        raise ValueError("two emoji labels give the same identity; extend classes.slug.")
    return rows


def draw_all(rows: list[dict], artist: Artist, progress) -> dict[str, list[bytes]]:
    """WebP files of all rows per domain; ``progress(done, total)`` is called after each."""
    total, done = len(rows) * len(DOMAINS), 0
    files: dict[str, list[bytes]] = {}
    for domain in DOMAINS:
        files[domain] = []
        for row in rows:
            files[domain].append(encode(artist.draw(domain, row["hexcode"]).image, domain))
            done += 1
            progress(done, total)
    return files


def select(rows: list[dict], files: dict[str, list[bytes]]) -> tuple[list[dict], dict]:
    """Group, thin out and split the candidates.

    Returns:
      The kept rows, sorted by class, then identity, with ``group`` and ``split``; and facts for
      the data card: candidates, groups, near-duplicate pairs per domain, and the closest pair
      that the split separates.
    """
    pixels = {domain: np.stack([decode(data) for data in files[domain]]) for domain in DOMAINS}
    pairs = near_pairs(pixels)
    keys = [name_key(row["name"], row["class"]) for row in rows]
    linked = {pair for found in pairs.values() for pair in found}
    groups = group_ids([row["identity"] for row in rows], keys, linked)
    grouped = [{**row, "group": group} for row, group in zip(rows, groups, strict=True)]
    kept = thin_out(grouped)
    split = split_groups(kept, CLASS_NAMES)
    kept = [{**row, "split": split[row["group"]]} for row in kept]
    kept.sort(key=lambda row: (CLASS_NAMES.index(row["class"]), row["identity"]))
    facts = {
        "candidates": len(rows),
        "groups": len(set(groups)),
        "pairs": {domain: len(found) for domain, found in pairs.items()},
        "nearest": _nearest(kept, rows, pixels),
    }
    return kept, facts


def _nearest(kept: list[dict], rows: list[dict], pixels: dict[str, np.ndarray]) -> dict:
    """Per domain: distance, test identity and other identity of the closest such pair."""
    place = {row["identity"]: i for i, row in enumerate(rows)}
    test = [row["identity"] for row in kept if row["split"] == "test"]
    other = [row["identity"] for row in kept if row["split"] != "test"]
    result = {}
    for domain in DOMAINS:
        small = thumbnails(pixels[domain])
        found = distances(small[[place[i] for i in test]], small[[place[i] for i in other]])
        i, j = np.unravel_index(found.argmin(), found.shape)
        result[domain] = (float(found[i, j]), test[i], other[j])
    return result


def identities_csv(rows: list[dict]) -> bytes:
    """The table of identities as CSV, UTF-8, line feeds."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _folder(name: str) -> str:
    return slug(name)


def _schema() -> pa.Schema:
    """Columns with the metadata by which Hugging Face ``datasets`` knows images and labels."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(CLASS_NAMES), "_type": "ClassLabel"},
        **{
            name: {"dtype": "string", "_type": "Value"}
            for name in ("class", "domain", "identity", "hexcode")
        },
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    # 64 bits, because datasets takes a column for a ClassLabel only where it has that type.
    fields = [("image", image), ("label", pa.int64())]
    fields += [(name, pa.string()) for name in ("class", "domain", "identity", "hexcode")]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def parquet(rows: list[dict], images: dict[tuple[str, str], bytes]) -> bytes:
    """One split as a Parquet file, rows by domain, class, identity.

    Args:
      rows: identities of the split, sorted by class and identity.
      images: WebP file by (domain, identity).
    """
    records = []
    for domain in DOMAINS:
        for row in rows:
            path = f"{domain}/{_folder(row['class'])}/{row['identity']}.webp"
            records.append(
                {
                    "image": {"bytes": images[domain, row["identity"]], "path": path},
                    "label": CLASS_NAMES.index(row["class"]),
                    "class": row["class"],
                    "domain": domain,
                    "identity": row["identity"],
                    "hexcode": row["hexcode"],
                }
            )
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(records, schema=_schema())
    # WebP does not compress further, and statistics of image bytes would only repeat them.
    pq.write_table(table, sink, compression="zstd", write_statistics=False, use_dictionary=[
        "class", "domain", "identity", "hexcode"])  # fmt: skip
    return sink.getvalue().to_pybytes()


def data_files(rows: list[dict], images: dict[tuple[str, str], bytes]) -> dict[str, bytes]:
    """All generated data files: the identities, the class names and one Parquet per split."""
    files = {
        "identities.csv": identities_csv(rows),
        "classes.txt": "".join(f"{name}\n" for name in CLASS_NAMES).encode(),
    }
    for split in SPLITS:
        part = [row for row in rows if row["split"] == split]
        files[f"{split}.parquet"] = parquet(part, images)
    return files
