"""The frozen study against PyTorch: the same heads, data, epochs and accuracies on both sides.

    python -m benchmarks.study                    grid, single and tables on the embedded data
    python -m benchmarks.study --tasks=grid       one of them
    python -m benchmarks.study --tasks=photos     224-pixel JPEGs and ViT-B/32, random weights

Every measurement is a process of its own, the sides in alternation, `--rounds` of each. `cold`
is a whole process, from its start to accuracies: imports, reading features, compilation (what XLA
compiled is kept between starts, as in every run). `warm` is training alone once that is done: all
epochs at the pace of those after the first quarter.

- grid: configs/sweep.py, 24 runs of a head and DANN; single: one DANN run. PyTorch trains on the
  same cached features, run after run, AdamW fused, with the thread count that is fastest here.
- tables: Tables 3 to 5, 3 seeds. clipjax encodes the images and trains; timed from an empty feature
  cache. PyTorch as the report does it: features anew in every epoch. One epoch's features of both
  domains are measured and the total is computed: runs x epochs x that. Its training is not counted.
- photos: images a second of decoding, cropping and encoding on both sides; totals are computed.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

STARTED = time.perf_counter()

import numpy as np  # noqa: E402
from absl import app, flags, logging  # noqa: E402

_TASKS = flags.DEFINE_list("tasks", ["grid", "single", "tables"], "grid, single, tables, photos.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Processes of each side.")
_IMAGES = flags.DEFINE_integer("images", 128, "JPEGs of the task photos.")
_SIDE = flags.DEFINE_string("side", "", "Of a started process: jax or torch.")
_THREADS = flags.DEFINE_integer("threads", 0, "Of PyTorch; 0: the fastest of 1 and all.")
_FILE = flags.DEFINE_string("file", "", "Features that a started process reads.")


def config_of(task: str):
    """The config whose work a task is."""
    from configs import dann, sweep

    config = sweep.get_config() if task == "grid" else dann.get_config()
    if task == "single":
        config.stages, config.seeds = ("dann",), (0,)
    return config


def points_of(task: str) -> list[tuple[str, float, float]]:
    """(stage, learning rate, lambda) of every setting of a task."""
    from experiments.sweep import settings

    config = config_of(task)
    found = settings(config).values() or [(stage, {}) for stage in config.stages]
    lam = config.methods.dann.lam_max
    return [
        (stage, own.get("optim.lr", config.optim.lr), own.get("methods.dann.lam_max", lam))
        for stage, own in found
    ]


def export_features(path: pathlib.Path) -> None:
    """Writes the embedded data's features for PyTorch; fills clipjax's cache."""
    from experiments.encode import encode
    from experiments.plan import prepare

    config = config_of("grid")
    encoded = encode(config, prepare(config), lambda line: None)
    arrays = {}
    for end in ("source", "target"):
        for split in ("train", "test"):
            part = encoded.parts[config.data[end], split]
            arrays[f"{end}_{split}"], arrays[f"{end}_{split}_y"] = part.features, part.labels
    np.savez(path, **arrays)


def run_jax(task: str) -> dict:
    """clipjax's program for the task: trains, saves a checkpoint, answers on both tests."""
    from experiments.machine import keep_compiled, keep_memory, use_cores

    keep_memory()
    use_cores()
    keep_compiled()
    from clipjax.log import read_log
    from experiments.encode import encode
    from experiments.plan import prepare
    from experiments.train import trainers

    config = config_of(task)

    plan = prepare(config)
    encoded = encode(config, plan, lambda line: None)
    with tempfile.TemporaryDirectory() as workdir:
        found = [jax_team(t, config, encoded) for t in trainers(config, plan, encoded, workdir)]
        warm = pace(read_log(pathlib.Path(workdir) / "metrics.jsonl"), config.epochs)
    return measured(warm, np.concatenate(found))


