"""Zips as people make them: read where their meaning is clear, else a sentence that says why."""

import io
import struct
import tarfile
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest

from clipjax.data.readers.archive_names import find_archive
from clipjax.data.readers.archives import open_archive
from clipjax.data.readers.folders import FolderDataset
from clipjax.data.readers.lists import ListDataset
from clipjax.errors import DataError, UnreachableError

PATHS = [f"real/{c}/{n}.png" for c in ("café", "dog", "über") for n in range(4)]  # NFC
PLAIN = [f"real/{c}/{n}.png" for c in ("cat", "dog") for n in range(4)]


class Raw(zipfile.ZipInfo):
    """A member whose name is written as these bytes, with these flags."""

    raw, flags = b"", 0

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.raw, self.flags


def make(path, members, *, flags=0, extra=None):
    """A zip of (name or bytes, content)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            if isinstance(name, bytes):
                info = Raw(f"member {len(archive.filelist)}")
                info.raw, info.flags = name, flags
                info.extra = extra(name) if extra else b""
                archive.writestr(info, content)
            else:
                archive.writestr(name, content)
    return path


def content(path):
    return f"content of {path}".encode()


def zipped(path, change, paths=PATHS, **options):
    return make(path, [(change(p), content(p)) for p in paths], **options)


def check(path, paths=PATHS):
    """Every listed name has its own content, whatever the zip calls it."""
    (members, there), (other, _) = open_archive(path, [paths, paths[::-2]])
    assert there.all() and [members.read(i) for i in range(len(paths))] == [
        content(p) for p in paths
    ]
    assert [other.read(i) for i in range(len(other))] == [content(p) for p in paths[::-2]]
    assert members.path(0) == f"{path}/{paths[0]}"


def unicode_path(name):
    """Info-ZIP's extra field, beside a name in some code page."""
    body = b"\x01" + struct.pack("<I", zlib.crc32(name)) + name.decode("cp1250").encode()
    return struct.pack("<HH", 0x7075, len(body)) + body


