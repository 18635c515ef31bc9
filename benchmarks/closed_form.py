"""Closed-form fits on many features: seconds against what NumPy and scikit-learn take, and memory.

    python -m benchmarks.closed_form [--n=60000]

Source and target have N features of 512 float32 each, 345 classes, in memory-mapped files that are
written in blocks. Each fit is a process of its own, timed the second time (the first compiles);
`--once` times the first, where a fit takes minutes. NumPy's, SciPy's and scikit-learn's sides:

- products: what no fit of this kind can leave out, the covariances of both domains and the classes'
  sums (a sparse product).
- debias, stata: the same formulas in NumPy, by blocks; of StatA one round, times the rounds.
- gda: LinearDiscriminantAnalysis(solver="lsqr"), on the source alone, without debiasing.
- logistic, blend: the loss and its gradient in NumPy, by blocks, once, times 22: what L-BFGS takes
  here. `sklearn_logistic` is LogisticRegression, lbfgs, which stops at a coarser tolerance.

Seconds are by the clock and of the processor, ratios of both; these agree where nothing else runs.
Memory: a process's own peak (heaps and the like), and that with the pages of files that lay in
memory, which the system takes back when it needs them. Linux only.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from absl import app, flags

WIDTH, CLASSES, BLOCK = 512, 345, 8192
OURS = ("debias", "gda", "logistic", "stata", "blend")
SIDES = {"debias": "numpy_debias", "gda": "sklearn_gda", "logistic": "numpy_logistic"}
SIDES |= {"stata": "numpy_stata", "blend": "numpy_logistic"}  # beside whom each of ours stands
# Of StatA ten rounds with the source's images and ten without; of logistic its evaluations.
ROUNDS = {"numpy_stata": 20, "numpy_logistic": 22}

_N = flags.DEFINE_integer("n", 600_000, "Features of each domain.")
_TASKS = flags.DEFINE_list(
    "tasks",
    "products,numpy_debias,debias,sklearn_gda,gda,numpy_logistic,logistic,blend,numpy_stata,stata",
    "Which, in this order; sklearn_logistic too.",
)  # fmt: skip
_ONCE = flags.DEFINE_bool("once", False, "Time the first call of each, with its compilation.")
_TASK = flags.DEFINE_string("task", "", "Of a started process.")
_FOLDER = flags.DEFINE_string("folder", "", "Of the files; by default one that is removed.")


def status(name: str) -> float:
    """Gigabytes that /proc/self/status says."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024 / 1e9


class Peak:
    """The most memory of its own that this process had, looked at a hundred times a second."""

    def __init__(self):
        self.own = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.own = max(self.own, status("RssAnon"))
            time.sleep(0.01)


def blocks(*arrays: np.ndarray):
    """Rows of arrays, by blocks."""
    for first in range(0, len(arrays[0]), BLOCK):
        yield tuple(x[first : first + BLOCK] for x in arrays)


def write_features(folder: pathlib.Path, name: str, seed: int) -> None:
    """Writes unit features about a centre for each class."""
    file = folder / f"{name}.npy"
    if file.exists():
        return
    centres = np.random.default_rng(9).standard_normal((CLASSES, WIDTH), np.float32)
    rng, half = np.random.default_rng(seed), folder / f"{name}.half.npy"
    made = np.lib.format.open_memmap(half, "w+", np.float32, (_N.value, WIDTH))
    for rows, labels in blocks(made, labels_of(_N.value)):
        rows[:] = 3 * rng.standard_normal(rows.shape, np.float32) + centres[labels]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made.flush()
    half.rename(file)


def labels_of(count: int) -> np.ndarray:
    """Labels int32 [N], each class as often."""
    return (np.arange(count) % CLASSES).astype(np.int32)


