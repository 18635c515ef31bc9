"""Which zip stands for a folder, and which of its members is which listed image.

Zips come as people make them: from Windows (backslashes, names in some code page), from macOS
(decomposed accents, a shadow of every file), with a folder above, or none, and downloaded twice.
"""

from __future__ import annotations

import collections
import os
import pathlib
import posixpath
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence

from clipjax.data.dataset import shown
from clipjax.errors import DataError, UnreachableError

_SUFFIX = ".zip"
_COPY = re.compile(r" ?\(\d+\)$")  # what browsers put behind the name of a second download
_JUNK = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")
_UTF8 = 0x800  # flag: the name is in UTF-8; without it the standard says cp437
_UNICODE_PATH = 0x7075  # the extra field of Info-ZIP with the name in UTF-8
# Of names that say nothing of theirs, in turn; the one under which most listed images are found.
_CODES = ("utf-8", "cp437", "cp850", "cp1252", "cp932", "gbk", "euc_kr", "big5", "cp866", "cp1251")
_OTHERS = {  # place and bytes -> what begins so
    (0, b"\x1f\x8b"): "a gzip or tar.gz file",
    (257, b"ustar"): "a tar archive",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7z archive",
    (0, b"Rar!"): "a rar archive",
    (0, b"BZh"): "a bzip2 file",
    (0, b"\xfd7zXZ"): "an xz file",
    (0, b"<"): "a web page",
}
_SHOWN = 3  # names in a message


def find_archive(root: pathlib.Path, folder: str) -> pathlib.Path | None:
    """The zip in `root` that stands for a folder of this name; None where there is none.

    `.ZIP` is as good, `real (1).zip` too, and where none is spelt like the folder, one in other
    letter case. Of several that hold the same files it is the first.

    Raises:
      DataError: several that do not hold the same files, or of which one cannot be read.
    """
    zips = sorted(entry.name for entry in os.scandir(root) if _is_zip(entry))
    stems = {name: _plain(name[: -len(_SUFFIX)]) for name in zips}
    folder = _plain(folder)
    for spelling in (str, str.casefold):  # a domain Real may lie beside real
        wanted = spelling(folder)
        own = [name for name in zips if spelling(stems[name]) == wanted]
        copies = [n for n in zips if n not in own and spelling(_COPY.sub("", stems[n])) == wanted]
        if own or copies:
            return _same([root / name for name in own + copies], folder)
    return None


def _is_zip(entry: os.DirEntry) -> bool:
    name = entry.name.lower()
    return name.endswith(_SUFFIX) and not name.startswith(".") and entry.is_file()


def _same(archives: list[pathlib.Path], folder: str) -> pathlib.Path:
    """The first of several zips that hold the same files."""
    if len(archives) == 1:
        return archives[0]
    names, contents = " and ".join(shown(a.name) for a in archives), []
    where = f"{shown(archives[0].parent)} holds {names}, all for folder {folder!r}"
    for archive in archives:
        try:
            infos, _ = directory(archive)
        except DataError as error:
            raise DataError(f"{where}, and one is no good: {error} Keep the other.") from None
        contents.append(sorted((_plain(i.filename), i.CRC, i.file_size) for i in _files(infos)))
    if any(content != contents[0] for content in contents):
        raise DataError(f"{where}, but they hold different files; keep one.")
    return archives[0]


def directory(path: str | os.PathLike) -> tuple[list[zipfile.ZipInfo], os.stat_result]:
    """The members of a zip, and its state before they were read.

    Raises:
      DataError: no zip, or an incomplete one.
      UnreachableError: it cannot be read now.
    """
    try:
        with open(path, "rb") as file:
            begin, state = file.read(512), os.fstat(file.fileno())
    except OSError as error:
        raise UnreachableError(
            f"{shown(path)} cannot be read ({error.strerror}); restore it."
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist(), state
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error) as error:
        for (at, magic), kind in _OTHERS.items():
            if begin[at:].startswith(magic):
                raise DataError(
                    f"{shown(path)} is {kind}, not a zip; unpack it, or put the zip in its place."
                ) from None
        raise DataError(
            f"{shown(path)} is damaged or incomplete ({error}); download it again."
        ) from None


