"""Measures methods: while they train, for picking a checkpoint, and at the end."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import Classes
from clipjax.adapt.method import Method as Functions
from clipjax.adapt.step import merge
from clipjax.data.dataset import Part
from clipjax.data.features.cache import Features
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import NonFiniteError
from clipjax.evaluate import select
from clipjax.evaluate.choice import Candidate
from clipjax.evaluate.metrics import accuracy_if_labelled
from clipjax.evaluate.rows import CLASSES
from clipjax.evaluate.valley import LOSS
from clipjax.io.finite import is_finite
from clipjax.study.encode import Encoded, in_float32
from clipjax.study.fields import is_number
from clipjax.study.measured import groups_of, present, row_of, score
from clipjax.study.parts import Data
from clipjax.study.scored import candidate, distance, distances, known, label_free, mixval, scored
from clipjax.study.text_cache import digest_of
from clipjax.study.training import PhaseConfig
from clipjax.train.distributed import processes, sharding

PROBE = 256  # images a domain for the ratio of gradients
KEPT_BYTES = 1 << 28  # of features that a method's own encoder gave, kept for whoever asks again


class View:
    """A method's features of any part, per seed: cached ones, or its own encoder's."""

    def __init__(self, encoded: Encoded, embed: Callable | None = None):
        """`embed`: (params, uint8 pixels [B, S, S, 3]) -> embeddings [B, P], compiled.

        Of a method that has an encoder of its own.
        """
        self.encoded, self.encode = encoded, embed
        if embed is None:
            return
        # The last validation, results and predictions are of the same parameters.
        self._kept: dict[tuple, Features] = {}  # by parameters' digests and part, oldest first
        self._placed: tuple = None, ()  # parameters and their digests
        study = encoded.study
        self.batch_size, self.workers = study.features.batch_size, study.data.workers
        devices = sharding.batch_mesh(self.batch_size).devices
        # What does not fit on one device in training does not fit here either.
        fsdp = math.gcd(devices.size, study.devices.mesh.fsdp)
        self.mesh = sharding.make_mesh(devices.reshape(-1), fsdp)

    def over(self, encoded: Encoded) -> "View":
        """Return the same encoder over the parts of an evaluation of other classes."""
        other = copy.copy(self)
        other.encoded, other._kept = encoded, {}  # parts of one name are other images
        return other

    def features(self, params, part: Part) -> Features:
        """Return a part's features under one seed's parameters; processes share the encoding."""
        if not self.sees(params):
            return self.encoded.parts[part]
        key = *self._placed[1], part
        if params is not self._placed[0]:
            return self._encoded(params, part)
        if key not in self._kept:
            self._kept[key] = self._encoded(params, part)
        found = self._kept[key]
        while sum(each.features.nbytes for each in self._kept.values()) > KEPT_BYTES:
            self._kept.pop(next(iter(self._kept)))
        return found

    def _encoded(self, params, part: Part) -> Features:
        """Encode a part's images; processes share the work."""
        crops = self.encoded.crops(*part)
        encode = lambda images: self.encode(params, sharding.deal_out(images, self.mesh))
        place = processes.place()
        if len(crops) < place[1]:  # too few to share
            place = (0, 1)
        mine = crops.encode(encode, self.batch_size, workers=self.workers, process=place)
        found = np.empty((len(crops), mine.shape[1]), np.float32)
        for index, rows in enumerate(processes.gather(mine) if place[1] > 1 else [mine]):
            found[index :: place[1]] = rows
        return Features(found, crops.labels)

    def sees(self, params) -> bool:
        """Return whether there is an image tower; not while features are still cached."""
        return self.encode is not None and "vision" in params.get("clip", {})

    def placed(self, params):
        """Put one seed's parameters where `features` wants them: an encoder on all devices."""
        if not self.sees(params):
            return params
        placed = sharding.place(params, sharding.state_shardings(params, self.mesh))
        self._placed = placed, tuple(map(digest_of, jax.tree.leaves(params)))
        return placed


