"""`experiments.inspect`: on the embedded data, and on folders with planted faults."""

import io
import os
import re
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from clipjax.configs import dann
from clipjax.data.dataset import ArrayDataset, ArraySource, open_parts
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.open import open_dataset
from clipjax.errors import ConfigError, DataError
from clipjax.inspect import report as findings
from clipjax.inspect import scan as reading
from clipjax.inspect import stats as census
from clipjax.inspect import survey as inspect
from clipjax.inspect import verdict as subject
from clipjax.study import Data, Encoder, Study, plan
from clipjax.study.defaults import settled
from tests import forked
from tests.conftest import parsed
from tests.data import published as fakes


def command(*arguments, **env):
    # No JAX backend of that name: whoever starts one fails.
    given = {"CI": "true", "JAX_PLATFORMS": "no_such_platform"} | env
    return forked.run(["-m", "experiments.inspect", *arguments], **given)


def look(root, out, capsys, *, source="real", target="sketch", **changes):
    """Inspects a folder in this process: (refusals, what was printed, the page)."""
    config = dann.get_config(f"source={source},target={target},root={root},model=tiny")
    options = {k: changes.pop(k) for k in ("decode", "duplicates", "seed") if k in changes}
    with config.unlocked():
        for field, value in changes.items():
            config.update_from_flattened_dict({field.replace("__", "."): value})
    refusals = inspect.inspect(parsed(config), out, inspect.Options(**options))
    return refusals, capsys.readouterr().out, (out / "inspect.html").read_text()


@pytest.fixture
def planted(tmp_path):
    """root/domain/split/class/image.png: 2 domains, 3 classes, 10 + 4 + 6 images, all different."""
    rng = np.random.default_rng(5)
    for domain in ("real", "sketch"):
        for split, n in (("train", 10), ("val", 4), ("test", 6)):
            for name in ("blue", "green", "red"):
                folder = tmp_path / "photos" / domain / split / name
                folder.mkdir(parents=True)
                for i in range(n):
                    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_the_embedded_data_in_a_process_of_its_own(tmp_path):
    done = command("--config=configs/dann.py", f"--out={tmp_path}", "--decode=20")
    assert done.returncode == 0, done.stderr
    for words in ("render (source)", "stencil (target)", "A run would start", "20 images of each"):
        assert words in done.stdout
    page = (tmp_path / "inspect.html").read_text()
    assert page.index('id="sheets"') < page.index('id="counts"')  # what one looks at
    for name in ("counts", "balance", "classes", "images", "skipped", "duplicates", "sheets"):
        assert f'<section id="{name}">' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is loaded from anywhere
    sheets = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(sheets) == 6 and "contact-render.png" in sheets
    assert np.asarray(Image.open(tmp_path / sheets[0]).convert("L")).std() > 10
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--help"], "--decode"),
        (["--config=configs/dann.py:target=skech"], "render, flat, clipart"),
        (["--config=configs/dann.py:root=/no/such/folder"], "/no/such/folder"),
        (["--config=configs/dann.py", "--config.optim.lrr=1"], "optim.lrr"),
        (["--config=configs/pretrain.py"], "pairs"),
        (["--decode=some"], "--decode=some"),
    ],
)
def test_help_and_what_cannot_start_answer_in_a_sentence(arguments, word, tmp_path):
    done = command(*arguments, f"--out={tmp_path / 'out'}")
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert arguments == ["--help"] or done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_planted_duplicates_are_found_and_named(planted, tmp_path, capsys):
    copies = {  # of one file each
        "sketch/test/red/1.png": "real/train/red/0.png",  # other split, other domain
        "real/train/green/2.png": "real/train/blue/2.png",  # other class
        "real/val/blue/3.png": "real/train/blue/3.png",  # other split
        "real/test/blue/4.png": "real/test/blue/5.png",  # nothing else
    }
    for to, file in copies.items():
        shutil.copy(planted / file, planted / to)
    refusals, text, page = look(planted, tmp_path / "out", capsys)
    assert refusals == [] and "A run would start" in text
    for said in (text, page):
        assert "4 contents more than once, as 8 images" in said
        assert "2 in more than one split" in said and "1 in more than one domain" in said
        assert "1 in more than one class" in said and "1 inside one split and class" in said
        assert all(file in said for pair in copies.items() for file in pair)
    assert re.search(r"real/train\s+real/val\s+1\n", text)
    assert re.search(r"real/train\s+sketch/test\s+1\n", text)


def test_different_images_are_no_duplicates(planted, tmp_path, capsys):
    _, text, page = look(planted, tmp_path / "out", capsys)
    assert "120 images, all of different content" in text
    few = "ewer than 5 images of 3 of 3 classes (of blue 4) in real/val, sketch/val"
    for said in (few, "an epoch of finetune, source_only, dann has 1 step"):
        assert said in text and said[1:] in page
    _, text, _ = look(planted, tmp_path / "out", capsys, duplicates=False)
    assert "different content" not in text


