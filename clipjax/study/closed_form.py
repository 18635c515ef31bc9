"""Methods without steps: fitted at once on cached features, kept as trained ones are."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import ClosedForm
from clipjax.errors import CheckpointError, DataError, NonFiniteError
from clipjax.io import as_path, write_json
from clipjax.study.encode import Encoded
from clipjax.study.evaluator import View
from clipjax.study.examples import Examples
from clipjax.study.recipe import Programs, method_key, texts_key
from clipjax.study.restore import Trained, find_non_finite
from clipjax.study.workdir import run_name
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.restore import restore_params

PyTree = Any
NAMES = "variants.json"  # beside the checkpoint, in its order


class Fit:
    """Fits a closed form; of a run that goes on it reads what was fitted."""

    def __init__(self, names: tuple[str], encoded: Encoded, workdir, programs: Programs):
        self.names, self.encoded, self.title = names, encoded, names[0]
        self.method, classes = encoded.plan.methods[self.title], encoded.classes
        # As an earlier run made it, if one did: its fit keeps what it has compiled.
        key = method_key(self.method), classes.names
        self.kind: ClosedForm = programs.once(("fit", key), lambda: self.method.kind)
        self.answer_for = lambda classes: programs.once(
            ("answer", key, *texts_key(classes)),
            lambda: jax.jit(functools.partial(_answer, self.kind, classes)),
        )
        self.answer = self.answer_for(classes)
        self.folder = as_path(workdir) / "checkpoints" / self.title
        self.run = run_name(as_path(workdir))
        self.described = f"fit {self.title}: closed form"

    def train(self, say: Callable[[str], None] = lambda line: None) -> dict[str, Trained]:
        """Return the method's variants, fitted or read.

        NonFiniteError for NaN, DataError for data that the method does not fit.

        It takes seconds: `say` is told nothing.
        """
        if (found := self._saved()) is None:
            data = Examples((self.method.data,), self.encoded).features(self.kind.reads)
            try:
                fitted = self.kind.fit(jax.tree.map(in_float32, data), self.encoded.classes)
            except ValueError as error:  # data that its formulas do not fit
                if "." in self.method.config.loss:  # of a user's own module, who wants to see it
                    raise
                raise DataError(f"methods.{self.title}: {error}") from error
            found = {name: jax.device_get(params) for name, params in fitted.items()}  # in order
            if where := find_non_finite(found):
                told = f"the closed form {self.title!r} gives NaN or infinity in {where}"
                raise NonFiniteError(f"{told}; regularise it more to make it solvable.")
            with Checkpointer(self.folder, keep=1, run=self.run) as checkpointer:
                checkpointer.save(1, {"params": list(found.values())})
            if processes.is_first():  # last: where it is, the rest is whole
                write_json(self.folder / NAMES, list(found))
        return {self.title: self._trained(found)}

    def restored(self) -> dict[str, Trained]:
        """Return what `train` returned, read back; raise CheckpointError if it was not fitted."""
        if (found := self._saved()) is None:
            raise CheckpointError(f"{self.folder} has no fit of {self.title!r}; run it first.")
        return {self.title: self._trained(found)}

    def _saved(self) -> dict[str, PyTree] | None:
        file = self.folder / NAMES
        read = lambda: json.loads(file.read_text()) if file.exists() else None
        if (names := processes.from_first(read)) is None:
            return None
        return dict(zip(names, jax.device_get(restore_params(self.folder)), strict=True))

    def _trained(self, found: dict[str, PyTree]) -> Trained:
        seeds = len(self.encoded.study.training.seeds)
        repeat = lambda x: np.repeat(np.asarray(x)[None], seeds, axis=0)
        variants = {name: jax.tree.map(repeat, params) for name, params in found.items()}
        history: list[list[dict]] = [[] for _ in range(seeds)]
        return Trained(
            self.answer, View(self.encoded), variants, {}, history, answer_for=self.answer_for
        )


def in_float32(x: np.ndarray) -> jax.Array:
    """Return an array, floats as float32; on a CPU a mapped file of float32 is not copied."""
    x = jax.device_put(np.asarray(x))
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _answer(kind: ClosedForm, classes, params, features):
    logits = kind.predict(params, features, classes)
    return logits, logits[None], features
