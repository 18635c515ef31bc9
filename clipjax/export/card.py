"""README.md of an exported model: what it is, how to run it, how good it is, its run."""

import pathlib
import re
from typing import Any, NamedTuple

import huggingface_hub as hub
from huggingface_hub.errors import HTTPError

from clipjax.data.images.preprocess import Preprocess
from clipjax.export.program import usage
from clipjax.io import ASSETS, to_json
from clipjax.model.clip import CLIPConfig
from clipjax.model.heads import Heads

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # of a model on the Hub


class Card(NamedTuple):
    """What a model card tells."""

    results: dict[str, Any]  # of the run, as results.json
    config: dict[str, Any]  # of the run, as config.json
    method: str
    seed: str  # of the training, or ""
    why: str  # this method
    below: str  # how far below zero-shot it is, or ""
    tables: str  # the results in Markdown, without a title
    classes: tuple[str, ...]
    clip: CLIPConfig
    preprocess: Preprocess
    heads: Heads
    affine: bool  # whether transformers' CLIP and classifier.safetensors are all of it
    trained_encoder: bool
    texts: tuple[str, ...]  # of which CLIP's own text tower makes the same classifier, or ()
    onnx: bool
    license: str


def license_of(model: str, directory: pathlib.Path, revision: str = "") -> str:
    """Return the licence that a model's card names; "unknown" of none, or where none is reached.

    The card of a Hub id is fetched, unless it lies in the model's `directory`.
    """
    card = directory / "README.md"
    if not card.exists() and _ID.fullmatch(model) and not pathlib.Path(model).is_dir():
        try:
            card = pathlib.Path(hub.hf_hub_download(model, card.name, revision=revision or None))
        except (HTTPError, OSError):  # no card, or no network: the model's own page has it
            return "unknown"
    found = (hub.metadata_load(card) or {}) if card.exists() else {}
    return found.get("license") or "unknown"


def without_places(text: str, *known: str) -> str:
    """Cut absolute paths down to their last part: a card is for others.

    `known` are those that may hold blanks, where the end of a path in a text is unknown.

    >>> without_places("clipjax run root=/home/me/scans,source=a https://x.org/y gs://bucket/run")
    'clipjax run root=.../scans,source=a https://x.org/y gs://bucket/run'
    """
    for place in known:
        if place.startswith(("/", "~")):
            text = text.replace(place, f".../{pathlib.PurePath(place).name}")
    return re.sub(r"(^|[\s=,:'\"(])~?/(?:[^/\s,'\"]+/)*([^/\s,'\"]+)", r"\1.../\2", text)


def model_card(card: Card) -> str:
    """Return the text of README.md: metadata of the Hub, then the sections."""
    results, data = card.results, card.results["data"]
    name = results["model"] if _ID.fullmatch(results["model"]) else ""
    shown = name or pathlib.PurePath(results["model"]).name
    header = hub.ModelCardData(
        license=card.license,
        library_name="clipjax",
        base_model=name or None,
        pipeline_tag="zero-shot-image-classification" if card.texts else None,
        tags=["clip", "domain-adaptation", "clipjax", card.method],
        metrics=["accuracy"],
    )
    cut = lambda text: without_places(text, data["target"])
    rule = f"checkpoint by the rule `{results['selection']}`"
    how = f", seed {card.seed}, {rule}" if card.seed else ": CLIP as it came"
    listed = ", ".join(f"`{name}`" for name in card.classes)
    command, settings = results.get("command", ""), to_json(card.config, indent=2, sort_keys=True)
    parts = [
        f"---\n{header.to_yaml()}\n---",
        cut(f"# {shown} adapted: {data['source']} -> {data['target']} ({data['name']})"),
        cut(f"Method `{card.method}`{how}. Why this method: {card.why}."),
        cut(f"**Below zero-shot**: {card.below}. CLIP as it came is better there.")
        if card.below
        else "",
        f"Licence: {_license(card.license, shown)}",
        f"## Classes\n{len(card.classes)}, in the order of the probabilities: {listed}.",
        _template("clipjax"),
        _in_transformers(card),
        _in_onnx(card) if card.onnx else "",
        usage(card.preprocess.size, len(card.classes)).strip(),
        cut(f"## The run it comes from\n{card.tables}"),
        f"## Command\n```\n{cut(command)}\n```" if command else "",
        f"## Config\n```json\n{cut(settings)}\n```",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _license(name: str, base: str) -> str:
    if name == "unknown":
        return f"unknown here; that of {base}, whose weights are in it, applies. See its page."
    return f"{name}."


def _template(name: str, **values: Any) -> str:
    text = (ASSETS / "export" / f"{name}.md").read_text(encoding="utf-8").strip()
    return text.format(**values) if values else text


def _in_transformers(card: Card) -> str:
    if not card.affine:
        heads = card.heads
        parts = ["an adapter"] if heads.adapter is not None else []
        parts += ["an ensemble of class heads"] if heads.members > 1 else []
        parts += ["hidden layers"] if heads.classifier else []
        encoder = "as it was trained here" if card.trained_encoder else "**not adapted**"
        more = ", ONNX" if card.onnx else ""
        return _template("beyond", heads=" and ".join(parts), encoder=encoder, onnx=more)
    more = [_template("zero_shot", texts=repr(list(card.texts)))] if card.texts else []
    return "\n\n".join([_template("transformers"), *more])


def _in_onnx(card: Card) -> str:
    rules, kind = card.preprocess, _FILTERS.get(card.preprocess.resample, "PIL's filter")
    resize = "not resized"
    if isinstance(rules.resize, tuple):
        resize = f"resized to {rules.resize[0]} x {rules.resize[1]} ({kind})"
    elif rules.resize is not None:
        edge = rules.size if rules.resize == "size" else rules.resize
        resize = f"resized so that its shorter side has {edge} pixels ({kind})"
    return _template(
        "onnx",
        resize=resize,
        size=rules.size,
        rescale=rules.rescale,
        mean=list(rules.mean),
        std=list(rules.std),
        channels=card.clip.vision.num_channels,
        length=card.clip.text.max_position_embeddings,
    )