class Validation:
    """Measures candidates for selection: every rule's score, and what each candidate is worth."""

    def __init__(self, functions: Functions, validate: Callable, view: View):
        """`functions`: of the method over cached embeddings; `validate`: their `validator`."""
        self.view, self._measures = view, validate
        self.source = view.encoded.study.data.source_name
        self.diagnoses = functions.diagnose is not None

    def measure(self, runs: Sequence[tuple[PhaseConfig, str]], stacked, shared) -> dict[str, list]:
        """Return measures of stacked parameters, each a list over runs, (phase, target domain)."""
        stacked = jax.device_get(stacked)
        params = lambda i: merge(jax.tree.map(lambda x: x[i], stacked), shared)
        each, ends = zip(*(self._one(*run, params(i)) for i, run in enumerate(runs)), strict=True)
        found = {key: [one[key] for one in each] for key in each[0]}
        return found | {"proxy_a_distance": distances(ends)}

    def _one(self, phase: PhaseConfig, target: str, params) -> tuple[dict[str, float | None], list]:
        """Return a run's measures, and its features of both validation parts."""
        placed = self.view.placed(params)
        parts = {
            f"{end}_{split}": self.view.features(placed, (domain, split))
            for end, domain in (("source", self.source), ("target", target))
            for split in ("val", "test")
        }
        given = {key: value for key, value in phase.options.items() if is_number(value)}
        weigh = given if self.diagnoses and given.get("domain_weight") != 0 else None
        found, answers, adapted = self._measures(params, parts, weigh)
        # A program of its own, which methods of any kind share.
        found = found | label_free(answers[0], parts["source_val"].labels, answers[1])
        found, adapted = jax.device_get((found, adapted))
        entropy = found["negative_entropy"]  # of all answers: finite where they are
        check_answers(phase.name, "validation images", entropy, *adapted)
        return {key: known(value) for key, value in found.items()}, adapted


def check_answers(method: str, what: str, *arrays) -> None:
    """Raise NonFiniteError for NaN or infinity, which argmax would call class 0."""
    if not all(map(is_finite, arrays)):
        remedy = "lower optim.lr, or set compute_dtype to float32."
        raise NonFiniteError(f"{method} gives NaN or infinity for {what}; {remedy}")


def validator(functions: Functions, classes: Classes) -> Callable:
    """Return (params, features of validation and test parts, options) -> measures; compiled.

    One program for everything: one by one, these operations cost more than they compute.
    """
    return jax.jit(functools.partial(_validate, functions, classes))


def _validate(functions: Functions, classes: Classes, params, parts: dict, given: dict | None):
    """Return scalars of one candidate, its logits and its features of both validation parts."""
    predict = lambda features: functions.predict(params, features, classes)
    logits = {name: predict(part.features) for name, part in parts.items()}
    hits = {name: accuracy_if_labelled(logits[name], part.labels) for name, part in parts.items()}
    hits["oracle"] = hits.pop("target_val")
    source, target = parts["source_val"], parts["target_val"]
    found = hits | {"mixval": mixval(predict, target.features)}
    found[LOSS] = _loss(logits["source_val"], source.labels)
    adapted = [_adapted(functions, params, part.features) for part in (source, target)]
    if given is not None:
        batch = {
            "source": {"inputs": source.features[:PROBE], "label": source.labels[:PROBE]},
            "target": {"inputs": target.features[:PROBE]},
        }
        found |= functions.diagnose(params, batch, given)
    return found, [logits["source_val"], logits["target_val"]], adapted


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of the examples that have a label; NaN if none has one."""
    known = labels != NO_LABEL
    weight = known / jnp.mean(known)
    return smoothed_cross_entropy(logits, jnp.where(known, labels, 0), weight=weight)


def _adapted(functions: Functions, params, features: jax.Array) -> jax.Array:
    """Return what a method compares domains in, of embeddings [B, P]."""
    return features if functions.features is None else functions.features(params, features, None)


class Outcome(NamedTuple):
    """A method's answers to the test images of source and target, and what chooses among methods.

    `candidate` is of validation images; None of further variants, and where none were encoded.
    """

    distances: list[float | None]  # proxy A-distance per seed
    logits: np.ndarray  # of the target, [seeds, N, K]
    features: tuple[np.ndarray, np.ndarray] | None  # of both, first seed; None where still CLIP's
    candidate: Candidate | None


def _cached_ends(encoded: Encoded, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return CLIP's own test features of source and target."""
    return tuple(encoded.parts[end, "test"].features for end in (data.source_name, data.target))


def zero_shot_outcome(encoded: Encoded) -> Outcome:
    """Return the outcome of CLIP without training."""
    data = encoded.study.data
    ends, zero_shot = _cached_ends(encoded, data), encoded.zero_shot
    held = [(name, "val") for name in (data.source_name, data.target)]
    parts = [encoded.parts[part] for part in held if part in encoded.parts]
    answered = [(part, zero_shot(part.features)) for part in parts]
    predict = lambda x: jnp.asarray(zero_shot(x))
    # Of a run without methods nothing is to be chosen, and no validation image is encoded.
    own = candidate([scored(predict, *answered)]) if len(parts) == len(held) else None
    return Outcome([distance(*ends)], zero_shot(ends[1])[None], ends, own)


