"""Folders of images and masks of which something would be lost, or read as another, unseen."""

import io
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipjax.data.open_masks import open_masks
from clipjax.data.readers.mask_files import decode_mask
from clipjax.errors import DataError
from tests.data import mask_sets
from tests.data.mask_sets import save, scene


def put(folder, *names, split="."):
    for name in names:
        image, mask = scene(len(name))
        save(folder / "images" / split / f"{name}.png", image)
        save(folder / "masks" / split / f"{name}.png", mask)


def test_domains_with_tables_that_differ_are_refused(tmp_path):
    for domain, table in (("photo", "sky\nroad\ncar\n"), ("sketch", "road\nsky\ncar\n")):
        put(tmp_path / domain, "a", "b", "c")
        (tmp_path / domain / "classes.txt").write_text(table)
    words = r"photo/classes.txt and \S+sketch/classes.txt name values differently; give all"
    with pytest.raises(DataError, match=words):
        open_masks(root=str(tmp_path))
    (tmp_path / "sketch" / "classes.txt").unlink()
    (tmp_path / "sketch" / "classes.json").write_text('["sky", "road", "car"]')
    assert open_masks(root=str(tmp_path)).classes == ("sky", "road", "car")


@pytest.mark.parametrize("around", [False, True])
def test_two_folders_of_one_split_are_refused(tmp_path, around):
    for split in ("train", "val", "validation"):
        folder = tmp_path / "photo"
        put(folder / split, split) if around else put(folder, split, split=split)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    words = r"val\S* and \S*validation\S* are both of val; put their images into one"
    with pytest.raises(DataError, match=words):
        open_masks(root=str(tmp_path))


def test_two_folders_of_one_domain_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        put(tmp_path / unicodedata.normalize(form, "été"), "a", "b", "c")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system has one form of a name")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    with pytest.raises(DataError, match="two folders of one name, .* in two Unicode forms"):
        open_masks("folder", str(tmp_path))


@pytest.mark.parametrize("around", [False, True])
def test_images_beside_folders_of_splits_are_told(tmp_path, around):
    for split in ("train", "val"):
        put(tmp_path / "p" / split, "ab") if around else put(tmp_path / "p", "ab", split=split)
    extra = tmp_path / "p" / ("extra" if around else "images/extra") / "c.png"
    save(extra, scene(1)[0])
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    skipped = open_masks(root=str(tmp_path)).skipped
    assert [tuple(entry) for entry in skipped] == [(str(extra), "beside the folders of splits")]
    assert not open_masks(root=str(mask_sets.folders(tmp_path / "whole"))).skipped


@pytest.mark.parametrize(
    ("form", "how", "words"),
    [
        ("WEBP", {"quality": 100}, "a lossy WebP"),
        ("TIFF", {"compression": "jpeg"}, "a TIFF compressed as JPEG"),
    ],
)
def test_masks_of_forms_that_change_values_are_refused(form, how, words):
    mask = scene(3, (32, 32))[1]
    out = io.BytesIO()
    Image.fromarray(mask).save(out, form, **how)
    assert not np.array_equal(np.asarray(Image.open(io.BytesIO(out.getvalue())).convert("L")), mask)
    with pytest.raises(DataError, match=f"its mask is {words}, which changes the values"):
        decode_mask(out.getvalue(), "its mask")
    kept = {"lossless": True} if form == "WEBP" else {"compression": "tiff_lzw"}
    out = io.BytesIO()
    Image.fromarray(mask).save(out, form, **kept)
    assert np.array_equal(decode_mask(out.getvalue()), mask)


def test_rows_without_a_domain_make_none_of_that_name(tmp_path):
    for domains in (["a", "b"], ["a", None]):
        pairs = [scene(i) for i in range(2)]
        kinds = {
            name: [mask_sets.png(p[k]) for p in pairs] for k, name in enumerate(("image", "mask"))
        }
        pq.write_table(pa.table({**kinds, "domain": domains}), tmp_path / "test.parquet")
        (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
        if None not in domains:
            assert open_masks(root=str(tmp_path)).domains == ("a", "b")
    with pytest.raises(DataError, match="test.parquet has no domain in row 1; give each row one"):
        open_masks(root=str(tmp_path))
