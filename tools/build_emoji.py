"""Build the embedded dataset: the same objects drawn in six styles, 28 classes.

Downloads pinned npm packages, draws every identity in every domain at 64 x 64 pixels, groups
near-duplicates, splits by group and writes Parquet files, tables and a data card:

    pip install -e ".[tools]"
    python tools/build_emoji.py            # writes clipjax/assets/emoji
    python tools/build_emoji.py --check    # rebuilds elsewhere and compares the bytes
    python tools/build_emoji.py --labels   # only the second set of classes, without download

The second set of classes (clipjax/assets/emoji_regrouped) is labels for the same pictures, and
clipjax/assets/emoji_masks says which of their pixels are the object.
"""

import argparse
import csv
import hashlib
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Needs npm and network on the first run; later runs use the cache.",
    )
    default_cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "clipjax" / "emoji"
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache,
        help="folder of the downloaded packages (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "clipjax" / "assets" / "emoji",
        help="folder to write (default: clipjax/assets/emoji of this checkout)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if a rebuild differs from the files in --out",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="build only the labels of the second set of classes, from identities.csv in --out",
    )
    parser.add_argument(
        "--sheet", type=Path, help="also write a PNG with some identities in all domains"
    )
    return parser.parse_args(argv)


class Progress:
    """One line on standard error: count, rate and time left; silent when not a terminal."""

    def __init__(self, what: str):
        self._what, self._start, self._shown = what, time.monotonic(), 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._live or (done < total and now - self._shown < 0.2):
            return
        self._shown = now
        rate = done / max(now - self._start, 1e-9)
        left = (total - done) / rate
        end = "\n" if done == total else ""
        line = f"\r{self._what} {done}/{total}  {rate:.0f}/s  {left:.0f} s left   "
        print(line, end=end, file=sys.stderr, flush=True)


def build(cache: Path, sheet: Path | None) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """All files of the dataset folder, and of that of the masks, by relative name."""
    from emoji.card import card_files
    from emoji.dataset import candidates, data_files, draw_all, select
    from emoji.drawing import Artist, contact_sheet
    from emoji.masks import mask_files
    from emoji.sources import DOMAINS, PACKAGES, Archive, fetch

    archives = {}
    for package in PACKAGES:
        print(f"package {package.name} {package.version}", file=sys.stderr)
        archives[package.name] = Archive(fetch(package, cache))
    artist = Artist(archives)
    found = candidates(archives, artist)
    drawn = draw_all(found, artist, Progress("drawing"))
    rows, facts = select(found, drawn)
    place = {row["identity"]: i for i, row in enumerate(found)}
    images = {
        (domain, row["identity"]): drawn[domain][place[row["identity"]]]
        for domain in DOMAINS
        for row in rows
    }
    files = data_files(rows, images)
    files.update(card_files(rows, images, facts, archives))
    if sheet is not None:
        contact_sheet(rows, images).save(sheet)
    return files, mask_files(rows, artist)


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Write files (names may contain folders) below ``folder``."""
    for name, data in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def compare(files: dict[str, bytes], folder: Path) -> list[str]:
    """Names of files that are missing in, added to or different in ``folder``.

    Licence texts that no package carries are kept by hand beside the built ones.
    """
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    present = {name for name in present if name in files or not name.startswith("LICENSES/")}
    differing = present ^ files.keys()
    differing |= {
        name for name in present & files.keys() if (folder / name).read_bytes() != files[name]
    }
    return sorted(differing)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_args(argv)
    try:
        import numpy  # noqa: F401
        import PIL  # noqa: F401
        import pyarrow  # noqa: F401

        if not args.labels:
            import fontTools  # noqa: F401
            import resvg_py  # noqa: F401
    except ImportError as error:
        print(f"{error.name} is missing; run: pip install -e '.[tools]'", file=sys.stderr)
        return 1
    from emoji.regrouped import label_files
    from emoji.sources import BuildError

    try:
        built = {}
        if not args.labels:
            drawings, masks = build(args.cache.expanduser(), args.sheet)
            built = {args.out: drawings, args.out.with_name("emoji_masks"): masks}
        identities = built[args.out]["identities.csv"] if built else None
        identities = identities or (args.out / "identities.csv").read_bytes()
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = list(csv.DictReader(identities.decode().splitlines()))
    built[args.out.with_name("emoji_regrouped")] = label_files(rows)
    if args.check:
        differing = [f"{d}/{name}" for d, files in built.items() for name in compare(files, d)]
        for name in differing:
            print(f"differs: {name}")
        if differing:
            print("Another version of Pillow, pyarrow or resvg-py than the card names can do this.")
        print("different" if differing else f"identical: {sum(map(len, built.values()))} files")
        return 1 if differing else 0
    for folder, files in built.items():
        write_files(files, folder)
        for name, data in sorted(files.items()):
            print(f"{hashlib.sha256(data).hexdigest()[:16]}  {len(data):9,d}  {name}")
        print(f"{sum(map(len, files.values())):,d} bytes in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
