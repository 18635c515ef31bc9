"""A run's images: through the frozen encoder once, or as pixels where the encoder trains."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import Classes
from clipjax.data.dataset import Part, Source
from clipjax.data.derived import Subset
from clipjax.data.features import cache as feats
from clipjax.data.features.encode import ImageEncoder
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.image_cache import Crops
from clipjax.errors import DataError
from clipjax.io import default_cache_dir
from clipjax.model.clip import CLIP, CLIPConfig, normalize, tell_clamped
from clipjax.model.text import check_class_weights, class_weights, without_padding
from clipjax.study.config import Study
from clipjax.study.elsewhere import elsewhere_domains
from clipjax.study.epochs import training_rows
from clipjax.study.evaluations import tested_domains
from clipjax.study.needs import check_unreadable
from clipjax.study.parts import Data
from clipjax.study.plan import (
    evaluated,
    needed_parts,
)
from clipjax.study.prepared import Plan, shape_classes
from clipjax.study.text_cache import digest_of, kept
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import batch_mesh, deal_out, replicate

PIXELS_IN_MEMORY = 1 << 30  # bytes of decoded images that a run keeps, training parts first


class Encoded(NamedTuple):
    """A dataset seen through the frozen encoder, and the way to its pixels."""

    parts: dict[Part, feats.Features]
    # `NoTexts` instead of these three where the model has no text tower.
    text_weights: jax.Array  # [K, P]: zero-shot class weights
    scale: float  # CLIP's factor on cosine similarities
    tokens: np.ndarray  # int32 [K, prompts, T]: the classes' prompts
    plan: Plan
    rows: dict[Part, np.ndarray]  # which examples of a source the features are of, where not all
    open_crops: dict[tuple, Crops]  # those asked for so far
    others: Mapping[str, Any] = {}  # an `Encoded` of test images for each of `study.evaluations`
    elsewhere: Any = None  # that of the dataset of `study.forgetting`
    # A teacher's logits float32 [N, K] of each part but tests; none without a teacher.
    taught: Mapping[Part, np.ndarray] = {}

    def source(self, domain: str, split: str) -> Source:
        """The examples of a part, row by row those of its features."""
        source = self.plan.dataset.source(domain, split)
        rows = self.rows.get((domain, split))
        return source if rows is None else Subset(source, rows)

    @property
    def classes(self) -> Classes:
        """The classes' texts, as methods take them."""
        names = tuple(self.plan.dataset.classes)
        return Classes(names, self.tokens, self.text_weights, self.scale, self.plan.bare)

    @property
    def has_texts(self) -> bool:
        """Whether the model has a text tower, and so a zero-shot classifier."""
        return self.plan.module.config.text is not None

    def zero_shot(self, features: np.ndarray) -> np.ndarray:
        """Return CLIP's own logits of features [N, P], float32 [N, K]."""
        weights = np.asarray(self.text_weights, np.float32)
        return self.scale * np.asarray(features, np.float32) @ weights.T

    @property
    def study(self) -> Study:
        """The config of the run."""
        return self.plan.study

    def labelled_rows(self, data: Data) -> np.ndarray | None:
        """Return which of the source's training features this data takes; None for all."""
        labels = self.parts[data.labelled, "train"].labels
        cut = getattr(self.source(data.labelled, "train"), "uncut", None)
        return training_rows(data, labels, self.plan.dataset.classes, cut)

    def crops(self, domain: str, split: str, data: Data | None = None) -> Crops:
        """Return a part's pixels, decoded once where they fit; of `data`'s labelled examples."""
        rows = None if data is None else self.labelled_rows(data)
        key = (domain, split, None if rows is None else rows.tobytes())
        if key not in self.open_crops:
            source = self.source(domain, split)
            source = source if rows is None else Subset(source, rows)
            left = PIXELS_IN_MEMORY - sum(crops.kept_bytes for crops in self.open_crops.values())
            self.open_crops[key] = Crops(source, self.plan.preprocess, memory_bytes=left)
        return self.open_crops[key]


def encode_texts(plan: Plan) -> Encoded:
    """Encode the classes' texts alone; raise CheckpointError if they cannot be told apart."""
    if plan.module.config.text is None:
        _, tokens, weights, scale, _ = shape_classes(plan)
        return Encoded({}, weights, scale, tokens, plan, {}, {})
    weights = text_weights(plan, plan.tokens)
    scale = float(plan.module.apply({"params": plan.params}, method="scale"))
    return Encoded({}, weights, scale, without_padding(plan.tokens), plan, {}, {})


def text_weights(plan: Plan, tokens: np.ndarray) -> jax.Array:
    """Return zero-shot class weights float32 [K, P] of token ids [K, prompts, T], kept once made.

    CheckpointError: classes cannot be told apart by them.
    """
    # Parameters are arguments: as constants of the program they would be in memory twice.
    encode_text = jax.jit(functools.partial(plan.module.apply, method="encode_text"))
    encode_one = functools.partial(encode_text, {"params": plan.params})
    key = {"tokens": digest_of(tokens), "dtype": plan.study.encoder.compute_dtype}
    make = lambda: class_weights(encode_one, tokens)
    weights = jnp.asarray(kept(plan.study.features, key | plan.identity, make))
    check_class_weights(weights, plan.model)
    return weights


def image_encoder(
    module: CLIP, params: Any, preprocess: Preprocess, batch_size: int
) -> Callable[[np.ndarray], jax.Array]:
    """Return uint8 images [B, S, S, 3] -> float32 [B, P] of length 1, on all accelerators."""
    # On CPU on one device, so that cached features are the same bits on every machine.
    devices = jax.local_devices()
    devices = devices[:1] if devices[0].platform == "cpu" else devices
    mesh = batch_mesh(batch_size, devices)
    params = replicate(params, mesh)

    @jax.jit
    def encode_image(params, pixels):
        pixels = preprocess.normalize(pixels)
        return normalize(module.apply({"params": params}, pixels, method="encode_image"))

    return lambda images: encode_image(params, deal_out(images, mesh))