def measure_method(name: str, trained, data: Data, encoded: Encoded) -> tuple[list[dict], Outcome]:
    """Return rows per domain, split and variant of a `Trained`, and its own result's outcome."""
    found = [_measure_variant(name, trained, v, data, encoded) for v in trained.variants]
    return [row for rows, _ in found for row in rows], found[0][1]


def _measure_variant(name: str, trained, variant: str, data: Data, encoded: Encoded) -> tuple:
    stacked, view = jax.device_get(trained.variants[variant]), trained.view
    source, target = (data.source_name, "test"), (data.target, "test")
    held = [(name, "val") for name in (data.source_name, data.target)]
    found: dict[Part, list[dict]] = {part: [] for part in encoded.parts if part[1] != "train"}
    logits, ends, seeds = [], [], []
    own = variant == next(iter(trained.variants))
    for i in range(len(jax.tree.leaves(stacked)[0])):
        params = merge(jax.tree.map(lambda x: x[i], stacked), trained.shared)  # noqa: B023
        placed, adapted, kept = view.placed(params), {}, {}
        for part in found:
            images = view.features(placed, part)
            *answers, seen = trained.answer(params, images.features)
            check_answers(name, "/".join(part), *answers, seen)
            about = groups_of(encoded, *part), present(encoded, part[0])
            found[part].append(score(*answers, images.labels, *about))
            if part in (source, target):
                adapted[part] = np.asarray(seen)
            if part in held:
                kept[part] = images, np.asarray(answers[0])
            if part == target:
                logits.append(np.asarray(answers[0]))
        ends.append((adapted[source], adapted[target]))
        if own:
            predict = lambda x: trained.answer(params, x)[0]  # noqa: B023
            seeds.append(scored(predict, *(kept[part] for part in held)))
    rows = [row_of(name, key, each, encoded.parts[key], variant) for key, each in found.items()]
    same = all(map(np.array_equal, ends[0], _cached_ends(encoded, data)))
    features, own = None if same else ends[0], candidate(seeds) if own else None
    return rows, Outcome(distances(ends), np.stack(logits), features, own)


def answerer(functions: Functions, classes: Classes) -> Callable:
    """Return (params, embeddings) -> logits, the members' logits, adapted features; compiled."""

    def answer(params, features):
        logits = functions.predict(params, features, classes)
        members = functions.members and functions.members(params, features, classes)
        members = logits[None] if members is None else members
        return logits, members, _adapted(functions, params, features)

    return jax.jit(answer)


def zero_shot_rows(encoded: Encoded, asked: str = CLASSES) -> list[dict]:
    """Return zero-shot results of every encoded test and validation part, and of whole domains.

    Those of the evaluations of other classes follow; `asked` is the name of one. [] of a model
    without texts.
    """
    if not encoded.has_texts:
        return []
    parts = {key: part for key, part in encoded.parts.items() if key[1] != "train"}
    splits = {key: key[1:] for key in parts}  # that a row is of
    if encoded.study.whole_domains and asked == CLASSES:
        for domain in dict.fromkeys(domain for domain, _ in encoded.parts):
            pieces = {s: in_float32(part) for (d, s), part in encoded.parts.items() if d == domain}
            columns = (np.concatenate(column) for column in zip(*pieces.values(), strict=True))
            parts[domain, "all"], splits[domain, "all"] = Features(*columns), tuple(pieces)
    rows = []
    for key, part in parts.items():
        logits = jnp.asarray(encoded.scale * part.features @ encoded.text_weights.T)
        groups = groups_of(encoded, key[0], *splits[key])
        among = present(encoded, key[0])
        scores = [score(logits, logits[None], part.labels, groups, among)]
        rows.append(row_of("zero_shot", key, scores, part, classes=asked))
    for name, other in encoded.others.items():
        rows += zero_shot_rows(other, name)
    return rows


def rule_table(history: list[list[dict]]) -> dict[str, dict]:
    """Return {rule: {"epoch", "source" and "target" test accuracy of its pick: each per seed}}.

    Rules whose score is missing (too few images) are left out.
    """
    table = {}
    for rule in select.RULES:
        if rule == "last" or all(e.get(rule) is not None for es in history for e in es):
            picked = [select.select(entries, rule) for entries in history]
            columns = {"epoch": "epoch", "source": "source_test", "target": "target_test"}
            table[rule] = {k: [entry[key] for entry in picked] for k, key in columns.items()}
    return table
