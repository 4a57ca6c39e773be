"""Readers of benchmark tables: where search spaces and other people's measurements meet."""

import csv
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nas.errors import BadInput, suggest
from nas.image_sets import roots
from nas.replay import Benchmark, benchmark
from search_spaces.nasbench201 import from_string, nasbench201

MOST_BYTES = 500_000_000


def nasbench201_table(dataset: str) -> Benchmark:
    """NAS-Bench-201's 15,625 cells at 12 and 200 epochs (Dong and Yang, ICLR 2020); per cent."""
    columns = read_csv(find("nasbench201/accuracy.csv"))
    return benchmark(
        f"nasbench201 {dataset}",
        nasbench201(),
        (12, 200),
        np.stack([from_string(text) for text in columns["arch_str"]]),
        numbers(columns, [f"{dataset}_val_e12", f"{dataset}_val_e200"]),
        numbers(columns, [f"{dataset}_test_e200"])[0],
    )


# name -> reader and the data sets it knows, the first being the default
BENCHMARKS: dict[str, tuple[Callable[[str], Benchmark], tuple[str, ...]]] = {
    "nasbench201": (nasbench201_table, ("cifar10", "cifar100")),
}


def load(name: str, dataset: str | None = None) -> Benchmark:
    """A benchmark by name.

    Raises:
        BadInput: unknown name or data set, or a table that is absent or not as it should be.
    """
    if name not in BENCHMARKS:
        raise BadInput(f"no benchmark '{name}'; {suggest(name, BENCHMARKS)}; or a .csv file")
    read, datasets = BENCHMARKS[name]
    if dataset is not None and dataset not in datasets:
        raise BadInput(f"--dataset: {name} has no data set '{dataset}'; {suggest(dataset, datasets)}")
    return read(dataset or datasets[0])


def find(name: str) -> Path:
    """A table under NAS_DATA (see `nas.image_sets.roots`)."""
    for root in roots():
        if (root / name).exists():
            return root / name
    raise BadInput(f"no table {name} in {' or '.join(map(str, roots()))}; set NAS_DATA to the folder of tables")


def read_csv(path: Path) -> dict[str, list[str]]:
    """Columns of a ``.csv`` or ``.csv.gz`` with a header, as text.

    Raises:
        BadInput: larger than 500 MB, not text, no rows, a column twice, or a row of another length.
    """
    packed = path.suffix == ".gz"
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise BadInput(f"{path} has more than {MOST_BYTES:,} bytes; give a smaller table")
        with (gzip.open if packed else open)(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise BadInput(f"{path} unpacks to more than {MOST_BYTES:,} bytes; give a smaller table")
        lines = list(csv.reader(raw.decode("utf-8-sig").splitlines(), strict=True))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as {'gzip of ' * packed}CSV: {error}") from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise BadInput(f"{path} has no rows; it needs a header and a row for each architecture")
    header = lines[0]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{path}: column '{twice}' is there twice")
    short = next((i for i, line in enumerate(lines) if len(line) != len(header)), None)
    if short is not None:
        raise BadInput(f"{path}: row {short} has {len(lines[short])} cells; the header has {len(header)}")
    return dict(zip(header, map(list, zip(*lines[1:], strict=True)), strict=True))


def column(columns: dict[str, list[str]], name: str) -> list[str]:
    """A column by name.

    Raises:
        BadInput: it is not there; says the nearest.
    """
    if name not in columns:
        raise BadInput(f"no column '{name}' in the table; {suggest(name, columns)}")
    return columns[name]


def numbers(columns: dict[str, list[str]], names: list[str]) -> np.ndarray:
    """float32[len(names), N].

    Raises:
        BadInput: a column that is not there, or a cell that is no number.
    """
    found = []
    for name in names:
        texts = column(columns, name)
        try:
            found.append(np.asarray(texts, np.float64).astype(np.float32))
        except ValueError:
            at = next(i for i, text in enumerate(texts) if not _is_number(text))
            raise BadInput(f"row {at + 1}: column '{name}' is '{texts[at][:40]}'; it must be a number") from None
    return np.stack(found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