WAYS = {
    "as listed": lambda p: p,
    "decomposed": lambda p: unicodedata.normalize("NFD", p),
    "utf-8 without the flag": lambda p: p.encode(),
    "decomposed, without the flag": lambda p: unicodedata.normalize("NFD", p).encode(),
    "code page of DOS": lambda p: p.encode("cp850"),
    "code page of Windows": lambda p: p.encode("cp1252"),
    "backslashes": lambda p: p.replace("/", "\\").encode("cp437"),
    "drive": lambda p: "C:\\data\\" + p.replace("/", "\\"),
    "dot": lambda p: f"./{p}",
    "absolute": lambda p: f"/{p}",
    "above the root": lambda p: f"../../{p}",
    "folder twice": lambda p: f"real/{p}",
    "folder above": lambda p: f"DomainNet/images/{p}",
    "no folder": lambda p: p.removeprefix("real/"),
    "folder in other letter case": lambda p: "Real" + p.removeprefix("real"),
    "both": lambda p: "data/REAL" + p.removeprefix("real"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_clear_is_read(tmp_path, way):
    check(zipped(tmp_path / "real.zip", WAYS[way]))
    if way != "code page of Windows":  # lists may be decomposed as well
        paths = [unicodedata.normalize("NFD", p) for p in PATHS]
        (_, there), *_ = open_archive(tmp_path / "real.zip", [paths])
        assert there.all()


def test_the_name_in_the_extra_field_counts(tmp_path):
    paths = [f"real/{c}/{n}.png" for c in ("erdő", "łódka") for n in range(2)]
    check(
        zipped(tmp_path / "a.zip", lambda p: p.encode("cp1250"), paths, extra=unicode_path), paths
    )


def test_names_in_another_script_are_found_by_the_list(tmp_path):
    paths = [f"real/{c}/{n}.png" for c in ("猫", "犬") for n in range(2)]
    for code in ("cp932", "gbk", "utf-8"):
        members = [(p.encode(code), content(p)) for p in paths]
        check(make(tmp_path / f"{code}.zip", members), paths)


def test_what_systems_add_is_no_image_and_no_doubt(tmp_path):
    members = [(f"x/{p}", content(p)) for p in PLAIN]
    shadows = [(f"__MACOSX/x/{p.rpartition('/')[0]}/._0.png", b"shadow") for p in PLAIN[::4]]
    exact = [(f"__MACOSX/{p}", b"shadow") for p in PLAIN]
    more = [("x/.DS_Store", b"."), ("x/real/", b""), ("x/real/Thumbs.db", b".")]
    check(make(tmp_path / "real.zip", exact + more + members + shadows), PLAIN)


def test_the_last_of_equal_names_counts_as_in_every_unzip(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = make(
            tmp_path / "real.zip",
            [(f"a/{p}", b"old") for p in PLAIN] + [(f"a/{p}", content(p)) for p in PLAIN],
        )
    check(path, PLAIN)


def test_large_archives_of_64_bits(tmp_path):
    path = tmp_path / "real.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for p in PLAIN:
            with archive.open(f"x/{p}", "w", force_zip64=True) as file:
                file.write(content(p))
    check(path, PLAIN)


def test_what_is_missing_is_marked(tmp_path):
    path = zipped(tmp_path / "real.zip", lambda p: f"x/{p}", PLAIN[2:])
    ((members, there),) = open_archive(path, [PLAIN])
    assert there.tolist() == [False] * 2 + [True] * 6 and members.read(0) == content(PLAIN[2])


OTHERS = {
    "another domain": (lambda p: p.replace("real", "sketch"), "8 files, sketch/cat/0.png, .*, ..."),
    "the domain's folder around another": (lambda p: f"real/sketch/{p[5:]}", "real/sketch/cat"),
    "another domain's folder above": (lambda p: f"sketch/{p[5:]}", "sketch/cat/0.png"),
}


@pytest.mark.parametrize("way", OTHERS)
def test_a_zip_of_something_else_says_what_it_holds(tmp_path, way):
    change, said = OTHERS[way]
    path = zipped(tmp_path / "real.zip", change, PLAIN)
    with pytest.raises(DataError, match=rf"real.zip holds none of the 8 .*{said}") as error:
        open_archive(path, [PLAIN])
    assert len(str(error.value)) < 500


def test_an_empty_zip_and_an_archive_in_an_archive(tmp_path):
    with pytest.raises(DataError, match="holds none of the 8 .*it holds no files"):
        open_archive(make(tmp_path / "a.zip", [("real/", b"")]), [PLAIN])
    inner = zipped(tmp_path / "inner.zip", str, PLAIN).read_bytes()
    with pytest.raises(DataError, match="1 file, real.zip .*unpack the outer one"):
        open_archive(make(tmp_path / "real.zip", [("real.zip", inner)]), [PLAIN])


def test_several_folders_with_the_same_images_are_no_guess(tmp_path):
    members = [(f"{top}/{p}", content(p)) for top in ("old", "new") for p in PLAIN]
    with pytest.raises(DataError, match="real.zip .*several folders: old/, new/"):
        open_archive(make(tmp_path / "real.zip", members), [PLAIN])


def test_two_contents_for_one_name_are_no_guess(tmp_path):
    members = [(f"./{p}", content(p)) for p in PLAIN] + [(PLAIN[0].replace("/", "\\"), b"other")]
    with pytest.raises(DataError, match=f"real.zip holds {PLAIN[0]} twice"):
        open_archive(make(tmp_path / "real.zip", members), [PLAIN])


def test_other_files_called_zip_are_named(tmp_path):
    path = tmp_path / "real.zip"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("real/cat/0.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(DataError, match="real.zip is a tar archive, not a zip; unpack it"):
        open_archive(path, [PLAIN])
    for begin, kind in (
        (b"\x1f\x8b\x08", "gzip"),
        (b"<!DOCTYPE html>", "web page"),
        (b"Rar!", "rar"),
    ):
        path.write_bytes(begin + bytes(2000))
        with pytest.raises(DataError, match=f"real.zip is .*{kind}.*, not a zip"):
            open_archive(path, [PLAIN])
    path.unlink()
    with pytest.raises(UnreachableError, match="real.zip cannot be read .No such file"):
        open_archive(path, [PLAIN])


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, 9, 93])
def test_other_compressions_are_named(tmp_path, method):
    path = zipped(tmp_path / "real.zip", lambda p: f"x/{p}", PLAIN)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"PK\x01\x02")
    whole[at + 10 : at + 12] = struct.pack("<H", method)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="x/real/cat/0.png in a compression other than deflate"):
        open_archive(path, [PLAIN])
    whole[at + 8] |= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="x/real/cat/0.png encrypted; unpack it"):
        open_archive(path, [PLAIN])


