"""`experiments.inspect`: on the embedded data, and on folders with planted faults."""

import io
import os
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from configs import dann
from experiments import findings, inspect
from tests.conftest import REPO


def command(*arguments, **env):
    # No JAX backend of that name: whoever starts one fails.
    return subprocess.run(
        [sys.executable, "-m", "experiments.inspect", *map(str, arguments)],
        cwd=REPO,
        env=os.environ | {"CI": "true", "JAX_PLATFORMS": "no_such_platform"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def look(root, out, capsys, *, source="real", target="sketch", **changes):
    """Inspects a folder in this process: (refusals, what was printed, the page)."""
    config = dann.get_config(f"source={source},target={target},root={root}")
    wishes = {k: changes.pop(k) for k in ("decode", "duplicates", "seed") if k in changes}
    with config.unlocked():
        for field, value in changes.items():
            config.update_from_flattened_dict({field.replace("__", "."): value})
    refusals = inspect.inspect(config, out, inspect.Wishes(**wishes))
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


def test_the_embedded_data_in_a_process_of_its_own(tmp_path):
    done = command("--config=configs/dann.py", f"--out={tmp_path}", "--decode=20")
    assert done.returncode == 0, done.stderr
    for words in ("render (source)", "sketch (target)", "A run would start", "20 images of each"):
        assert words in done.stdout
    page = (tmp_path / "inspect.html").read_text()
    for name in ("counts", "balance", "classes", "images", "skipped", "duplicates", "sheets"):
        assert f'<section id="{name}">' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is loaded from anywhere
    sheets = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(sheets) == 6 and "contact-render.png" in sheets
    assert np.asarray(Image.open(tmp_path / sheets[0]).convert("L")).std() > 10
    assert not list(tmp_path.glob("*.partial"))


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
    _, text, _ = look(planted, tmp_path / "out", capsys)
    assert "120 images, all of different content" in text
    _, text, _ = look(planted, tmp_path / "out", capsys, duplicates=False)
    assert "different content" not in text


def test_an_unreadable_image_counts_against_the_limit(planted, tmp_path, capsys):
    bad = planted / "real" / "test" / "red" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refusals, text, page = look(planted, tmp_path / "out", capsys)  # 1 of 120 is 0.83 %
    assert refusals == [] and "1 of 120 cannot be read (0.83 %)" in text
    assert "red/0.png" in text and "red/0.png" in page
    refusals, text, page = look(planted, tmp_path / "out", capsys, data__max_unreadable=0.005)
    assert "max_unreadable=0.005" in refusals[0] and "would refuse" in text
    assert "No run would start" in page
    refusals, text, _ = look(
        planted, tmp_path / "out", capsys, data__max_unreadable=0.005, decode="none"
    )
    assert refusals == [] and "No image was decoded" in text


def test_a_refusal_is_the_exit_code(planted, tmp_path):
    for i in range(3):
        (planted / "real" / "train" / "red" / f"{i}.png").write_bytes(b"no image")
    done = command(
        f"--config=configs/dann.py:source=real,target=sketch,root={planted}", f"--out={tmp_path}"
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "3 of 120 images cannot be read" in done.stderr
    assert (tmp_path / "inspect.html").exists()


def test_a_class_that_one_domain_lacks_is_named(planted, tmp_path):
    for folder in (planted / "sketch").iterdir():
        shutil.rmtree(folder / "red")
    done = command(
        f"--config=configs/dann.py:source=real,target=sketch,root={planted}",
        f"--out={tmp_path / 'out'}",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "red" in done.stderr and "sketch" in done.stderr


def test_large_datasets_are_sampled_and_it_says_so(planted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspect, "WHOLE", 100)
    monkeypatch.setattr(inspect, "SAMPLE", 7)
    _, text, _ = look(planted, tmp_path / "out", capsys)
    assert "Up to 7 images of each domain" in text and "0 of 14 cannot be read" in text
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


def test_the_page_and_sheets_repeat_byte_for_byte(planted, tmp_path, capsys):
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
    from clipjax.data.sources import Skipped
    from clipjax.evaluate import chapters

    skipped = [Skipped(f"real/red/{i}.psd", "no image format we read") for i in range(30)]
    chapter = findings.skipped_chapter(skipped)
    text, body = chapters.as_text(chapter), chapters.as_section(chapter).body
    assert "30 files" in text and "real/red/19.psd" in text and "real/red/20.psd" not in text
    assert all(f"real/red/{i}.psd" in body for i in range(30))
