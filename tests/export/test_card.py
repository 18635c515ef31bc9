"""The card: whose licence, which base, no path of the machine."""

import huggingface_hub as hub
import pytest

from clipjax.export import card


def front(**fields):
    return "---\n" + "".join(f"{k}: {v}\n" for k, v in fields.items()) + "---\n# A model\n"


def test_the_licence_is_that_of_the_encoder_s_card(tmp_path, monkeypatch):
    assert card.license_of("some/where", tmp_path) == "unknown"  # offline
    (tmp_path / "there").mkdir()
    there = tmp_path / "there" / "README.md"
    there.write_text(front(license="mit"))
    asked = []
    fetch = lambda *args, **options: asked.append((args, options)) or str(there)
    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    assert card.license_of("laion/CLIP", tmp_path, "v2") == "mit"
    assert asked == [(("laion/CLIP", "README.md"), {"revision": "v2"})]
    assert card.license_of("laion/CLIP", tmp_path / "there") == "mit" and len(asked) == 1
    there.write_text("# A model\n")
    assert card.license_of(str(tmp_path / "there"), tmp_path / "there") == "unknown"


@pytest.mark.parametrize(
    "text, wanted",
    [
        (
            "clipjax run dann root=/home/me/scans,source=a",
            "clipjax run dann root=.../scans,source=a",
        ),
        ('"root": "/data/photos"', '"root": ".../photos"'),
        ('"model": "~/models/clip"', '"model": ".../clip"'),
        ("--config=configs/dann.py:root=/x/y", "--config=configs/dann.py:root=.../y"),
        (
            '"openai/clip" https://a.org/b gs://c/d 1/2',
            '"openai/clip" https://a.org/b gs://c/d 1/2',
        ),
    ],
)
def test_absolute_paths_are_cut_down(text, wanted):
    assert card.without_places(text) == wanted


def test_a_known_place_with_blanks_is_cut_down_whole():
    told = "photo -> /home/me/my scans/*.png, images of /home/me/my scans/*.png"
    wanted = "photo -> .../*.png, images of .../*.png"
    assert card.without_places(told, "/home/me/my scans/*.png") == wanted