def test_whatever_is_wrong_with_a_directory_is_a_sentence(tmp_path):
    path = zipped(tmp_path / "real.zip", lambda p: p, PATHS)  # with flags of UTF-8
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    first = whole.index(b"PK\x01\x02")
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(first, len(data), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            ((members, _),) = open_archive(path, [PATHS])
            outcomes.add("read")
            for i in range(len(members)):
                members.read(i)
        except DataError as error:
            outcomes.add("told")
            assert "real.zip" in str(error) and "\n" not in str(error)
    assert outcomes == {"read", "told"}


@pytest.mark.parametrize("name", ["real.zip", "real.ZIP", "real.Zip", "Real.zip", "real (1).zip"])
def test_the_zip_of_a_folder_is_found(tmp_path, name):
    path = zipped(tmp_path / name, str, PLAIN)
    zipped(tmp_path / "sketch.zip", str, PLAIN)
    (tmp_path / "._real.zip").write_bytes(b"shadow")
    (tmp_path / "surreal.zip").write_bytes(b"")
    assert find_archive(tmp_path, "real") == path
    assert find_archive(tmp_path, "painting") is None


def test_a_second_download_is_compared(tmp_path):
    first = zipped(tmp_path / "real.zip", str, PLAIN)
    second = zipped(tmp_path / "real (1).zip", str, PLAIN)
    assert find_archive(tmp_path, "real") == first
    zipped(second, str, PLAIN[1:])
    with pytest.raises(DataError, match=r"real.zip and real \(1\).zip, .*different files; keep"):
        find_archive(tmp_path, "real")
    zipped(second, str, PLAIN)
    first.write_bytes(first.read_bytes()[:200])
    with pytest.raises(DataError, match=r"real.zip and real \(1\).zip.*/real.zip is damaged"):
        find_archive(tmp_path, "real")


def test_composed_and_decomposed_names_of_zips(tmp_path):
    path = zipped(tmp_path / unicodedata.normalize("NFD", "café.zip"), str, PLAIN)
    assert find_archive(tmp_path, "café") == path


def test_lists_beside_such_zips(tmp_path):
    zipped(tmp_path / "real (1).ZIP", lambda p: "photos\\" + p.replace("/", "\\"), PLAIN)
    (tmp_path / "real_train.txt").write_text("".join(f"{p} {'dog' in p:d}\n" for p in PLAIN))
    source = ListDataset(tmp_path, fractions=(1, 0, 0)).source("real", "train")
    assert [source[i].image for i in range(8)] == [content(p) for p in PLAIN]
    (tmp_path / "real (1).ZIP").rename(tmp_path / "photos.zip")
    with pytest.raises(DataError, match=r"8 of 8 listed .*first folder of the paths .photos.zip"):
        ListDataset(tmp_path)


def test_zips_without_lists_are_told_to_need_them(tmp_path):
    zipped(tmp_path / "real.ZIP", str, PLAIN)
    with pytest.raises(DataError, match="holds 1 zips, which are read by their lists"):
        FolderDataset(tmp_path)