def pace(records: list[dict], epochs: int) -> float:
    """Seconds that all epochs take at the pace of those after the first quarter."""
    calls: dict[tuple, list[float]] = {}  # the methods of a program have the same times
    for record in records:
        if record["epoch"] > epochs // 4:
            calls.setdefault((record["epoch"], record["s_per_epoch"]), []).append(1)
    return sum(seconds for _, seconds in calls) * epochs / (epochs - epochs // 4)


def measured(warm: float, accuracies: np.ndarray) -> dict:
    """What a process says of itself."""
    from benchmarks.memory import peak

    return {
        "cold": time.perf_counter() - STARTED,
        "warm": warm,
        "peak_gb": peak() / 1e9,
        "accuracy": np.asarray(accuracies).reshape(-1, 2).mean(axis=0).round(4).tolist(),
    }


def jax_team(trainer, config, encoded) -> np.ndarray:
    """Trains the runs of one program; test accuracy [runs, 2] on source and target."""
    import jax

    from clipjax.train.arrays import fit_arrays

    states = trainer.start()
    states = jax.jit(jax.vmap(functools.partial(trainer.begin, 0, True)))(states)
    one = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), states.params)
    with trainer.checkpointer(trainer.method.phases[0]) as checkpointer:
        states = fit_arrays(
            functools.partial(trainer.step, 0, trainer.network.model, one),
            states,
            trainer.training_features(),
            epochs=config.epochs,
            batch_size=config.batch_size,
            phase=list(trainer.names),
            checkpointer=checkpointer,
            log=trainer.log,
            save_every=config.save_every,
            sampling=trainer.sampling,
            mesh=trainer.mesh,
        )
    answer = jax.jit(jax.vmap(trainer.network.predict, in_axes=(0, None)))
    tests = [encoded.parts[domain, "test"] for domain in (config.data.source, config.data.target)]
    hits = [np.asarray(answer(states.params, x)).argmax(-1) == y for x, y in tests]
    return np.stack([hit.mean(axis=1) for hit in hits], axis=1)


def run_torch(task: str, file: str) -> dict:
    """The same of PyTorch, run after run."""
    import torch

    if _THREADS.value:
        torch.set_num_threads(_THREADS.value)
    config, points = config_of(task), points_of(task)
    with np.load(file) as arrays:
        data = {key: torch.from_numpy(np.array(x)) for key, x in arrays.items()}

    found, warm = [], 0.0
    for stage, lr, lam in points:
        for seed in config.seeds:
            accuracy, seconds = torch_run(torch, stage, lr, lam, seed, config, data)
            found.append(accuracy)
            warm += seconds
    return measured(warm, np.array(found))