def test_an_unreadable_image_counts_against_the_limit(planted, tmp_path, capsys):
    bad = planted / "real" / "test" / "red" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refusals, text, page = look(planted, tmp_path / "out", capsys)  # 1 of 120 is 0.83 %
    assert refusals == [] and "1 of 120 decoded images cannot be read (0.83 %)" in text
    assert "red/0.png" in text and "red/0.png" in page
    refusals, text, page = look(planted, tmp_path / "out", capsys, data__max_unreadable=0.005)
    assert "max_unreadable=0.005" in refusals[0] and "would refuse" in text
    assert "No run would start" in page
    refusals, text, _ = look(
        planted, tmp_path / "out", capsys, data__max_unreadable=0.005, decode="none"
    )
    assert refusals == [] and "No image was decoded" in text


def test_the_verdict_is_about_what_the_run_reads(planted, tmp_path, capsys):
    shutil.copytree(planted / "real", planted / "clipart")
    for file in (planted / "clipart").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:90])
    refusals, text, _ = look(planted, tmp_path / "out", capsys, data__domains=("real", "sketch"))
    assert refusals == [] and "60 of 180 decoded images cannot be read (33 %)" in text
    assert "reads real (test, train, val), sketch (test, train, val): 0 of 120 images" in text
    refusals, text, _ = look(planted, tmp_path / "out", capsys)
    assert "18 of 138 images cannot be read" in refusals[0] and "clipart (test)" in text


def test_a_sample_foretells_and_what_cannot_be_opened_does_not():
    class Part(ArraySource):
        def __getitem__(self, index):
            if index < 3:
                raise DataError(f"photo {index} is gone")
            return super().__getitem__(index)

    gone = Part([b"bad"] * 2 + [encoded()] * 598, [0] * 600, classes=("cat",), domain="a")
    bad = ArraySource([encoded()] * 5 + [b"bad"] * 5, [0] * 10, classes=("cat",), domain="b")
    rows = census.Rows({("a", "train"): gone, ("b", "train"): bad})
    decode = np.zeros(610, bool)
    decode[590:600] = decode[604:606] = True
    found = reading.read(rows, Preprocess(size=8), decode=decode)
    verdict = subject.judge([("a", "train")], rows, found, 0.01)  # 3 of 600, though 3 > 1 % of 13
    assert verdict[1:] == (3, 600, "")
    assert "photo 0 is gone" in subject.judge([("a", "train")], rows, found, 0.004).refusal
    verdict = subject.judge([("b", "train")], rows, found, 0.4)
    assert verdict[1:3] == (5, 10) and verdict.refusal.startswith("By what a sample")
    assert subject.judge([("b", "train")], rows, found, 0.5).refusal == ""
    text = findings.images_chapter(rows, found, [], verdict, 0.4).notes[-1]
    assert "b (train): about 5 of 10 images" in text and "would refuse" in text


def test_empty_files_count_as_in_a_run(planted, tmp_path, capsys):
    for i in range(2):
        (planted / "real" / "train" / "red" / f"{i}.png").write_bytes(b"")
    refusals, _, _ = look(planted, tmp_path / "out", capsys)
    config = dann.get_config(f"source=real,target=sketch,root={planted},model=tiny")
    study = parsed(config)
    with pytest.raises(DataError) as error:
        plan.check_parts(study, plan.matched_data(study)[0])
    assert refusals == [str(error.value)] and "2 of 120 images" in refusals[0]


@pytest.mark.parametrize(
    "field, value",
    [("data__decoder", "magic"), ("data__max_unreadable", 2.0), ("features__dtype", "int8")],
)
def test_choices_that_a_run_refuses_are_refused_before_looking(field, value, tmp_path, capsys):
    with pytest.raises(ConfigError, match=field.replace("__", ".")):
        look("", tmp_path / "out", capsys, decode="none", **{field: value})
    assert not (tmp_path / "out").exists()


def test_the_decoder_is_the_one_of_the_config():
    config = dann.get_config()
    for decoder in ("reference", "fast"):
        config.data.decoder = decoder
        study = parsed(config)
        assert subject.find_preprocess(study.encoder, decoder)[0].decoder == decoder


def test_names_that_are_no_text_are_shown_as_escapes(planted, tmp_path, capsys):
    folder = os.fsencode(planted / "real" / "train" / "red")
    copy, broken = (os.path.join(folder, name) for name in (b"\xfftwin.png", b"\xfebad.png"))
    shutil.copy(os.path.join(folder, b"0.png"), copy)
    with open(broken, "wb") as file:
        file.write(b"no image")
    refusals, text, page = look(planted, tmp_path / "out", capsys)
    assert refusals == []
    for name in (r"\xfftwin.png", r"\xfebad.png"):
        assert name in text and name in page


