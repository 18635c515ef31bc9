"""Closed-form fits on many features: seconds against what NumPy and scikit-learn take, and memory.

    python -m benchmarks.closed_form [--n=60000]

Source and target have N features of 512 float32 each, 345 classes. Each fit is a process of its
own, timed the second time (the first compiles). "products" are NumPy's matrix products that no fit
of this kind can leave out: the covariances of both domains and the classes' sums. scikit-learn's
side is LinearDiscriminantAnalysis and LogisticRegression (lbfgs, as many steps as ours needed) on
features mapped before. Linux only.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

WIDTH, CLASSES = 512, 345
OURS = ("debias", "logistic", "gda", "blend", "stata")
THEIRS = ("products", "sklearn_gda", "sklearn_logistic")

_N = flags.DEFINE_integer("n", 600_000, "Features of each domain.")
_TASKS = flags.DEFINE_list(
    "tasks", "products,debias,gda,logistic,stata,blend,sklearn_gda", "Which."
)
_TASK = flags.DEFINE_string("task", "", "Of a started process.")


def peak() -> float:
    """Gigabytes this process ever had in memory at once."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def features(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit features about a centre for each class, and labels; made in place."""
    centres = np.random.default_rng(9).standard_normal((CLASSES, WIDTH), np.float32)
    rng, labels = np.random.default_rng(seed), (np.arange(_N.value) % CLASSES).astype(np.int32)
    x = rng.standard_normal((_N.value, WIDTH), np.float32)
    for first in range(0, len(x), 8192):
        rows = x[first : first + 8192]
        rows *= 3
        rows += centres[labels[first : first + 8192]]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return x, labels


def ours(name: str, x: np.ndarray, labels: np.ndarray, target: np.ndarray):
    """A fit to call."""
    import importlib

    import jax

    from clipjax.adapt.method import Classes

    texts = np.random.default_rng(7).standard_normal((CLASSES, WIDTH)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    classes = Classes(tuple(map(str, range(CLASSES))), None, texts, 100.0)
    method = importlib.import_module(f"clipjax.adapt.{name}").make_method(None, classes)
    # As a study hands them over; without a copy where memory is aligned.
    part = {"inputs": jax.numpy.asarray(x), "label": jax.numpy.asarray(labels)}
    data = {"source": part, "target": {"inputs": jax.numpy.asarray(target)}}
    return lambda: jax.block_until_ready(method.fit(data, classes))


def theirs(name: str, x: np.ndarray, labels: np.ndarray, target: np.ndarray):
    """A fit of another library to call."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression

    if name == "products":
        hot = np.zeros((8192, CLASSES), np.float32)
        hot[np.arange(8192), labels[:8192]] = 1
        sums = lambda: [hot[: len(r)].T @ r for r in np.array_split(x, -(-len(x) // 8192))]
        return lambda: (x.T @ x, target.T @ target, sums())
    if name == "sklearn_gda":
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01)
    else:
        model = LogisticRegression(C=0.02, max_iter=30)
    return lambda: model.fit(x, labels)


def measure(name: str) -> None:
    """Prints seconds and memory of one task as JSON."""
    (x, labels), (target, _) = features(0), features(1)
    made = peak()
    call = (ours if name in OURS else theirs)(name, x, labels, target)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"first": seconds[0], "second": seconds[1], "peak": peak(), "made": made}))


def main(_) -> None:
    """Prints a line for each task."""
    if _TASK.value:
        return measure(_TASK.value)
    found = {}
    for name in _TASKS.value:
        command = [sys.executable, "-m", "benchmarks.closed_form", f"--n={_N.value}"]
        done = subprocess.run([*command, f"--task={name}"], capture_output=True, text=True)
        if done.returncode:
            print(f"{name:18} failed: {done.stderr.strip().splitlines()[-1:]}")
            continue
        found[name] = told = json.loads(done.stdout.splitlines()[-1])
        products = found.get("products", {}).get("second", float("nan"))
        ratio = told["second"] / products
        print(
            f"{name:18} {told['second']:8.3f} s (first {told['first']:.2f}), {ratio:6.2f} x the "
            f"products, peak {told['peak']:.2f} GB, of which features {told['made']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
