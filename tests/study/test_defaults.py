"""The demo's defaults stay with the demo: what is open with data of one's own, and what is said."""

import pytest

from clipjax.errors import ConfigError
from clipjax.inspect.verdict import opened
from clipjax.study import parse, run
from clipjax.study.defaults import pair_rule
from clipjax.study.plan import prepare


def study(root, model="", prompts="", **data):
    return parse({"model": str(model), "prompts": prompts, "data": {"root": str(root), **data}})


def test_the_embedded_data_bring_model_prompts_and_domains():
    found = parse({})
    assert (found.encoder.model, found.encoder.prompts) == ("tiny", "drawings")
    assert (found.data.name, found.data.source, found.data.target) == ("emoji", "render", "stencil")
    own = parse({"model": "a/b", "prompts": "sketch", "data": {"target": "flat"}})
    assert (own.encoder.model, own.encoder.prompts) == ("a/b", "sketch")
    assert (own.data.source, own.data.target) == ("render", "flat")
    other = parse({"data": {"name": "emoji_regrouped"}})
    assert (other.encoder.model, other.data.name) == ("tiny", "emoji_regrouped")
    assert (other.data.source, other.data.target) == ("render", "stencil")


@pytest.mark.parametrize("place", [{"root": "/x"}, {"lists": "/x"}, {"name": "tfds:mnist"}])
def test_other_data_bring_prompts_alone(place):
    found = parse({"data": place})
    assert (found.encoder.model, found.encoder.prompts) == ("", "simple")
    assert (found.data.source, found.data.target) == ("", "")
    assert parse({"data": place, "prompts": "drawings"}).encoder.prompts == "drawings"


def test_a_run_without_a_model_is_refused_before_anything_is_written(photos, tmp_path):
    mine = study(photos, source="real", target="sketch")
    with pytest.raises(ConfigError) as error:
        run(mine, tmp_path / "run")
    assert str(error.value).startswith(
        "no model named: the embedded one knows 64 px drawings only; use "
        "model=openai/clip-vit-base-patch32"
    )
    assert not (tmp_path / "run").exists()


def test_open_ends_are_asked_for_with_the_domains_there_are(photos, folder_dataset):
    with pytest.raises(ConfigError) as error:
        prepare(study(photos))
    assert str(error.value) == (
        "source, target and model are not named; the domains are real, sketch. Choose, as in "
        "source=real, target=sketch and model=openai/clip-vit-base-patch32."
    )
    with pytest.raises(ConfigError, match="target is not named.* Choose, as in target=real"):
        prepare(study(photos, "tiny", source="sketch"))
    (folder_dataset / "sketch").rename(folder_dataset / ".hidden")
    with pytest.raises(ConfigError, match="real is the only domain there, and a run needs two"):
        prepare(study(folder_dataset, "tiny"))


def test_what_was_chosen_is_said(photos, wee_clip):
    ends = {"source": "real", "target": "sketch"}
    reader, prompts = prepare(study(photos, wee_clip, **ends)).notes[:2]
    assert reader == "data.name=auto: the root is read as folders of images (real/blue, ...)"
    assert prompts.startswith('prompts are "a photo of a {}."')
    notes = prepare(study(photos, "tiny", "sketch", name="folder", **ends)).notes
    assert notes[0].startswith("model=tiny, the embedded one, knows 64 px drawings only")
    assert not any("prompts are" in note or "data.name" in note for note in notes)
    own = prepare(parse({})).notes
    assert own[0].startswith("render -> stencil is the pair with the largest gap of zero-shot from")
    assert not any(word in note for note in own for word in ("tiny", "auto"))
    assert pair_rule((other := parse({"data": {"target": "flat"}})).data, other.encoder) == []


def test_inspect_looks_without_a_model_and_says_that_no_run_would_start(photos):
    found = opened(study(photos, source="real", target="sketch"))
    assert found.data_notes[0].startswith("data.name=auto: ")
    assert [r.split(":")[0] for r in found.refusals] == ["no model named"]
    assert found.crop_notes == ["Cropped to CLIP's usual 224 pixels, because no model is named."]
