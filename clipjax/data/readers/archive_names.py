"""Finds the zip that stands for a folder, and the members that listed images mean, as people and
their systems spell them: with backslashes, in code pages, decomposed, a folder higher or lower."""

import collections
import itertools
import os
import pathlib
import posixpath
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence

from clipjax.data.readers.files import reachable
from clipjax.errors import DataError
from clipjax.io.texts import shown, some

_SUFFIX = ".zip"
_COPY = re.compile(r" ?\(\d+\)$")  # browsers add it to the name of a second download
_JUNK = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")
_UTF8 = 0x800  # flag: the name is in UTF-8; without it the standard says cp437
_UNICODE_PATH = 0x7075  # the extra field of Info-ZIP with the name in UTF-8
# Encodings of names that declare none, in turn; the one that finds most listed images counts.
_CODES = ("utf-8", "cp437", "cp850", "cp1252", "cp932", "gbk", "euc_kr", "big5", "cp866", "cp1251")
_OTHERS = {  # place and bytes -> kind of file
    (0, b"\x1f\x8b"): "a gzip or tar.gz file",
    (257, b"ustar"): "a tar archive",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7z archive",
    (0, b"Rar!"): "a rar archive",
    (0, b"BZh"): "a bzip2 file",
    (0, b"\xfd7zXZ"): "an xz file",
    (0, b"<"): "a web page",
}


def find_archive(root: pathlib.Path, folder: str) -> pathlib.Path | None:
    """Find the zip in `root` that stands for a folder of this name; None if there is none.

    `.ZIP` and `real (1).zip` count too; if none has the folder's name, one in other letter case. Of
    several that hold the same files it is the first; others are refused.
    """
    zips = [e.name for e in os.scandir(root) if e.name.lower().endswith(_SUFFIX) and e.is_file()]
    stems = {n: _plain(n[: -len(_SUFFIX)]) for n in sorted(zips) if not n.startswith(".")}
    folder = _plain(folder)
    for spelling in (str, str.casefold):  # domains `Real` and `real` may lie side by side
        wanted = spelling(folder)
        own = [name for name, stem in stems.items() if spelling(stem) == wanted]
        copies = [n for n, stem in stems.items() if spelling(_COPY.sub("", stem)) == wanted]
        if found := list(dict.fromkeys(own + copies)):
            return _same([root / name for name in found], folder)
    return None


def _same(archives: list[pathlib.Path], folder: str) -> pathlib.Path:
    """Return the first of several zips that hold the same files."""
    names = " and ".join(shown(archive.name) for archive in archives)
    where, contents = f"{shown(archives[0].parent)} holds {names}, all for folder {folder!r}", []
    for archive in archives if len(archives) > 1 else ():
        try:
            infos, _ = directory(archive)
        except DataError as error:
            raise DataError(f"{where}, and one is no good: {error} Keep the other.") from None
        contents.append(sorted((_plain(i.filename), i.CRC, i.file_size) for i in _files(infos)))
        if contents[-1] != contents[0]:
            raise DataError(f"{where}, but they hold different files; keep one.")
    return archives[0]


def directory(path: str | os.PathLike) -> tuple[list[zipfile.ZipInfo], os.stat_result]:
    """Return the members of a zip, and its state before they were read."""
    with reachable(path), open(path, "rb") as file:
        begin, state = file.read(512), os.fstat(file.fileno())
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist(), state
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error) as error:
        kinds = (kind for (at, magic), kind in _OTHERS.items() if begin.startswith(magic, at))
        fault = f"is damaged or incomplete ({error}); download it again"
        if kind := next(kinds, ""):
            fault = f"is {kind}, not a zip; unpack it, or put the zip in its place"
        raise DataError(f"{shown(path)} {fault}.") from None


def match(
    path: str | os.PathLike, infos: Sequence[zipfile.ZipInfo], wanted: Iterable[str]
) -> dict[str, zipfile.ZipInfo]:
    """Map the listed names that are there to their members, of which some must be there.

    If none is found as listed, members may lie in one more folder, or outside of the domain's own;
    several such folders, or two different members of one name, are refused.
    """
    keys = {name: _plain(name) for name in wanted}
    files = list(_files(infos))
    spelt = [_name(info) for info in files]
    best: dict[str, zipfile.ZipInfo] = {}
    for code in _CODES if any(isinstance(name, bytes) for name in spelt) else _CODES[:1]:
        if len(best) < len(keys):
            found = _match(path, _by_name(files, spelt, code), keys)
            best = max(best, found, key=len)  # the former where both find as many
    if keys and not best:
        names = [info.filename for info in files]
        nested = any(name.lower().endswith((_SUFFIX, ".tar", ".gz")) for name in names)
        hint = " (an archive in an archive: unpack the outer one)" * nested
        held = f"{len(names):,} file{'s' * (len(names) > 1)}, {some(map(shown, names), 3)}{hint}"
        listed = f"{len(keys):,} images that are listed for it ({some(map(shown, keys), 3)})"
        fault = (
            f"{shown(path)} holds none of the {listed}: it holds {held if names else 'no files'}"
        )
        raise DataError(f"{fault}; replace it, or correct the lists.")
    return best