def weights_key(identity: Mapping[str, Any], config: CLIPConfig, compute_dtype: str) -> str:
    """Return what identifies an encoder to the feature cache."""
    # The config too: an activation or a number of heads changes features, and no weight.
    return f"{identity['weights']} {config.vision} {compute_dtype}"


def encode(plan: Plan, say) -> Encoded:
    """Encode what the run needs, or read it from the feature cache."""
    study, say = plan.study, once(say)
    encoder = _encoder_of(plan)
    if "logit_scale" in plan.params and (told := tell_clamped(float(plan.params["logit_scale"]))):
        say(told)
    found = _encode_parts(plan, needed_parts(study, plan.dataset), encoder, say)
    images = sum(len(part.labels) for part in found.parts.values())
    domains, classes = len(evaluated(study, plan.dataset)), len(plan.dataset.classes)
    say(f"features of {images} images, {domains} domains, {classes} classes")
    others = {}
    for name, other in plan.others.items():
        domains = tested_domains(other.dataset, evaluated(study, plan.dataset))
        tests = [(domain, "test") for domain in domains]
        there = [part for part in tests if len(other.dataset.source(*part))]
        others[name] = _encode_parts(other, there, encoder, say)
    elsewhere = plan.elsewhere
    if elsewhere is not None:
        tests = [(domain, "test") for domain in elsewhere_domains(study, elsewhere.dataset)]
        elsewhere = _encode_parts(elsewhere, tests, encoder, say)
    taught = {}
    if (teacher := plan.teacher) is not None:
        there = [part for part in found.parts if part[1] != "test"]
        seen = _encode_parts(teacher, there, _encoder_of(teacher), say)
        _check_same_rows(found, seen)
        taught = {part: seen.zero_shot(own.features) for part, own in seen.parts.items()}
    return found._replace(others=others, elsewhere=elsewhere, taught=taught)


def _check_same_rows(one: Encoded, other: Encoded) -> None:
    """Raise DataError for images that a model or its teacher alone can read: rows would shift."""
    for part in other.parts:
        rows = [
            each.rows.get(part, np.arange(len(each.parts[part].labels))) for each in (one, other)
        ]
        if apart := np.setxor1d(*rows).tolist():
            image = one.plan.dataset.source(*part).name_of(apart[0])
            told = (
                "model and teacher crop images to sizes of their own, and one of them cannot read"
            )
            raise DataError(f"{told} {len(apart)} of {'/'.join(part)}, as {image}; remove these.")


def _encoder_of(plan: Plan) -> ImageEncoder:
    """Make the encoder of a plan's model."""
    features, workers = plan.study.features, plan.study.data.workers
    encode_image = image_encoder(plan.module, plan.params, plan.preprocess, features.batch_size)
    return ImageEncoder(encode_image, plan.preprocess, features.batch_size, features.dtype, workers)


def _encode_parts(plan: Plan, needed: Sequence[Part], encoder: ImageEncoder, say) -> Encoded:
    """Encode these parts of a plan's data, and its classes' texts."""
    study, features, texts = plan.study, plan.study.features, encode_texts(plan)
    cache = features.cache_dir or default_cache_dir() / "features"
    key = weights_key(plan.identity, plan.clip_config, study.encoder.compute_dtype)
    parts, rows, skipped = {}, {}, []
    allowed = study.data.max_unreadable * sum(len(plan.dataset.source(*p)) for p in needed)
    for domain, split in needed:
        found = encode_shared(
            encoder,
            plan.dataset.source(domain, split),
            weights=key,
            cache_dir=cache if features.cache else None,
            model=study.encoder.model,
            say=say,
            most_skipped=int(allowed) - len(skipped),
        )
        skipped += found.skipped
        if found.skipped:
            rows[domain, split] = found.rows
        # Training features stay mapped; the others are few and go through many measures.
        parts[domain, split] = found.features if split == "train" else in_float32(found.features)
    images = sum(len(part.labels) for part in parts.values())
    if told := check_unreadable(skipped, images, study.data.max_unreadable):
        say(told)
    return texts._replace(parts=parts, rows=rows)


def once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a `say` that repeats no line, whatever it says after " ("."""
    said: set[str] = set()

    def say_new(line: str) -> None:
        told = line.partition(" (")[0]
        if told not in said:
            said.add(told)
            say(line)

    return say_new


def encode_shared(encoder: ImageEncoder, source: Source, **options) -> feats.EncodedSource:
    """Return `cached_features` of a source; processes encode and cache a share each."""
    index, count = processes.place()
    if count == 1 or len(source) < count:  # too few to share: everyone for himself
        return feats.cached_features(encoder, source, **options)
    mine = np.arange(index, len(source), count)
    found = processes.together(
        lambda: feats.cached_features(encoder, Subset(source, mine), **options)
    )
    features = np.asarray(found.features.features)
    shares = processes.gather((features, mine[found.rows], found.skipped))
    rows = np.concatenate([rows for _, rows, _ in shares])
    order = np.argsort(rows)
    features = np.concatenate([features for features, _, _ in shares])[order]
    labels = np.asarray(source.labels, np.int32)[rows[order]]
    skipped = tuple(entry for _, _, entries in shares for entry in entries)
    return feats.EncodedSource(feats.Features(features, labels), rows[order], skipped)


def in_float32(part: feats.Features) -> feats.Features:
    """Return features as everything but training takes them."""
    return part._replace(features=np.asarray(part.features, np.float32))
