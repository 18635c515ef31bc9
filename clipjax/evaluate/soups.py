"""What is said of model soups."""

from collections.abc import Mapping

import numpy as np


def sentences(results: Mapping) -> list[str]:
    """Say of each soup what is in it."""
    said = []
    for name, found in (results.get("soups") or {}).items():
        of, taken = [len(soup["of"]) for soup in found], [len(soup["taken"]) for soup in found]
        counts = f"{', '.join(map(str, taken))} of {of[0]} runs" + ", a seed" * (len(found) > 1)
        best = np.mean([max(run["source_val"] for run in soup["of"]) for soup in found])
        mean = np.mean([soup["source_val"] for soup in found])
        said.append(
            f"{name}: {counts}; on validation images of the source {100 * mean:.1f} %, the best "
            f"run in it {100 * best:.1f} %"
        )
    return said