def torch_mlp(torch, widths: list[int]):
    """Linear layers with ReLU between them."""
    pairs = list(zip(widths, widths[1:], strict=False))
    layers = [layer for a, b in pairs for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    for layer in layers[::2]:  # initial values as Flax draws them
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        torch.nn.init.zeros_(layer.bias)
    return torch.nn.Sequential(*layers[:-1])


def torch_run(torch, stage: str, lr: float, lam_max: float, seed: int, config, data):
    """Trains one run; test accuracy on source and target, and `pace`."""
    torch.manual_seed(seed)
    heads = config.methods[stage].heads
    x, y, z = data["source_train"], data["source_train_y"].long(), data["target_train"]
    classes, reverse = int(y.max()) + 1, reversal(torch)
    adapter, width = torch.nn.Identity(), x.shape[1]
    if "adapter" in heads:
        adapter = torch.nn.Sequential(torch_mlp(torch, [width, *heads.adapter]), torch.nn.ReLU())
        width = heads.adapter[-1]
    classify = torch_mlp(torch, [width, *heads.classifier, classes])
    parts = [adapter, classify]
    if stage == "dann":
        parts.append(torch_mlp(torch, [width, *heads.discriminator, 2]))
    params = [p for part in parts for p in part.parameters()]
    decay, size = config.optim.weight_decay, config.batch_size
    optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=decay, fused=True)
    steps, step = config.epochs * -(-len(x) // size), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    entropy = torch.nn.functional.cross_entropy
    for epoch in range(config.epochs):
        if epoch == config.epochs // 4:
            begun = time.perf_counter()
        one, two = torch.randperm(len(x)), torch.randperm(len(z))
        for at in range(0, len(x), size):
            seen = adapter(x[one[at : at + size]])
            answer = classify(seen)
            loss = entropy(answer, y[one[at : at + size]], label_smoothing=0.1)
            if stage == "dann":
                lam = lam_max * np.tanh(5.0 * step / steps)
                both = torch.cat([seen, adapter(z[two[at : at + size]])])
                domain = (torch.arange(len(both)) >= len(seen)).long()
                loss = loss + entropy(parts[2](reverse(both, lam)), domain)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, config.optim.clip_norm)
            optimizer.step()
            schedule.step()
            step += 1
    seconds = (time.perf_counter() - begun) * config.epochs / (config.epochs - config.epochs // 4)
    with torch.no_grad():
        hits = [
            float((classify(adapter(data[k])).argmax(1) == data[f"{k}_y"]).float().mean())
            for k in ("source_test", "target_test")
        ]
    return hits, seconds


def reversal(torch):
    """Gradient reversal as an autograd function."""

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, lam):
            ctx.lam = lam
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -ctx.lam * gradient, None

    return Reverse.apply


def tables_jax() -> dict:
    """Tables 3 to 5 from an empty feature cache, each through the experiments' study."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"CLIPJAX_CACHE": folder, "CI": "true"}
        command = [sys.executable, "-m", "experiments.suite", "--tables=3,4,5"]
        before = time.perf_counter()
        subprocess.run([*command, f"--workdir={folder}/run"], env=env, check=True, stdout=-3)
        return {"s": time.perf_counter() - before}


def tables_torch() -> dict:
    """One epoch's features of transformers' CLIP, and what all runs and epochs take with them."""
    import torch
    from transformers import CLIPModel

    from clipjax.model.hub import find_model
    from configs import tables
    from experiments.encode import encode_texts
    from experiments.plan import prepare

    configs = [tables.get_config(str(number)) for number in (3, 4, 5)]
    plan = prepare(configs[0])
    encoded = encode_texts(configs[0], plan)
    model = CLIPModel.from_pretrained(find_model("tiny")).eval()
    data = configs[0].data
    cost = {}
    for domain in (data.source, data.target):
        crops = encoded.crops(domain, "train")
        pixels = np.stack([crops[i] for i in range(len(crops))])
        pixels = torch.from_numpy(np.array(plan.preprocess.normalize(pixels))).permute(0, 3, 1, 2)
        costs = []
        for _ in range(2):
            before = time.perf_counter()
            with torch.no_grad():
                for at in range(0, len(pixels), configs[0].batch_size):
                    model.get_image_features(pixel_values=pixels[at : at + configs[0].batch_size])
            costs.append(time.perf_counter() - before)
        cost[domain] = min(costs)
    total = 0.0
    for config in configs:
        for stage in config.stages:
            ends = [data.source] + [data.target] * (config.methods[stage].loss == "dann")
            total += len(config.seeds) * config.epochs * sum(cost[end] for end in ends)
    return {"s": total, "epoch_s": cost}


def photos(side: str, count: int) -> dict:
    """Images a second from JPEG bytes to features of a random ViT-B/32."""
    import io

    from PIL import Image

    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 255, (47, 63, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((500, 375), Image.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    call = photos_jax(files) if side == "jax" else photos_torch(files)
    call()  # compiles
    before = time.perf_counter()
    call()
    return {"images_per_s": count / (time.perf_counter() - before)}


def photos_jax(files: list[bytes]):
    """Ours: decode, crop and encode once."""
    import jax

    from benchmarks.encode import SIZES
    from clipjax.data.preprocess import Preprocess
    from clipjax.model.clip import CLIP
    from clipjax.model.hf_params import abstract_params

    config, preprocess = SIZES["ViT-B/32"], Preprocess(size=224)
    rng = np.random.default_rng(0)
    make = lambda x: np.asarray(rng.normal(0, 0.02, x.shape), np.float32)  # noqa: E731
    params = jax.tree.map(make, abstract_params(config))
    module = CLIP(config)

    @jax.jit
    def encode(params, pixels):
        pixels = preprocess.normalize(pixels)
        return module.apply({"params": params}, pixels, method="encode_image")

    def call():
        pixels = np.stack([preprocess.crop(file) for file in files])
        for at in range(0, len(pixels), 64):
            jax.block_until_ready(encode(params, pixels[at : at + 64]))

    return call


def photos_torch(files: list[bytes]):
    """transformers: PIL, its image processor, its model."""
    import io

    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection(CLIPVisionConfig()).eval()
    processor = CLIPImageProcessor()

    def call():
        with torch.no_grad():
            for at in range(0, len(files), 64):
                images = [Image.open(io.BytesIO(f)).convert("RGB") for f in files[at : at + 64]]
                model(**processor(images=images, return_tensors="pt"))

    return call


def start(task: str, side: str, *options: str) -> dict:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.study", f"--tasks={task}", f"--side={side}"]
    env = os.environ | {"CI": "true", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([*command, *options], check=True, env=env, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def best_threads(file: str) -> int:
    """PyTorch's fastest thread count on one DANN run."""
    counts = sorted({1, os.cpu_count() or 1})
    cost = {n: start("single", "torch", f"--file={file}", f"--threads={n}") for n in counts}
    return min(counts, key=lambda n: cost[n]["warm"])


