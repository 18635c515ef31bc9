"""Studies of a supervised ViT: what needs no texts trains, the rest is refused by name."""

import dataclasses

import numpy as np
import pytest

import clipjax
from clipjax.errors import ConfigError
from clipjax.study import Data, Encoder, Study, Training, run
from clipjax.study.export import export
from clipjax.study.parts import Forgetting
from clipjax.study.plan import prepare
from tests.conftest import read_json

RANDOM = {"start": "random"}
METHODS = {
    "probe": {"loss": "finetune", "heads": RANDOM},
    "tune": {"loss": "finetune", "heads": RANDOM, "freeze": (), "optim": {"layer_decay": 0.5}},
    "coral": {"loss": "coral", "heads": {"adapter": (4,)}},
    "logistic": {"loss": "probe"},
}


def study(photos, vit, methods=METHODS, **fields):
    return Study(
        encoder=Encoder(model=str(vit), **fields),
        data=Data(root=str(photos), source="real", target="sketch"),
        training=Training(seeds=(0, 1), epochs=2, batch_size=8),
        methods=methods,
        stages=tuple(methods),
    )


@pytest.mark.slow
def test_a_vit_is_probed_tuned_and_adapted_and_zero_shot_is_left_out(wee_vit, photos, tmp_path):
    found = run(study(photos, wee_vit), tmp_path / "run")
    assert {row["method"] for row in found.rows} == set(METHODS)
    assert any("has no text tower: zero-shot, and what" in n for n in found.results["notes"])
    assert not any("a photo of a" in note for note in found.results["notes"])
    assert found.results["verdict"]["method"] in METHODS and found.results["verdict"]["n"] == 3
    assert found.results["verdict"]["next"]["rule"] in ("images_alone", "unlabelled")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "zero-shot, and what compares with it, is left out" in page
    # Frozen, its features are cached; tuned, its tower is among the parameters.
    assert set(found.params["probe"]) == {"classifier"}
    assert "patch_bias" in found.params["tune"]["clip"]["vision"]
    rates = next(r for r in found.curves if r["phase"] == "tune" and "lr:clip/vision/block_0" in r)
    assert rates["lr:clip/vision/embedding"] == pytest.approx(rates["lr"] * 0.125, rel=1e-3)
    with pytest.raises(ConfigError, match="an export holds a CLIP, and .* has no text tower"):
        export(tmp_path / "run", tmp_path / "out")
    assert read_json(tmp_path / "run" / "model.json")["config.json: model_type"] == "vit"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"loss": "finetune", "heads": {}}, "its head starts at zero-shot .give heads.start"),
        ({"loss": "finetune", "heads": {"text": True}}, "heads = {'text': True} classify by texts"),
        ({"loss": "blend"}, "loss 'blend' reads class texts"),
        ({"loss": "prototypes"}, "loss 'prototypes' reads class texts or CLIP's scale"),
        ({"loss": "shot", "heads": RANDOM}, "loss 'shot' reads zero_shot"),
        ({"loss": "tests.contract.prompts"}, "loss 'tests.contract.prompts' runs the text tower"),
        ({"loss": "tests.contract.distillation", "heads": RANDOM}, ".* reads teacher"),
        (
            {"loss": "protonet", "heads": {"adapter": (4,)}, "temperature": 0.0,
             "episodes": {"way": 2, "shot": 1, "query": 1, "count": 4, "test": 0}},
            "loss 'protonet' reads class texts or CLIP's scale",
        ),
    ],
)  # fmt: skip
def test_what_needs_texts_is_refused_by_name(entry, words, wee_vit, photos):
    with pytest.raises(ConfigError, match=f"methods.m: {words}") as caught:
        prepare(study(photos, wee_vit, {"m": entry}))
    assert "has no text tower" in str(caught.value) and "\n" not in str(caught.value)


def test_fields_and_studies_of_texts_alone_are_refused(wee_vit, photos):
    with pytest.raises(ConfigError, match="prompts has no effect: .* has no text tower"):
        prepare(study(photos, wee_vit, prompts="ensemble"))
    with pytest.raises(ConfigError, match="there is no zero-shot to measure; name a method"):
        prepare(study(photos, wee_vit, {}))
    asked = study(photos, wee_vit, {"m": METHODS["probe"]})
    asked = dataclasses.replace(asked, forgetting=Forgetting(name="emoji"))
    with pytest.raises(ConfigError, match="forgetting compares zero-shot before and after: "):
        prepare(asked)
    vit = clipjax.load(wee_vit)
    assert vit.encode_images([np.zeros((40, 30, 3), np.uint8)], cache=False).shape == (1, 24)
    with pytest.raises(ConfigError, match="has no text tower, so it encodes images alone"):
        vit.zero_shot([np.zeros((40, 30, 3), np.uint8)], ["a", "b"])
