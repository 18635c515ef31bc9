"""An estimator: CLIP adapted from labelled source images to unlabelled target images."""

import os
import pathlib
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

from clipjax.adapt.step import merge
from clipjax.api.data import Pair, open_pair
from clipjax.api.methods import entry_of
from clipjax.api.pretrained import Pretrained, encode_given, load
from clipjax.data.dataset import Dataset
from clipjax.data.given import Image
from clipjax.data.open import is_embedded
from clipjax.errors import ConfigError, DataError
from clipjax.evaluate.rows import best_seed, own_rows
from clipjax.io import as_path, write_atomically
from clipjax.io.texts import class_name, nfc
from clipjax.study.config import Study, parse
from clipjax.study.defaults import EMBEDDED, check_model, choices, settled
from clipjax.study.entries import FIELDS
from clipjax.study.export import export
from clipjax.study.fields import flat
from clipjax.study.parts import Encoder
from clipjax.study.prepared import Opened
from clipjax.study.restore import Trained
from clipjax.study.study import run, silent

# Fields of a study that a method's entry says itself.
_ENTRY = set(FIELDS) - {"loss", "data"}
_STUDY = set(flat(Study())) - _ENTRY - {"methods", "stages"}
_TEXTS = ("prompts", "class_names")  # fields of `Encoder` that do not change the model