def texts() -> np.ndarray:
    """Class texts float32 [K, P] of length 1."""
    found = np.random.default_rng(7).standard_normal((CLASSES, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ours(name: str, x: np.ndarray, labels: np.ndarray, target: np.ndarray):
    """A fit to call."""
    import importlib

    import jax

    from clipjax.adapt.method import Classes
    from clipjax.study.closed_form import in_float32

    classes = Classes(tuple(map(str, range(CLASSES))), None, texts(), 100.0)
    method = importlib.import_module(f"clipjax.adapt.{name}").make_method(None, classes)
    part = {"inputs": in_float32(x), "label": in_float32(labels)}  # as a study hands them over
    data = {"source": part, "target": {"inputs": in_float32(target)}}
    return lambda: jax.block_until_ready(method.fit(data, classes))


def softmax(z: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in place."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def numpy_debias(target: np.ndarray) -> np.ndarray:
    """Zero-shot's mean prediction on the target."""
    kernel = 100 * texts().T
    return sum(softmax(rows @ kernel).sum(axis=0) for (rows,) in blocks(target)) / len(target)


def numpy_stata(target: np.ndarray) -> list[np.ndarray]:
    """One round of StatA's assignments and sums."""
    kernel, quadratic = 100 * texts().T, np.full((WIDTH, CLASSES), -5.0, np.float32)
    total = [0.0, 0.0, 0.0]
    for (rows,) in blocks(target):
        squares = rows**2
        own = softmax(rows @ kernel + squares @ quadratic)
        found = own.sum(axis=0), own.T @ rows, own.T @ squares
        total = [a + b for a, b in zip(total, found, strict=True)]
    return total


def numpy_logistic(x: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The summed cross-entropy of a linear head and its gradient, once."""
    kernel, value, gradient = texts().T.copy(), 0.0, np.zeros((WIDTH, CLASSES), np.float32)
    for rows, own in blocks(x, labels):
        p, each = softmax(rows @ kernel), np.arange(len(rows))
        value -= float(np.log(p[each, own]).sum())
        p[each, own] -= 1
        gradient += rows.T @ p
    return value, gradient


def products(x: np.ndarray, labels: np.ndarray, target: np.ndarray) -> None:
    """Both covariances' products and the classes' sums."""
    from scipy.sparse import csr_array

    for rows, own, others in blocks(x, labels, target):
        csr_array((np.ones(len(own), np.float32), (own, np.arange(len(own))))) @ rows
        rows.T @ rows  # NumPy's own symmetric product
        others.T @ others


def theirs(name: str, x: np.ndarray, labels: np.ndarray, target: np.ndarray):
    """A fit of another library to call."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression

    return {
        "products": lambda: products(x, labels, target),
        "numpy_debias": lambda: numpy_debias(target),
        "numpy_stata": lambda: numpy_stata(target),
        "numpy_logistic": lambda: numpy_logistic(x, labels),
        "sklearn_gda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01).fit(
            x, labels
        ),
        "sklearn_logistic": lambda: LogisticRegression(C=0.02, max_iter=30).fit(x, labels),
    }[name]


def measure(name: str) -> None:
    """Prints seconds and memory of one task as JSON."""
    folder, peak = pathlib.Path(_FOLDER.value), Peak()
    x, target = (np.load(folder / f"{end}.npy", mmap_mode="r") for end in ("source", "target"))
    call = (ours if name in OURS else theirs)(name, x, labels_of(len(x)), target)
    for _ in range(1 if _ONCE.value else 2):
        start, begun = time.perf_counter(), time.process_time()
        call()
        times = time.perf_counter() - start, time.process_time() - begun
    seconds, processor = (one * ROUNDS.get(name, 1) for one in times)
    found = {"s": seconds, "processor": processor, "own": peak.own, "peak": status("VmHWM")}
    print(json.dumps(found))


def run(folder: str) -> None:
    """Prints a line for each task."""
    for seed, end in enumerate(("source", "target")):
        write_features(pathlib.Path(folder), end, seed)
    found = {}
    for name in _TASKS.value:
        command = [sys.executable, "-m", "benchmarks.closed_form", f"--n={_N.value}"]
        command += [f"--task={name}", f"--folder={folder}", f"--once={_ONCE.value}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:18} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        told = json.loads(done.stdout.splitlines()[-1])
        found[name] = told
        parts = [f"{name:16} {told['s']:8.3f} s, processor {told['processor']:8.3f}"]
        for other in ("products", SIDES.get(name)):
            if other in found and other != name:
                times = (told[key] / found[other][key] for key in ("s", "processor"))
                parts.append(f"{' and '.join(f'{t:.2f}' for t in times)} x {other}")
        parts.append(f"own memory {told['own']:.2f} GB, with files {told['peak']:.2f}")
        print(", ".join(parts), flush=True)


def main(_) -> None:
    """Measures one task, or starts all of them."""
    if _TASK.value:
        return measure(_TASK.value)
    if _FOLDER.value:
        return run(_FOLDER.value)
    with tempfile.TemporaryDirectory() as folder:
        run(folder)


if __name__ == "__main__":
    app.run(main)
