"""Losses of adaptation in PyTorch, for `benchmarks.study`: as a competent user writes them."""

from __future__ import annotations

from collections.abc import Callable

METHODS = ("head_aligned", "dann_aligned", "deep_coral", "dan", "mcc")  # of configs/uda.py


def aligned(data: dict) -> dict:
    """Features of both domains, each by the mean and deviation of its own training images."""
    found = dict(data)
    for end in ("source", "target"):
        train = data[f"{end}_train"]
        mean, deviation = train.mean(0), train.std(0, correction=0)
        for split in ("train", "test"):
            found[f"{end}_{split}"] = (data[f"{end}_{split}"] - mean) / deviation
    return found


def deep_coral(torch) -> Callable:
    """Squared distance of covariances, over 4 d^2."""
    return lambda f, g: ((torch.cov(f.T) - torch.cov(g.T)) ** 2).mean() / 4


def mmd(torch) -> Callable:
    """Multi-kernel MMD over pairs of different examples, widths around the median distance."""

    def loss(f, g):
        both = torch.cat([f, g])
        off = ~torch.eye(len(both), dtype=torch.bool)
        distances = torch.cdist(both, both) ** 2
        scale = distances[off].median().detach()
        kernel = sum(torch.exp(-distances / (2 * w * scale)) for w in (0.125, 0.25, 0.5, 1.0, 2.0))
        source = torch.arange(len(both)) < len(f)
        mean = lambda a, b: kernel[off & a[:, None] & b].mean() / 5
        return mean(source, source) + mean(~source, ~source) - 2 * mean(source, ~source)

    return loss


def mcc(torch) -> Callable:
    """Minimum class confusion of target logits, temperature 2.5."""

    def loss(logits):
        p = torch.softmax(logits / 2.5, 1)
        sure = 1 + torch.exp((p * torch.log(p.clamp_min(1e-12))).sum(1)).detach()
        confusion = (p * (sure / sure.mean())[:, None]).T @ p
        confusion = confusion / confusion.sum(1, keepdim=True)
        return (confusion.sum() - confusion.trace()) / len(confusion)

    return loss


def losses(torch, name: str) -> Callable:
    """`loss(parts, x, y, z, lam)` of a method's loss: the class loss and its own term."""
    from benchmarks.study_torch import losses as plain

    if name in ("finetune", "dann"):
        return plain(torch)
    term = {"coral": deep_coral, "mmd": mmd, "mcc": mcc}[name](torch)

    def loss(parts, x, y, z, lam):
        adapter, classify = parts
        f, g = adapter(x), adapter(z)
        value = torch.nn.functional.cross_entropy(classify(f), y, label_smoothing=0.1)
        return value + (term(classify(g)) if name == "mcc" else term(f, g))

    return loss
