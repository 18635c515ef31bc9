"""PyTorch's side of `benchmarks.study`, as a competent user writes it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import study_uda
from benchmarks.study_jax import TWICE, clocks, study_of

if TYPE_CHECKING:
    from clipjax.study import MethodConfig, Training


def run_torch(task: str, file: str, threads: int, compiled: bool) -> dict:
    """Trains a task's runs, one after the other: warm seconds, accuracies.

    Args:
      task: of the benchmark.
      file: arrays that `study_jax.export_features` wrote.
      threads: of PyTorch.
      compiled: losses go through `torch.compile`.
    """
    import torch

    torch.set_num_threads(threads)
    with np.load(file) as arrays:
        data = {key: torch.from_numpy(np.array(x)) for key, x in arrays.items()}
    study = study_of(task)
    methods = {method.name: study_uda.losses(torch, method.loss) for method in study.trained}
    methods = {name: torch.compile(loss) if compiled else loss for name, loss in methods.items()}
    for _ in range(2 if task in TWICE else 1):
        began, found, warm = clocks(), [], 0.0
        with tempfile.TemporaryDirectory() as folder:
            for method in study.trained:
                seen = data if method.align == "none" else study_uda.aligned(data)
                for seed in study.training.seeds:
                    loss = methods[method.name]
                    run = torch_run(torch, loss, method, seed, study.training, seen)
                    found.append(run[0])
                    warm += run[1]
                    if task in TWICE:  # as clipjax does
                        torch.save(run[2], f"{folder}/{method.name}-{seed}.pt")
        spent = clocks() - began
    accuracy = np.array([answer() for answer in found])
    if task not in TWICE:
        return {"warm": warm, "accuracy": accuracy}
    return {"warm": spent[0], "processor": spent[1], "accuracy": accuracy}


def mlp(torch, widths: list[int]):
    """Linear layers with ReLU between them."""
    pairs = list(zip(widths, widths[1:], strict=False))
    layers = [layer for a, b in pairs for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    for layer in layers[::2]:  # initial values as Flax draws them
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        torch.nn.init.zeros_(layer.bias)
    return torch.nn.Sequential(*layers[:-1])


def make_parts(torch, heads, width: int, classes: int):
    """The networks of a method: adapter, class head and, if it has one, domain head."""
    adapter = torch.nn.Identity()
    if "adapter" in heads:
        adapter = torch.nn.Sequential(mlp(torch, [width, *heads["adapter"]]), torch.nn.ReLU())
        width = heads["adapter"][-1]
    parts = [adapter, mlp(torch, [width, *heads.get("classifier", ()), classes])]
    if "discriminator" in heads:
        parts.append(mlp(torch, [width, *heads["discriminator"], 2]))
    return torch.nn.ModuleList(parts)


def losses(torch) -> Callable:
    """`loss(parts, x, y, z, lam)`: of the classes and, with a domain head, of the domains."""
    entropy, reverse = torch.nn.functional.cross_entropy, reversal(torch)

    def loss(parts, x, y, z, lam):
        adapter, classify, *discriminate = parts
        seen = adapter(x)
        total = entropy(classify(seen), y, label_smoothing=0.1)
        if discriminate:
            both = torch.cat([seen, adapter(z)])
            domain = (torch.arange(len(both)) >= len(seen)).long()
            total = total + entropy(discriminate[0](reverse(both, lam)), domain)
        return total

    return loss


def torch_run(torch, loss, method: MethodConfig, seed: int, training: Training, data):
    """Trains one run; what tells its test accuracies, `study_jax.pace`, what to save."""
    torch.manual_seed(seed)
    x, y, z = data["source_train"], data["source_train_y"].long(), data["target_train"]
    parts = make_parts(torch, method.heads, x.shape[1], int(y.max()) + 1)
    params, size, epochs = list(parts.parameters()), method.batch_size, method.epochs
    (phase,) = method.phases
    optim, lam_max = phase.optim, phase.options.get("lam_max", 0.0)
    faster = dict(optim.lr_mults).get("discriminator", 1.0)
    rates = [{"params": part.parameters(), "lr": optim.lr} for part in parts]
    rates[2:] = [rate | {"lr": faster * optim.lr} for rate in rates[2:]]
    rates = [rate for rate, part in zip(rates, parts, strict=True) if list(part.parameters())]
    optimizer = torch.optim.AdamW(rates, weight_decay=optim.weight_decay, fused=True)
    steps, step = epochs * -(-len(x) // size), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        if epoch == epochs // 4:
            begun = time.perf_counter()
        one, two = torch.randperm(len(x)), torch.randperm(len(z))
        for at in range(0, len(x), size):
            rows, others = one[at : at + size], two[at : at + size]
            lam = torch.tensor(lam_max * np.tanh(5.0 * step / steps))
            value = loss(parts, x[rows], y[rows], z[others], lam)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(params, optim.clip_norm)
            optimizer.step()
            schedule.step()
            step += 1
    seconds = (time.perf_counter() - begun) * epochs / (epochs - epochs // 4)

    def hits():
        with torch.no_grad():
            answer = lambda k: parts[1](parts[0](data[k])).argmax(1)
            ends = ("source_test", "target_test")
            return [float((answer(k) == data[f"{k}_y"]).float().mean()) for k in ends]

    return hits, seconds, (parts.state_dict(), optimizer.state_dict())


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


def tables_torch() -> dict:
    """One epoch's features of transformers' CLIP, and what all runs and epochs take with them."""
    import torch
    from transformers import CLIPModel

    from benchmarks.memory import peak
    from clipjax.configs import tables
    from clipjax.model.hf.hub import find_model
    from clipjax.study import parse
    from clipjax.study.encode import encode_texts
    from clipjax.study.plan import prepare

    studies = [parse(tables.get_config(str(number)).to_dict()) for number in (3, 4, 5)]
    plan = prepare(studies[0])
    encoded, size = encode_texts(plan), studies[0].training.batch_size
    # Stored in half precision, which transformers would compute in: several times slower on CPUs
    # without units for it, and not what clipjax computes in.
    model = CLIPModel.from_pretrained(find_model("tiny"), dtype=torch.float32).eval()
    data = studies[0].data
    cost = {}
    for domain in (data.source_name, data.target):
        crops = encoded.crops(domain, "train")
        pixels = np.stack([crops[i] for i in range(len(crops))])
        pixels = torch.from_numpy(np.array(plan.preprocess.normalize(pixels))).permute(0, 3, 1, 2)
        costs = []
        for _ in range(2):
            before = time.perf_counter()
            with torch.no_grad():
                for at in range(0, len(pixels), size):
                    model.get_image_features(pixel_values=pixels[at : at + size])
            costs.append(time.perf_counter() - before)
        cost[domain] = min(costs)
    total = 0.0
    for study in studies:
        for method in study.trained:
            ends = [data.source_name] + [data.target] * (method.loss == "dann")
            total += len(study.training.seeds) * method.epochs * sum(cost[end] for end in ends)
    return {"s": total, "peak_gb": peak() / 1e9, "epoch_s": cost}
