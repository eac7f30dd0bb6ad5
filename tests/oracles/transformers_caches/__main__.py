"""Measure the types that `transformers` knows, and write the table."""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import sys
import warnings
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402

from .measure import Measured, measure  # noqa: E402
from .models import generates  # noqa: E402
from .passes import ENCODER_TOKENS  # noqa: E402
from .rows import COLUMNS, row  # noqa: E402


def measured_row(model_type: str) -> dict[str, str]:
    """Measure one type; an error of the measurement itself becomes its note."""
    torch.set_num_threads(1)
    try:
        result = measure(model_type)
    except Exception as error:
        result = Measured(model_type, notes=[f"{type(error).__name__}: {error}"])
    return row(result, ENCODER_TOKENS)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the table, in order of type, below a line that names the measured versions."""
    versions = f"# transformers {transformers.__version__}, torch {torch.__version__}"
    with path.open("w", newline="") as file:
        file.write(versions.partition("+")[0] + "\n")
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(sorted(rows, key=lambda r: r["model_type"]))


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table by type; none where the table is missing."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        next(file)  # the versions
        return {r["model_type"]: r for r in csv.DictReader(file)}


def options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the table to write or to complete")
    parser.add_argument("--type", action="append", help="measure this type (again)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    return parser.parse_args()


def main() -> None:
    """Measure the named types, or all that the table lacks; write after each one."""
    given = options()
    rows = read(given.out)
    known = list(transformers.CONFIG_MAPPING.keys())
    types = given.type or sorted(set(known) - set(rows), key=lambda t: (not generates(t), t))
    context = multiprocessing.get_context("fork")  # the children inherit what is imported
    with context.Pool(given.jobs, maxtasksperchild=20) as pool:
        for count, done in enumerate(pool.imap_unordered(measured_row, types), start=1):
            rows[done["model_type"]] = done
            write(given.out, list(rows.values()))
            sys.stderr.write(f"{count}/{len(types)} {done['model_type']} {done['status']}\n")


if __name__ == "__main__":
    main()
