"""A finished run's table, results.md and report.html once more, of the files that it left."""

import json
import pathlib

from clipjax.errors import ConfigError, DataError
from clipjax.evaluate import results as report
from clipjax.io import check_reachable, write_atomically
from clipjax.runtime.claim import claimed
from clipjax.study.export import recorded_config
from clipjax.study.prepared import RECORD
from clipjax.study.report_data import write_page


def write_again(workdir: pathlib.Path) -> tuple[dict, list[pathlib.Path]]:
    """Write a finished run's pages; return its results and the files. Nothing is computed.

    Raises:
      ConfigError: no finished run there, or it is running.
      DataError: one of its files is damaged.
    """
    check_reachable(workdir)
    if (results := report.read(workdir)) is None:
        raise ConfigError(f"{workdir} holds no finished run of a study; finish it first.")
    study, _ = recorded_config(workdir)
    with claimed(workdir):
        written = [workdir / "results.md"]
        write_atomically(written[0], report.markdown(results, workdir))
        try:
            found = json.loads((workdir / RECORD).read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{workdir / RECORD} cannot be read ({error}).") from error
        if "per_class" in found:  # a pair of a suite has no page
            write_page(study, found, results, workdir)
            written.append(workdir / "report.html")
    return results, written