def alternate(task: str, rounds: int, options: dict[str, list[str]]) -> None:
    """Prints medians of both sides and of their paired ratios."""
    found: dict[str, list[dict]] = {"jax": [], "torch": []}
    for _ in range(rounds):
        for side, results in found.items():
            results.append(start(task, side, *options.get(side, [])))
            print(f"  {task} {side} {json.dumps(results[-1])}", flush=True)
    for key in [k for k, v in found["jax"][0].items() if isinstance(v, float)]:
        ours, theirs = ([r[key] for r in found[side]] for side in ("jax", "torch"))
        up = key == "images_per_s"
        ratios = sorted(a / b if up else b / a for a, b in zip(ours, theirs, strict=True))
        print(
            f"{task:7} {key:12} clipjax {statistics.median(ours):9.2f}  PyTorch "
            f"{statistics.median(theirs):9.2f}  ratio {statistics.median(ratios):7.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )
    for side, results in found.items():
        for key in ("accuracy", "epoch_s"):
            if key in results[0]:
                print(f"{task:7} {key} of {side}: {results[0][key]}", flush=True)


def main(argv: list[str]) -> None:
    """Does the task of a started process, or starts all of them."""
    del argv
    logging.set_verbosity(logging.WARNING)
    if side := _SIDE.value:
        (task,) = _TASKS.value
        if task == "photos":
            found = photos(side, _IMAGES.value)
        elif task == "tables":
            found = tables_jax() if side == "jax" else tables_torch()
        else:
            found = run_jax(task) if side == "jax" else run_torch(task, _FILE.value)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "features.npz"
        options: dict[str, list[str]] = {}
        if {"grid", "single"} & set(_TASKS.value):
            export_features(file)
            threads = _THREADS.value or best_threads(str(file))
            print(f"PyTorch: {threads} threads", flush=True)
            options = {
                side: [f"--file={file}", f"--threads={threads}"] for side in ("jax", "torch")
            }
        for task in _TASKS.value:
            more = options if task in ("grid", "single") else {}
            alternate(task, _ROUNDS.value, more)


if __name__ == "__main__":
    app.run(main)
