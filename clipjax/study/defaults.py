"""What a config leaves open: the demo's choices go with the embedded data, and with no other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from clipjax.errors import ConfigError
from clipjax.io.texts import some
from clipjax.study.parts import Data, Encoder

EMBEDDED = ("emoji", "emoji_regrouped")  # `data.name` of embedded data; auto is the first
TINY = (
    "model=tiny, the embedded one, knows 64 px drawings only: on other images its numbers mean "
    "nothing; use model=openai/clip-vit-base-patch32"
)
MODEL, PROMPTS, SOURCE, TARGET = "tiny", "drawings", "render", "stencil"  # go with it
OWN_PROMPTS = "simple"  # "a photo of a {}."
USUAL_PROMPTS = (
    'prompts are "a photo of a {}.", as with any data of your own; prompts=ensemble, sketch, ... '
    "or a template with {} are others"
)
UNNAMED = (
    "no model named: the embedded one knows 64 px drawings only; use "
    "model=openai/clip-vit-base-patch32, or any CLIP by its Hub id or directory"
)


def is_demo(data: Data) -> bool:
    """Return whether these are the embedded data."""
    return data.name in ("auto", *EMBEDDED) and not data.root and not data.lists


def settled(study: Any) -> Any:
    """Return a `Study` with what it leaves open filled in, but for what only its user can name.

    Of the embedded data that is everything: tiny model, prompts, source and target. With other data
    the prompts become "a photo of a {}.", and model, source and target stay open.
    """
    data, encoder = study.data, study.encoder
    if is_demo(data):
        ends = {"source": data.source or SOURCE, "target": data.target or TARGET}
        name = EMBEDDED[0] if data.name == "auto" else data.name
        data = dataclasses.replace(data, name=name, **ends)
        encoder = dataclasses.replace(encoder, model=encoder.model or MODEL)
    prompts = encoder.prompts or (PROMPTS if is_demo(data) else OWN_PROMPTS)
    encoder = dataclasses.replace(encoder, prompts=prompts)
    return dataclasses.replace(study, data=data, encoder=encoder)


def choices(data: Data, encoder: Encoder) -> list[str]:
    """Return sentences on what goes with data of one's own and matters to what is measured."""
    if is_demo(data):
        return []
    said = []
    if encoder.prompts == OWN_PROMPTS:
        said.append(USUAL_PROMPTS)
    if encoder.model == MODEL:
        said.append(TINY)
    return said


def pair_rule(data: Data, encoder: Encoder) -> list[str]:
    """Return by which rule the embedded data's own pair was chosen, where it is the one used."""
    given = data.source, data.target, encoder.model, encoder.prompts
    if not is_demo(data) or given != (SOURCE, TARGET, MODEL, PROMPTS):
        return []
    rule = f"the pair with the largest gap of zero-shot from {SOURCE}, the style nearest to photos"
    return [f"{SOURCE} -> {TARGET} is {rule}, on validation images; source=, target= name others"]


def check_ends(data: Data, encoder: Encoder, domains: Sequence[str]) -> None:
    """Raise ConfigError if no source or no target is named; the message names all that is open."""
    and_ = lambda words: " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    open_ends = [name for name in ("source", "target") if not getattr(data, name)]
    if not open_ends:
        return
    if len(domains) < 2:
        fault = f"{domains[0]} is the only domain there, and a run needs two"
        raise ConfigError(f"{fault}: add one, or give a folder of images as target.")
    others = [d for d in domains if d not in (*data.sources, data.target)]
    example = [f"{name}={domain}" for name, domain in zip(open_ends, others, strict=False)]
    if not encoder.model:
        open_ends.append("model")
        example.append("model=openai/clip-vit-base-patch32")
    fault = f"{and_(open_ends)} {'are' if len(open_ends) > 1 else 'is'} not named"
    raise ConfigError(
        f"{fault}; the domains are {some(domains, 20)}. Choose, as in {and_(example)}."
    )


def check_model(encoder: Encoder) -> None:
    """Raise ConfigError if no model is named."""
    if not encoder.model:
        raise ConfigError(f"{UNNAMED}.")