def match(
    path: str | os.PathLike, infos: Sequence[zipfile.ZipInfo], wanted: Iterable[str]
) -> dict[str, zipfile.ZipInfo]:
    """Listed name -> the member that it means, for those that are there.

    Names are compared with slashes, composed (NFC) and without `./`. Where none is found as listed,
    one folder above all of them, or the domain's own folder left out, makes no difference.

    Raises:
      DataError: none is there; several folders hold them; two different members of one name.
    """
    keys = {name: _plain(name) for name in wanted}
    files = list(_files(infos))
    spelt = [_name(info) for info in files]
    codes = _CODES if any(isinstance(name, bytes) for name in spelt) else _CODES[:1]
    best: dict[str, zipfile.ZipInfo] = {}
    for code in codes:
        found = _match(path, _by_name(files, spelt, code), keys)
        best = max(best, found, key=len)  # the former where both find as many
        if len(best) == len(keys):
            break
    if keys and not best:
        listed = ", ".join(list(keys)[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
        raise DataError(
            f"{shown(path)} holds none of the {len(keys):,} images that are listed for it "
            f"({shown(listed)}): it holds {_told(files)}; put the zip there that holds them, or "
            "correct the lists."
        )
    return best


def _files(infos: Iterable[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Without folders and what systems leave behind."""
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        junk = parts[-1].startswith("._") or any(part.lower() in _JUNK for part in parts)
        if parts[-1] and not junk:
            yield info


def _name(info: zipfile.ZipInfo) -> str | bytes:
    """A member's name; bytes where it does not say in which encoding."""
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
    """Plain name -> members, of which several if they differ in content.

    Of members with the very same name the last one counts, as in every unzip.
    """
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
    """Listed name -> member, with names read in one way; {} where none is found."""
    places = {("", False): 1}
    if not any(key in members for key in keys.values()):
        places = _places(members, keys.values())
    if len(places) > 1:
        folders = ", ".join(f"{prefix or './'}" for prefix, _ in list(places)[:_SHOWN])
        first = next(iter(keys))
        raise DataError(
            f"{shown(path)} holds images as listed ({shown(first)}, ...) in several folders: "
            f"{shown(folders)}{', ...' * (len(places) > _SHOWN)}; pack one of them alone."
        )
    found = {}
    for prefix, inside in places:
        for name, key in keys.items():
            same = members.get(prefix + (key.partition("/")[2] if inside else key), [])
            if len(same) > 1:
                raise DataError(
                    f"{shown(path)} holds {shown(name)} twice, with different content; pack it "
                    "again with one of them."
                )
            if same:
                found[name] = same[0]
    return found


def _places(members: Iterable[str], keys: Iterable[str]) -> dict[tuple[str, bool], int]:
    """(what stands before listed names, whether their first folder is left out) -> how often.

    Without the first folder they count where nothing stands before them, or that folder in other
    letter case: anything else may be another domain.
    """
    keys = [(key, *key.partition("/")[::2]) for key in keys]
    deep = 2 if all("/" in rest for _, _, rest in keys) else 1
    tail = lambda name: name.split("/")[-deep:]
    by_tail = collections.defaultdict(list)
    for name in members:
        by_tail[tuple(tail(name))].append(name)
    found: collections.Counter = collections.Counter()
    for key, top, rest in keys:
        for name in by_tail.get(tuple(tail(rest)), ()):
            before = name[: len(name) - len(rest)]
            if name.endswith("/" + key):
                found[name[: len(name) - len(key)], False] += 1
            elif name == rest or (
                name.endswith("/" + rest)
                and posixpath.basename(before[:-1]).casefold() == top.casefold()
            ):
                found[before, True] += 1
    return found


def _told(files: Sequence[zipfile.ZipInfo]) -> str:
    """A zip's content in a few words."""
    names = [info.filename for info in files]
    if not names:
        return "no files"
    some = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    nested = any(name.lower().endswith((_SUFFIX, ".tar", ".gz")) for name in names)
    hint = " (an archive in an archive: unpack the outer one)" if nested else ""
    return f"{len(names):,} file{'s' * (len(names) > 1)}, {shown(some)}{hint}"


def _plain(name: str) -> str:
    """A name to be compared.

    >>> _plain("./real\\\\cafe\u0301//1.png"), _plain("/a/b.png")
    ('real/café/1.png', 'a/b.png')
    """
    if name.isascii() and "\\" not in name and "//" not in name and not name.startswith((".", "/")):
        return name
    text = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return posixpath.normpath(text).lstrip("/")