def test_a_part_that_fails_in_its_own_way_is_a_refusal(planted, tmp_path, capsys, monkeypatch):
    class Odd(ArrayDataset):
        def source(self, domain, split):
            if (domain, split) == ("real", "val"):
                raise ValueError("no such\ncolumn")
            return super().source(domain, split)

    def part(domain, split):
        return ArraySource(
            [encoded(seed) for seed in range(6)],
            [0, 1] * 3,
            classes="ab",
            domain=domain,
            split=split,
        )

    splits = ("train", "val", "test")
    odd = Odd({domain: {s: part(domain, s) for s in splits} for domain in ("real", "sketch")})
    monkeypatch.setattr(plan, "open_dataset", lambda *args, **options: odd)
    refusals, text, _ = look(planted, tmp_path / "out", capsys)
    assert refusals == ["ValueError: no such column"] and "30 images, 2 domains" in text
    assert "real/val: ValueError: no such column" in text

    def fail(*args, **options):
        raise KeyError("features")

    monkeypatch.setattr(plan, "open_dataset", fail)
    with pytest.raises(DataError, match="cannot be opened .KeyError: 'features'"):
        look(planted, tmp_path / "out", capsys)


def test_naming_duplicates_reads_no_image_again(planted):
    shutil.copy(planted / "real/train/red/0.png", planted / "sketch/test/red/0.png")
    dataset = open_dataset("folder", str(planted))
    rows = census.Rows(open_parts(dataset)[0])
    found = reading.read(rows, Preprocess(size=8), decode=np.zeros(len(rows), bool))
    shutil.rmtree(planted)
    chapter = findings.duplicates_chapter(rows, found, dataset.classes)
    text = " ".join(line for item in chapter.items[1:] for line in item.lines)
    assert "real/train/red/0.png" in text and "sketch/test/red/0.png" in text


