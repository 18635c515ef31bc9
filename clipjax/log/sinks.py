"""Trackers of experiments that get a run's numbers: TensorBoard, Weights & Biases, MLflow."""

import hashlib
import importlib.util
import os
import pathlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from clipjax.errors import ConfigError


class About(NamedTuple):
    """What a tracker may say of the numbers it gets."""

    method: str  # whose they are, the first where several train together
    title: str  # all of them
    run: str  # the same when a killed run goes on
    folder: pathlib.Path  # for files of trackers
    config: Mapping[str, Any]  # field -> value


class Sink(Protocol):
    """Takes numbers while a run makes them."""

    def write(self, place: str, values: Mapping[str, float], step: int) -> None:
        """Take numbers by name; `place` is a phase, of the step's own count: "dann/seed0"."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Events in a folder for each method; steps that a resumed run repeats are there twice."""

    def __init__(self, about: About):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(about.folder / about.method), flush_secs=10)

    def write(self, place: str, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(f"{place}/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases for each method, grouped by run; WANDB_MODE and such are obeyed."""

    def __init__(self, about: About):
        import wandb

        about.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "clipjax"),
            id=_key(about),
            name=about.title,
            group=about.run,
            dir=str(about.folder),
            config=dict(about.config),
            resume="allow" if _sends(wandb) else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._known: set[str] = set()

    def write(self, place: str, values: Mapping[str, float], step: int) -> None:
        """Log numbers over the step of their phase: W&B's own only ever rises."""
        if place not in self._known:
            self._known.add(place)
            self._run.define_metric(f"{place}/step", hidden=True)
            self._run.define_metric(f"{place}/*", step_metric=f"{place}/step")
        named = {f"{place}/{name}": value for name, value in values.items()}
        self._run.log(named | {f"{place}/step": step})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _sends(wandb: Any) -> bool:
    """Return whether W&B talks to a server, and not to files alone."""
    return wandb.setup().settings.mode in ("online", "shared")


class MLflow:
    """A run of MLflow for each method, at MLFLOW_TRACKING_URI or in a database of the workdir."""

    def __init__(self, about: About):
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            about.folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(about.folder / 'mlflow.db').absolute()}"
        self._client = MlflowClient(uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "clipjax")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        # A run that was killed goes on.
        tag = {"clipjax.key": _key(about)}
        before = self._client.search_runs([experiment], f"tags.`clipjax.key` = '{_key(about)}'")
        self._run = before[0].info.run_id if before else self._begin(experiment, about, tag)

    def _begin(self, experiment: str, about: About, tag: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        tags = {**tag, "clipjax.run": about.run}
        run = self._client.create_run(experiment, tags=tags, run_name=about.title).info.run_id
        fields = [Param(_legal(key), str(value)[:500]) for key, value in about.config.items()]
        for i in range(0, len(fields), 100):  # the most that MLflow takes at once
            self._client.log_batch(run, params=fields[i : i + 100])
        return run

    def write(self, place: str, values: Mapping[str, float], step: int) -> None:
        """Log numbers, all at once."""
        from mlflow.entities import Metric

        now, named = int(1000 * time.time()), {_legal(f"{place}/{k}"): v for k, v in values.items()}
        metrics = [Metric(name, value, now, step) for name, value in named.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Say that it is finished."""
        self._client.set_terminated(self._run)


def _key(about: About) -> str:
    """Return what a run that goes on is found by."""
    return hashlib.sha256(f"{about.run}/{about.method}".encode()).hexdigest()[:16]


def _legal(name: str) -> str:
    """Replace what MLflow's names cannot have.

    >>> _legal("dann lr=0.1/loss")
    'dann lr_0.1/loss'
    """
    return re.sub(r"[^\w\-. :/]", "_", name)


class Tracker(NamedTuple):
    """A kind of sink: how it opens, and the package that it needs."""

    open: Callable[[About], Sink]
    package: str  # to import


TRACKERS = {
    "tensorboard": Tracker(TensorBoard, "tensorboardX"),
    "wandb": Tracker(WandB, "wandb"),
    "mlflow": Tracker(MLflow, "mlflow"),
}


def names(text: str) -> tuple[str, ...]:
    """Split names of trackers.

    >>> names("wandb, tensorboard"), names("")
    (('wandb', 'tensorboard'), ())
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check(text: str) -> None:
    """Raise ConfigError for trackers that cannot work: no package, or W&B without a login."""
    for name in names(text):
        if importlib.util.find_spec(TRACKERS[name].package) is None:
            what = f"config.track={name} needs {TRACKERS[name].package}"
            raise ConfigError(f"{what}: pip install 'clipjax[{name}]'.")
        if name == "wandb":
            import wandb

            if _sends(wandb) and not wandb.login(prompt=False):
                told = "config.track=wandb needs a login: run `wandb login`"
                raise ConfigError(f"{told}, or set WANDB_MODE=offline to keep it in the workdir.")