def _files(infos: Iterable[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Leave out folders and files of the system."""
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        junk = parts[-1].startswith("._") or any(part.lower() in _JUNK for part in parts)
        if parts[-1] and not junk:
            yield info


def _name(info: zipfile.ZipInfo) -> str | bytes:
    """Return a member's name; bytes if it does not declare its encoding."""
    if info.flag_bits & _UTF8 or info.filename.isascii():
        return info.filename
    try:
        raw = info.orig_filename.encode("cp437")
    except UnicodeEncodeError:  # newer versions of zipfile have read the extra field
        return info.filename
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and body[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return body[5:].decode("utf-8", "replace")
    return raw


def _by_name(
    files: Sequence[zipfile.ZipInfo], spelt: Sequence[str | bytes], code: str
) -> dict[str, list[zipfile.ZipInfo]]:
    """Map plain names to members, several where they differ in content."""
    # Of members with the very same name the last one counts, as in every unzip.
    last = {info.filename: (info, name) for info, name in zip(files, spelt, strict=True)}
    found: dict[str, list[zipfile.ZipInfo]] = {}
    for info, name in last.values():
        text = name.decode(code, "replace") if isinstance(name, bytes) else name
        same = found.setdefault(_plain(text), [])
        if all((info.CRC, info.file_size) != (one.CRC, one.file_size) for one in same):
            same.append(info)
    return found


def _match(
    path: str | os.PathLike, members: dict[str, list[zipfile.ZipInfo]], keys: dict[str, str]
) -> dict[str, zipfile.ZipInfo]:
    """Map listed names to members whose names are read in one way; {} where none is found."""
    there = any(key in members for key in keys.values())
    places = [("", False)] if there else list(_places(members, keys.values()))
    if len(places) > 1:
        folders = some((shown(prefix or "./") for prefix, _ in places), 3)
        fault = f"holds images as listed ({shown(next(iter(keys)))}, ...) in several folders"
        raise DataError(f"{shown(path)} {fault}: {folders}; pack one of them alone.")
    found = {}
    for (prefix, inside), (name, key) in itertools.product(places, keys.items()):
        same = members.get(prefix + (key.partition("/")[2] if inside else key), [])
        if len(same) > 1:
            fault = f"holds {shown(name)} twice, with different content"
            raise DataError(f"{shown(path)} {fault}; pack it again with one of them.")
        if same:
            found[name] = same[0]
    return found


def _places(members: Iterable[str], keys: Iterable[str]) -> dict[tuple[str, bool], None]:
    """Find (what stands before listed names, whether their first folder is left out), in order."""
    keys = [(key, *key.partition("/")[::2]) for key in keys]
    deep = 2 if all("/" in rest for _, _, rest in keys) else 1
    tail = lambda name: tuple(name.split("/")[-deep:])
    by_tail = collections.defaultdict(list)
    for name in members:
        by_tail[tail(name)].append(name)
    found: dict[tuple[str, bool], None] = {}
    for key, top, rest in keys:
        for name in by_tail.get(tail(rest), ()):
            before = name.removesuffix(rest)
            above = posixpath.basename(before[:-1]).casefold() == top.casefold()
            if name.endswith("/" + key):
                found[name.removesuffix(key), False] = None
            # Any other folder in place of the first may be another domain.
            elif name == rest or (name.endswith("/" + rest) and above):
                found[before, True] = None
    return found


def _plain(name: str) -> str:
    """Return a name in the form in which names are compared.

    >>> _plain("./real\\\\cafe\u0301//1.png"), _plain("/a/b.png")
    ('real/café/1.png', 'a/b.png')
    """
    if name.isascii() and "\\" not in name and "//" not in name and not name.startswith((".", "/")):
        return name
    text = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return posixpath.normpath(text).lstrip("/")