def encoded(seed=0):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_a_refusal_is_the_exit_code(planted, tmp_path):
    for i in range(3):
        (planted / "real" / "train" / "red" / f"{i}.png").write_bytes(b"no image")
    done = command(
        f"--config=configs/dann.py:source=real,target=sketch,root={planted},model=tiny",
        f"--out={tmp_path}",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "3 of 120 images cannot be read" in done.stderr
    assert (tmp_path / "inspect.html").exists()


@pytest.mark.slow
def test_a_class_that_one_domain_lacks_is_named(planted, tmp_path):
    for folder in (planted / "sketch").iterdir():
        shutil.rmtree(folder / "red")
    done = command(
        f"--config=configs/dann.py:source=real,target=sketch,root={planted},model=tiny",
        f"--out={tmp_path / 'out'}",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "red" in done.stderr and "sketch" in done.stderr


def test_large_datasets_are_sampled_and_it_says_so(planted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspect, "WHOLE", 100)
    monkeypatch.setattr(inspect, "SAMPLE", 7)
    _, text, _ = look(planted, tmp_path / "out", capsys)
    assert "Up to 7 images of each domain" in text and "0 of 14 decoded images cannot" in text
    _, text, _ = look(planted, tmp_path / "out", capsys, decode="all")
    assert "Every image was decoded" in text


def test_a_split_without_images_is_a_refusal(planted, tmp_path, capsys):
    for file in (planted / "sketch" / "val").rglob("*.png"):
        file.unlink()
    refusals, text, _ = look(planted, tmp_path / "out", capsys)
    assert len(refusals) == 1 and "has no images" in refusals[0]
    assert "108 images, 2 domains, 3 classes" in text


def test_a_model_out_of_reach_leaves_the_usual_crop(planted, tmp_path, capsys):
    refusals, text, _ = look(planted, tmp_path / "out", capsys, model="some-lab/no-such-clip")
    assert refusals == [] and "usual 224 pixels" in text
    assert "some-lab/no-such-clip" in text


def test_the_page_and_sheets_repeat_byte_for_byte(planted, tmp_path, capsys, monkeypatch):
    # The page tells how old cached features are, and other tests cache some meanwhile.
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    look(planted, tmp_path / "a", capsys)
    look(planted, tmp_path / "b", capsys)
    for name in ("contact-real.png", "contact-sketch.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    one, two = ((tmp_path / d / "inspect.html").read_text() for d in "ab")
    assert one.replace(str(tmp_path / "a"), "") == two.replace(str(tmp_path / "b"), "")


def test_sizes_and_formats_are_listed(planted, tmp_path, capsys):
    file = io.BytesIO()
    Image.new("RGB", (500, 375)).save(file, "JPEG")
    (planted / "real" / "test" / "red" / "photo.jpg").write_bytes(file.getvalue())
    _, text, _ = look(planted, tmp_path / "out", capsys)
    (line,) = (row for row in text.splitlines() if "JPEG" in row)
    assert "PNG 60, JPEG 1" in line and "40 / 40 / 375" in line and "/ 500" in line


def test_the_cache_is_listed_by_age():
    def entry(**values):
        return types.SimpleNamespace(**values)

    path = types.SimpleNamespace(name="0f3a")
    old = entry(
        path=path, domain="real", split="train", rows=9, bytes=5e6, age_s=9e5, complete=True
    )
    new = entry(path=path, domain="real", split="test", rows=4, bytes=7, age_s=3, complete=False)
    chapter = findings.cache_chapter([old, new], "/cache", used=True)
    assert "2 entries, 5.0 MB, in /cache" in chapter.notes[0]
    lines = chapter.items[0].lines
    assert [line[0] for line in lines] == ["real/test", "real/train"]
    assert lines[1][2:5] == ["5.0 MB", "10 d", "yes"] and lines[0][2:5] == ["7 B", "3 s", "no"]
    assert "Nothing in" in findings.cache_chapter([], "/cache", used=False).notes[1]


def test_files_passed_over_are_all_on_the_page_and_counted():
    from clipjax.data.dataset import Skipped
    from clipjax.evaluate.report import page
    from clipjax.evaluate.report import tables as chapters

    skipped = [Skipped(f"real/red/{i}.psd", "no image format we read") for i in range(30)]
    chapter = findings.skipped_chapter(skipped)
    text, body = chapters.as_text(chapter), page.document("", "", [], [chapter])
    assert "30 files" in text and "real/red/19.psd" in text and "real/red/20.psd" not in text
    assert all(f"real/red/{i}.psd" in body for i in range(30))


def test_what_is_passed_over_is_one_line_of_inspect_and_of_a_run(planted):
    for i in range(30):
        (planted / "real" / "train" / "red" / f"{i}.heic").write_bytes(b"x")
    (planted / "real" / "train" / "red" / "notes.txt").write_text("x")
    config = dann.get_config(f"source=real,target=sketch,root={planted},model=tiny")
    dataset, notes = plan.matched_data(parsed(config))
    counted = "30 images of this kind are not read (.heic); 1 not an image by its name (.txt)"
    assert notes[-1].startswith(f"31 files are passed over: {counted}; the first: {planted}")
    chapter = findings.skipped_chapter(dataset.skipped)
    assert chapter.notes == [f"Passed over: 31 files: {counted}."]


@pytest.mark.parametrize("place", ["scan", "scan/unlabeled", "*"])
def test_a_target_without_labels(planted, tmp_path, capsys, place):
    """Its images are counted, read, compared and shown; nothing takes them for the last class."""
    shutil.rmtree(planted / "sketch")
    folder = tmp_path / "elsewhere" if place == "*" else planted / place
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    for i in range(20):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "twice.png")
    shutil.copy(planted / "real" / "train" / "blue" / "0.png", folder / "blue.png")
    target = f"{folder}/*.png" if place == "*" else "scan"
    refusals, said, page = look(planted, tmp_path / "out", capsys, target=target)
    assert not refusals and "A run would start" in said
    assert "82 images, 2 domains, 3 classes." in said
    assert f"{target}: no labels: what needs them, like test accuracy, is not measured." in said
    (line,) = (line for line in said.split("\n") if line.strip().startswith(f"{target} (target)"))
    assert line.split()[-3:] == ["22", "0", "22"]  # all, classes, no label
    assert not [line for line in said.split("\n") if "lacks" in line]
    assert "in more than one class" not in said
    one = r"(0|twice)\.png \([^)]*, no label\)"
    assert re.search(f"{one} = [^=]*{one}", said)
    assert "1 in more than one domain" in said and "no label" in page
    pictures = sorted(path.name for path in (tmp_path / "out").glob("contact-*.png"))
    assert len(pictures) == 2
    for name in pictures:
        height = Image.open(tmp_path / "out" / name).size[1]
        assert (height < 200) == (name != "contact-real.png")  # one line of images without labels


def test_classes_that_share_a_text_are_reported(wee_clip, tmp_path):
    """As iWildCam's two "lowland paca": zero-shot can never tell them apart."""
    data = Data(root=str(fakes.iwildcam(tmp_path)), source="id", target="ood")
    found = subject.opened(settled(Study(encoder=Encoder(model=str(wee_clip)), data=data)))
    told = [note for note in found.class_notes if "the same prompts for" in note]
    assert len(told) == 1 and "'lowland paca 1' and 'lowland paca 3'" in told[0]
