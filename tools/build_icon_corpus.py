#!/usr/bin/env python3
"""Builds the image-text corpus the tiny CLIP is pretrained on.

Pictures come from permissively licensed icon sets and from the emoji drawings of the embedded
dataset's training identities; texts from icon names, aliases, categories, emoji tags and
WordNet's hypernyms. No identity of the dataset's validation and test splits is in the corpus, in
any style: whatever carries one of their names or comes near one of their drawings is left out.
With the pinned packages and one set of library versions the result is the same every time.

Writes to --out: masks.npy, rgba.npy, manifest.parquet, texts.txt, summary.json. With --assets
also what is committed to prove the absence of leaks: corpus_manifest.parquet and
held_out_aliases.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # the renderers are processes; threads would fight

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from tools.corpus import emoji as emoji_module  # noqa: E402
from tools.corpus import packages, render  # noqa: E402
from tools.corpus.icons import Candidate, limit_captions, read_icons  # noqa: E402
from tools.corpus.leak import MAX_RMSE, HeldOut, fingerprints  # noqa: E402
from tools.corpus.names import AliasMatcher  # noqa: E402
from tools.corpus.phash import MAX_DISTANCE  # noqa: E402
from tools.corpus.pictures import render_all  # noqa: E402
from tools.corpus.wordnet import WordNet  # noqa: E402

Pair = tuple[Candidate, render.Picture]


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Needs npm, the tools extra (pip install -e '.[tools]') and WordNet 3.0.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpus (1 GB)")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "clipjax" / "npm",
        help="folder for the npm archives, 150 MB (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"),
        help="folder of index.noun, data.noun, noun.exc (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--dataset", type=Path, default=REPO / "clipjax" / "assets" / "emoji",
        help="the embedded dataset: identities.csv, test.parquet, val.parquet",
    )  # fmt: skip
    parser.add_argument(
        "--assets", type=Path,
        help="also write corpus_manifest.parquet and held_out_aliases.csv to this folder",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=2, help="renderers (default: 2)")
    parser.add_argument("--limit", type=int, help="keep only this many icons, to try it out")
    return parser.parse_args()


def joined_word_splitter(wordnet: WordNet):
    """A function that splits joined words: 'coffeecup' -> 'coffee cup'."""

    @cache
    def split(word: str, shortest: int) -> str:
        if len(word) < 7 or wordnet.noun(word):
            return word
        for cut in range(len(word) - shortest, shortest - 1, -1):
            if wordnet.noun(word[:cut]) and wordnet.noun(word[cut:]):
                return f"{word[:cut]} {word[cut:]}"
        return word

    return split


def add_words(candidates: list[Candidate], wordnet: WordNet) -> None:
    """Adds hypernyms to the texts of every candidate, in place."""
    hypernyms = cache(lambda caption: tuple(wordnet.hypernyms(caption)))
    for candidate in candidates:
        texts = dict.fromkeys([*candidate.texts, *hypernyms(candidate.caption)])
        candidate.texts = [t for t in texts if t != candidate.caption and len(t) > 1]


def filter_by_name(pairs: list[Pair], matcher: AliasMatcher) -> tuple[list[Pair], Counter]:
    """Pairs without held-out names, and how many pairs each alias dropped.

    Drawings of training identities pass: they are known to be none of the held-out ones.
    """
    kept, dropped = [], Counter()
    for pair in pairs:
        alias = None if pair[0].group == "emoji-train" else matcher.find(pair[0].words)
        if alias is None:
            kept.append(pair)
        else:
            dropped[" ".join(sorted(alias))] += 1
    return kept, dropped


def write_corpus(out: Path, pairs: list[Pair], hashes: np.ndarray, rmse: np.ndarray) -> None:
    """Writes masks.npy, rgba.npy, manifest.parquet and texts.txt."""
    out.mkdir(parents=True, exist_ok=True)
    counts = Counter(picture.kind for _, picture in pairs)
    arrays = {
        "mask": np.lib.format.open_memmap(
            out / "masks.npy", "w+", np.uint8, (counts["mask"], render.SIZE, render.SIZE)
        ),
        "rgba": np.lib.format.open_memmap(
            out / "rgba.npy", "w+", np.uint8, (counts["rgba"], render.SIZE, render.SIZE, 4)
        ),
    }
    at, rows = Counter(), []
    for index, (candidate, picture) in enumerate(pairs):
        kind = picture.kind
        arrays[kind][at[kind]] = picture.pixels
        rows.append(
            {
                "source": candidate.source,
                "name": candidate.name,
                "caption": candidate.caption,
                "texts": candidate.texts,
                "kind": kind,
                "row": at[kind],
                "group": group_of(candidate, picture),
                "license": candidate.licence,
                "phash": int(hashes[index]),
                "rmse": float(rmse[index]),
            }
        )
        at[kind] += 1
    for array in arrays.values():
        array.flush()
    schema = pa.schema(
        [
            ("source", pa.string()), ("name", pa.string()), ("caption", pa.string()),
            ("texts", pa.list_(pa.string())), ("kind", pa.string()), ("row", pa.int32()),
            ("group", pa.string()), ("license", pa.string()), ("phash", pa.uint64()),
            ("rmse", pa.float32()),
        ]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), out / "manifest.parquet")
    texts = sorted({text for row in rows for text in (row["caption"], *row["texts"])})
    (out / "texts.txt").write_text("\n".join(texts) + "\n", "utf-8")


def group_of(candidate: Candidate, picture: render.Picture) -> str:
    """'emoji-train', 'icon-mono' or 'icon-colour'."""
    return candidate.group or ("icon-mono" if picture.kind == "mask" else "icon-colour")


def write_proof(assets: Path, pairs: list[Pair], hashes: np.ndarray, aliases: list) -> None:
    """Writes the compact manifest and the alias list that a test checks without the corpus.

    `name` is stored only where it is not the caption with hyphens.
    """
    assets.mkdir(parents=True, exist_ok=True)
    rows = sorted(
        zip(pairs, hashes, strict=True),
        key=lambda row: (row[0][0].source, row[0][0].caption, row[0][0].name),
    )
    pairs = [pair for pair, _ in rows]
    names = [c.name if c.name != c.caption.replace(" ", "-") else "" for c, _ in pairs]
    table = pa.table(
        {
            "source": pa.array([c.source for c, _ in pairs]),
            "name": pa.array(names),
            "caption": pa.array([c.caption for c, _ in pairs]),
            "group": pa.array([group_of(c, p) for c, p in pairs]),
            "phash": pa.array([value for _, value in rows], pa.uint64()),
        }
    )
    pq.write_table(
        table, assets / "corpus_manifest.parquet", compression="zstd", compression_level=19,
        use_dictionary=["source", "caption", "group"], row_group_size=1 << 20,
        column_encoding={"name": "DELTA_BYTE_ARRAY", "phash": "PLAIN"}, write_statistics=False,
    )  # fmt: skip
    with (assets / "held_out_aliases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("identity", "split", "alias", "words"))
        for identity, split, alias, words in aliases:
            writer.writerow((identity, split, alias, " ".join(sorted(words))))


def summarise(pairs, dropped, near_dropped: Counter, empty: int, seconds: float) -> dict:
    """Counts for the model card and the person who runs the tool."""
    return {
        "images": len(pairs),
        "captions": len({c.caption for c, _ in pairs}),
        "texts": len({t for c, _ in pairs for t in (c.caption, *c.texts)}),
        "groups": dict(Counter(group_of(c, p) for c, p in pairs).most_common()),
        "kinds": dict(Counter(p.kind for _, p in pairs).most_common()),
        "licenses": dict(Counter(c.licence for c, _ in pairs).most_common()),
        "sources": dict(sorted(Counter(c.source for c, _ in pairs).items())),
        "source_licenses": dict(sorted({c.source: c.licence for c, _ in pairs}.items())),
        "empty": empty,
        "dropped_by_name": sum(dropped.values()),
        "dropped_by_name_of": dict(dropped.most_common(200)),
        "dropped_by_picture": sum(near_dropped.values()),
        "dropped_by_picture_of": dict(near_dropped.most_common(60)),
        "max_hamming": MAX_DISTANCE,
        "max_rmse": MAX_RMSE,
        "seconds": round(seconds, 1),
    }


def build(arguments: argparse.Namespace) -> dict:
    """The whole build; returns the summary."""
    started = time.time()
    wordnet = WordNet(arguments.wordnet)
    identities = emoji_module.read_identities(arguments.dataset / "identities.csv")
    held_out = HeldOut(emoji_module.held_out_drawings(arguments.dataset)[0])
    archives = dict(packages.open_all(arguments.cache))
    emojibase = emoji_module.read_emojibase(archives["emojibase-data"])
    candidates = read_icons(archives["@iconify/json"], joined_word_splitter(wordnet))
    candidates = candidates[: arguments.limit]
    vocabulary = frozenset().union(*(candidate.words for candidate in candidates))
    aliases = emoji_module.held_out_aliases(identities, emojibase, wordnet, vocabulary)
    matcher = AliasMatcher(words for *_, words in aliases)
    drawings, emoji_dropped = emoji_module.read_drawings(
        archives, identities, emojibase, matcher.find
    )
    rendered = render_all(candidates + drawings, arguments.cache / "pictures", arguments.processes)
    empty = sum(picture is None for _, picture in rendered)
    rendered = [pair for pair in rendered if pair[1] is not None]
    pairs, dropped = filter_by_name(rendered, matcher)
    dropped["(emoji outside the dataset)"] = emoji_dropped
    pairs = limit_captions(pairs)
    add_words([candidate for candidate, _ in pairs], wordnet)

    hashes, thumbs = fingerprints([picture.pixels for _, picture in pairs], arguments.processes)
    near = held_out.compare(hashes, thumbs)
    far = (near.hamming > MAX_DISTANCE) & (near.rmse > MAX_RMSE)
    near_dropped = Counter(c.source for (c, _), ok in zip(pairs, far, strict=True) if not ok)
    pairs = [pair for pair, ok in zip(pairs, far, strict=True) if ok]
    hashes, rmse = hashes[far], near.rmse[far]
    write_corpus(arguments.out, pairs, hashes, rmse)
    if arguments.assets:
        write_proof(arguments.assets, pairs, hashes, aliases)
    summary = summarise(pairs, dropped, near_dropped, empty, time.time() - started)
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    return summary


def main() -> int:
    """Runs the build; errors of the environment are one sentence and exit code 1."""
    arguments = parse_arguments()
    try:
        summary = build(arguments)
    except (FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for key in ("images", "captions", "groups", "kinds", "dropped_by_name", "dropped_by_picture"):
        print(f"{key}: {summary[key]}")
    print(f"written to {arguments.out} in {summary['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
