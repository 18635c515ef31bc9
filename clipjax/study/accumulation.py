"""What a segmentation run cannot do in batches of a size, or in microbatches."""

from typing import Any


def accumulation_problem(config: Any) -> str:
    """Return what of a `Segmentation` does not fit its `accumulate`; "" for nothing."""
    count, methods = config.accumulate, config.decoders
    told = f"batch_size={config.batch_size} in accumulate={count} microbatches"
    one = told if count > 1 else f"batch_size={config.batch_size}"
    if config.batch_size % count:
        return f"{told} cannot be dealt out evenly; choose a divisor."
    for method in methods:
        where = f"methods.{method.name}"
        if method.control == "shuffled" and config.batch_size == count:
            why = f"leaves {where}.control=shuffled no other image to take W from"
            return f"{one} {why}; take {'fewer' if count > 1 else '2 or more'}."
        if count == 1:
            continue
        if method.stats == "batch":
            return f"{where}.stats=batch is of a whole batch; take accumulate=1."
        own = method.labels == "teacher" and config.teacher.self_training < 1
        if own and config.class_weights != "none" and config.normaliser == "weights":
            why = "weighs labels that are made in the step"
            return f"{where} {why}, and accumulate={count} knows the batch's before; take 1."
    return ""
