"""The pretraining corpus of the tiny CLIP holds no held-out identity of the embedded dataset.

Proved on the committed manifest, without the corpus: by the words of every row, and by the
perceptual hash of every image against the held-out drawings of all six domains.
"""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pq = pytest.importorskip("pyarrow.parquet")

REPO = Path(__file__).resolve().parents[2]
if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))

from tools.corpus.names import AliasMatcher, clean_caption, split_words, word_set  # noqa: E402
from tools.corpus.phash import MAX_DISTANCE, both_hashes, nearest_hamming, phash  # noqa: E402

ASSETS = REPO / "clipjax" / "assets"
EMOJI = ASSETS / "emoji"


def plain(hexcode):
    """Hexcode as the manifest names emoji drawings: lower case, no variation selector."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def manifest():
    """Columns of the manifest; `name` restored where it is the caption with hyphens."""
    columns = pq.read_table(ASSETS / "tiny_clip" / "corpus_manifest.parquet").to_pydict()
    columns["name"] = [
        name or caption.replace(" ", "-")
        for name, caption in zip(columns["name"], columns["caption"], strict=True)
    ]
    columns["phash"] = np.array(columns["phash"], np.uint64)
    return columns


@pytest.fixture(scope="module")
def identities():
    return rows_of(EMOJI / "identities.csv")


@pytest.fixture(scope="module")
def matcher():
    rows = rows_of(ASSETS / "tiny_clip" / "held_out_aliases.csv")
    return AliasMatcher(frozenset(row["words"].split()) for row in rows)


@pytest.fixture(scope="module")
def held_out_images():
    """(split, domain, identity, PIL image) of every drawing of the test and val splits."""
    images = []
    for split in ("test", "val"):
        for row in pq.read_table(EMOJI / f"{split}.parquet").to_pylist():
            image = Image.open(io.BytesIO(row["image"]["bytes"]))
            images.append((split, row["domain"], row["identity"], image))
    return images


def test_the_manifest_is_a_whole_corpus(manifest):
    assert len(manifest["name"]) > 50_000
    assert set(manifest["group"]) == {"icon-mono", "icon-colour", "emoji-train"}
    assert len(set(zip(manifest["source"], manifest["name"], strict=True))) == len(manifest["name"])


def test_every_held_out_identity_is_on_the_alias_list(identities, matcher):
    listed = {row["identity"] for row in rows_of(ASSETS / "tiny_clip" / "held_out_aliases.csv")}
    held_out = [row for row in identities if row["split"] != "train"]
    assert len(held_out) > 200
    assert {row["identity"] for row in held_out} == listed
    unmatched = [row["name"] for row in held_out if matcher.find(word_set(row["name"])) is None]
    assert unmatched == []


@pytest.mark.slow
def test_no_row_has_the_words_of_a_held_out_identity(manifest, identities, matcher):
    train = {plain(row["hexcode"]) for row in identities if row["split"] == "train"}
    leaks = []
    for source, name, caption in zip(
        manifest["source"], manifest["name"], manifest["caption"], strict=True
    ):
        # A drawing of a training identity is one by its code point, whatever its name.
        if source.startswith("emoji:") and name in train:
            continue
        alias = matcher.find(word_set(name, caption))
        if alias is not None:
            leaks.append((source, name, caption, sorted(alias)))
    assert leaks == []


def test_no_emoji_of_a_held_out_identity_and_none_of_the_unseen_domains(manifest, identities):
    held_out = {plain(row["hexcode"]) for row in identities if row["split"] != "train"}
    emoji = [
        (source, name)
        for source, name in zip(manifest["source"], manifest["name"], strict=True)
        if source.startswith("emoji:")
    ]
    assert emoji and not [name for _, name in emoji if name in held_out]
    assert {source for source, _ in emoji} <= {
        f"emoji:{style}"
        for style in ("render", "flat", "gradient", "clipart", "noto-v1", "emojione")
    }
    assert not [s for s in set(manifest["source"]) if "emoji" in s and not s.startswith("emoji:")]
    assert "twemoji" not in manifest["source"]


@pytest.mark.slow
def test_no_image_is_near_a_held_out_drawing(manifest, held_out_images):
    reference = [value for *_, image in held_out_images for value in both_hashes(image)]
    assert len(reference) > 2 * 6 * 200
    nearest = nearest_hamming(manifest["phash"], np.array(reference, np.uint64))
    near = np.flatnonzero(nearest <= MAX_DISTANCE)
    assert [(manifest["source"][i], manifest["name"][i], int(nearest[i])) for i in near] == []


def test_the_hash_recognises_a_drawing_in_another_frame_and_size(held_out_images):
    for *_, image in held_out_images[::97]:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
        moved = Image.new("RGB", (240, 200), "white")
        moved.paste(white.resize((150, 150), Image.Resampling.BICUBIC), (70, 12))
        distance = (phash(moved) ^ phash(image)).bit_count()
        assert distance <= MAX_DISTANCE


def test_hashes_of_an_empty_picture_of_different_shapes_and_of_an_inverse():
    blank = Image.new("RGB", (64, 64), "white")
    assert phash(blank) == phash(np.zeros((64, 64), np.uint8))
    cross = np.zeros((64, 64), np.uint8)
    cross[28:36] = cross[:, 20:26] = 255
    corner = np.zeros((64, 64), np.uint8)
    corner[40:] = corner[:, :9] = 255
    hashes = [*both_hashes(cross), *both_hashes(corner)]
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > MAX_DISTANCE


def test_nearest_hamming_is_the_smallest_distance():
    hashes = np.array([0, 0b111, 2**64 - 1], np.uint64)
    reference = np.array([0b1, 2**64 - 2], np.uint64)
    assert nearest_hamming(hashes, reference).tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("name", "styles", "caption"),
    [
        ("elephant-outline", (), "elephant"),
        ("home-2-24-filled", (), "home"),
        ("bxs-dog", (), "dog"),
        ("camera-three", (), "camera"),
        ("traffic-light", (), "traffic light"),
        ("house-light", ("light",), "house"),
        ("line-chart", (), "line chart"),
        ("arrow-left-to-line", (), "arrow left to line"),
        ("24", (), ""),
        ("x", (), ""),
    ],
)
def test_captions_lose_style_words_only(name, styles, caption):
    assert clean_caption(name, styles) == caption


@pytest.mark.parametrize(
    ("name", "leaks"),
    [
        ("hot-dogs-filled", True),
        ("hotdog", True),
        ("dog-hot", True),
        ("dog", False),
        ("RedApple", True),
        ("applet", False),
    ],
)
def test_the_name_filter_sees_plurals_order_and_joined_words(name, leaks):
    matcher = AliasMatcher(map(frozenset, (("hot", "dog"), ("hotdog",), ("apple",))))
    assert (matcher.find(word_set(name)) is not None) == leaks


def test_words_are_split_at_digits_case_and_punctuation():
    assert split_words("iceCream2-cone_big's") == ["ice", "cream", "cone", "bigs"]