class Adapter:
    """CLIP, adapted from labelled source images to unlabelled target images.

        model = Adapter("blend").fit(data, source="render", target="stencil")
        model.predict(["a.jpg", "b.jpg"])

    An estimator in scikit-learn's manner; masks and domains of arrays are skada's. A fitted one is
    a finished study in memory: `results_` holds what `clipjax.study.run` returns.

    Args:
      method: by name (`clipjax.api.methods.methods` lists them: "finetune", a head on the source,
        "dann", "blend", ...), or an entry of `clipjax.study.Study.methods`.
      model: what `clipjax.load` returns, or takes; the embedded data have one of their own.
      workdir: where the run's files stay, so that a fit that was killed goes on; None: nowhere.
      verbose: whether to print the lines of the command.
      settings: options of the method (`lam_max=0.3`), of its training (`epochs=20`,
        `optim={"lr": 1e-3}`), or fields of `clipjax.study.Study` (`seeds=(0, 1, 2)`); of several
        seeds the best on held-out source images predicts.

    Attributes of a fitted one: `classes_`, the names in the order of the probabilities;
    `results_`; `study_`, the config; `model_`.
    """

    def __init__(
        self,
        method: str | Mapping[str, Any] = "blend",
        model: str | os.PathLike | Pretrained = "",
        *,
        workdir: str | os.PathLike | None = None,
        verbose: bool = False,
        **settings: Any,
    ):
        self.method, self.model, self.workdir, self.verbose = method, model, workdir, verbose
        self.settings = settings

    def fit(
        self,
        X: Dataset | str | os.PathLike | Sequence[Image],
        y: Sequence[str] | Sequence[int] | None = None,
        *,
        source: str | Sequence[str] | None = None,
        target: str | os.PathLike | Sequence[Image] | None = None,
        sample_domain: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Self:
        """Adapt to a target's images, or fit to the source alone where none is given.

        Args:
          X: a dataset (`clipjax.open_dataset`) or its folder; or images: paths, encoded files, PIL
            images or arrays.
          y: of images, a class name for each, or its number in `classes`; -1 or None where the
            label is masked, as of target images.
          source: of a dataset, the labelled domain, or several.
          target: a domain of the dataset, or unlabelled images: a list, a folder, a pattern
            ("scans/*.png"). Labels of the target are never trained on.
          sample_domain: of images, above 0 for those of the source (a number each domain), below
            for those of the target; by default masked images are the target's.
          classes: names of the numbers in y.

        Raises:
          ClipjaxError: whatever cannot run, before anything expensive.
        """
        pair = open_pair(X, y, source, target, sample_domain, classes)
        study = self._study(pair)
        model, workdir = self._model(study.encoder), self.workdir
        if workdir is None:
            workdir = tempfile.mkdtemp(prefix="clipjax-")
            weakref.finalize(self, shutil.rmtree, workdir, ignore_errors=True)
        results = run(
            study,
            workdir,
            self._say,
            pages=self.workdir is not None,
            opened=Opened(pair.dataset, model.opened),
        )
        (name,) = study.stages
        if name not in results.trained:
            raise ConfigError(f"{name} reads labels of {study.data.target}, which has none.")
        self._name = name
        self._seed = best_seed(results.rows, self._name, study.data.source_name)
        trained = results.trained[self._name]
        self._params = merge(jax.tree.map(lambda x: x[self._seed], trained.params), trained.shared)
        self.classes_ = np.array(trained.view.encoded.plan.dataset.classes)
        self.study_, self.model_, self.results_ = study, model, results
        said = choices(study.data, study.encoder)
        for told in (*said, *(each["words"] for each in results.results["verdict"]["warnings"])):
            warnings.warn(told, stacklevel=2)
        return self

    def predict_proba(self, X: Sequence[Image]) -> np.ndarray:
        """Return class probabilities of images (as `Pretrained.encode_images`), float32 [N, K]."""
        trained = self._fitted()
        if trained.view.sees(self._params):  # an image tower of its own
            encode = lambda size: lambda pixels: trained.view.encode(self._params, pixels)
            width = self.model_.config.projection_dim
            features = encode_given(encode, X, self.model_.preprocess, width)
        else:
            features = self.model_.encode_images(X)
        logits = trained.answer(self._params, features)[0]
        return np.asarray(jax.nn.softmax(logits))

    def predict(self, X: Sequence[Image]) -> np.ndarray:
        """Return the most probable class of each image, by name [N]."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(axis=1)]

    def score(
        self,
        X: Sequence[Image] | None = None,
        y: Sequence[str] | Sequence[int] | None = None,
        *,
        domain: str | None = None,
    ) -> float:
        """Return the accuracy on images with labels, or on a domain's test images.

        Args:
          X, y: images, and a class name or number for each.
          domain: of the dataset; by default the target.

        Raises:
          DataError: there are no labels to measure by, or not one for each image.
        """
        self._fitted()
        if X is not None:
            if y is None:
                raise DataError("score needs labels; give y, a class for each image.")
            wanted, found = self._names(y), self.predict(X)
            if len(wanted) != len(found):
                fault = f"score got {len(found)} images and {len(wanted)} labels"
                raise DataError(f"{fault}; give one for each.")
            return float(np.mean(found == np.array(wanted)))
        return self._measured(self._name, domain)["accuracies"][self._seed]

    def zero_shot_score(self, domain: str | None = None) -> float:
        """Return the accuracy of the model as it came on a domain's (the target's) test images.

        ConfigError: the model has no text tower.
        """
        self._fitted()
        if self.model_.config.text is None:
            raise ConfigError(f"{self.model_.encoder.model} has no text tower, and no zero-shot.")
        return self._measured("zero_shot", domain)["accuracy_mean"]

    def save(
        self,
        directory: str | os.PathLike,
        *,
        onnx: bool = False,
        push_to: str = "",
        license: str = "",
    ) -> None:
        """Write the model as a directory for `clipjax.load_adapted` and transformers.

        The options are those of `clipjax export`: two ONNX files too, a model on the Hub that gets
        a copy ("owner/name"), the card's license.

        ConfigError: the directory exists, or the method has nothing that an export can hold.
        """
        self._fitted()
        seed = self.study_.training.seeds[self._seed]
        more = {"onnx": onnx, "push_to": push_to, "license": license, "say": self._say}
        export(self.results_.workdir, pathlib.Path(directory), self._name, seed, **more)

    def report(self, file: str | os.PathLike = "report.html") -> None:
        """Write the run's page, one file to look at offline."""
        self._fitted()
        page = self.results_.workdir / "report.html"
        if self.results_.draw and not page.exists():
            self.results_.draw(self.results_.workdir)
        if not page.exists():
            raise ConfigError(f"{page} was not kept; fit in another workdir.")
        write_atomically(as_path(file), page.read_bytes())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the estimator was made of, as scikit-learn does."""
        own = {key: getattr(self, key) for key in ("method", "model", "workdir", "verbose")}
        return own | self.settings

    def set_params(self, **params: Any) -> Self:
        """Change what the estimator is made of; it must be fitted again."""
        self.__init__(**self.get_params() | params)
        return self

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self.get_params())

    def __repr__(self) -> str:
        given = {
            k: v for k, v in self.get_params().items() if v not in (None, "") and v is not False
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"

    def _study(self, pair: Pair) -> Study:
        """Return the config of a fit."""
        name, entry = entry_of(self.method)
        given = {key: value for key, value in self.settings.items() if key not in _STUDY}
        if isinstance(given.get("optim"), Mapping):
            given["optim"] = entry.get("optim", {}) | given["optim"]
        fields = {key: value for key, value in self.settings.items() if key in _STUDY}
        name_of_data = pair.dataset.name
        if name_of_data in ("auto", *EMBEDDED) and not is_embedded(pair.dataset):
            name_of_data = "folder"  # called so by chance: model and prompts of the demo do not fit
        ends = {"name": name_of_data, "source": pair.source, "target": pair.target}
        ends["domains"] = pair.domains
        data = ends | dict(fields.pop("data", {}))
        encoder = self.model.encoder if isinstance(self.model, Pretrained) else Encoder()
        if not isinstance(self.model, Pretrained):
            fields = {"model": os.fspath(self.model), **fields}
        made = {"experiment": "adapter", "seeds": (0,), **flat(encoder), **fields, "data": data}
        methods = {name: entry | given}
        return settled(parse({**made, "methods": methods, "stages": (name,)}))

    def _model(self, encoder: Encoder) -> Pretrained:
        """Return the model that a study's encoder names, the one given where it is the same."""
        if isinstance(self.model, Pretrained):
            aside = lambda each: {k: v for k, v in flat(each).items() if k not in _TEXTS}
            if aside(self.model.encoder) == aside(encoder):
                return self.model
        check_model(encoder)
        return load(**flat(encoder))

    @property
    def _say(self) -> Callable[[str], None]:
        return print if self.verbose else silent

    def _fitted(self) -> Trained:
        if not hasattr(self, "_params"):
            raise ConfigError("this Adapter is not fitted; call fit first.")
        return self.results_.trained[self._name]

    def _names(self, y: Sequence) -> list[str]:
        """Return the class names that y means; DataError: one is masked, or no class."""
        number, y = dict(enumerate(self.classes_)), y.tolist() if hasattr(y, "tolist") else y
        known = {name: name for name in number.values()} | number
        wanted = [class_name(label) if isinstance(label, str) else label for label in y]
        for label in wanted:
            if label not in known:
                fault = f"y holds {label!r}, which is neither a class name nor its number"
                raise DataError(f"{fault}; leave images without a label out of score.")
        return [known[label] for label in wanted]

    def _measured(self, method: str, domain: str | None) -> dict[str, Any]:
        """Return the row of results of a domain's test images."""
        rows, domain = own_rows(self.results_.rows), nfc(domain or self.study_.data.target)
        if (method, domain) not in rows:
            known = ", ".join(d for m, d in rows if m == method)
            raise DataError(f"the run measured nothing on {domain!r}; it measured {known}.")
        row = rows[method, domain]
        if row["accuracy_mean"] is None or not np.isfinite(row["accuracy_mean"]):
            raise DataError(f"the test images of {domain!r} have no labels; give X and y.")
        return row
