"""A benchmark from a table of anyone's: a CSV file and the names of its columns."""

from collections.abc import Sequence
from pathlib import Path

from experiments.arch_rows import option_rows, table_rows
from experiments.tables import column, numbers, read_csv
from nas.errors import BadInput
from nas.replay import Benchmark, benchmark
from nas.space import SearchSpace


def from_csv(
    path: Path,
    space: SearchSpace,
    arch_column: str,
    validation_columns: Sequence[str],
    test_column: str,
    *,
    arch_table: Path | None = None,
    features: Sequence[str] = (),
) -> Benchmark:
    """A benchmark from a table of anyone's.

    Args:
        path: ``.csv`` or ``.csv.gz`` with a header.
        space: what its architectures mean.
        arch_column: the column with the architecture, see `experiments.arch_rows`; or several, joined by commas, one
            for each decision; or, with `arch_table`, one with numbers that the other table explains.
        validation_columns: what a strategy is told, higher is better: one column, or ``EPOCHS:COLUMN`` for each
            fidelity. A single one without epochs counts as one epoch.
        test_column: what is reported.
        arch_table: a table with the column `arch_column` and a column of architectures.
        features: columns that are known without training.

    Raises:
        BadInput: what `read_csv`, `experiments.arch_rows`, `numbers` and `nas.replay.benchmark` refuse.
    """
    where, names = path.name, arch_column.split(",")
    if len(names) == 1 or arch_table is not None:
        columns, rows = table_rows(space, path, arch_column, arch_table)
    else:
        columns = read_csv(path)
        rows = option_rows(space, columns, names, where)
    fidelities = sorted(_fidelity(text, columns, len(validation_columns) == 1) for text in validation_columns)
    return benchmark(
        where,
        space,
        tuple(epochs for epochs, _ in fidelities),
        rows,
        numbers(columns, [name for _, name in fidelities], where),
        numbers(columns, [test_column], where)[0],
        features=numbers(columns, features, where).T if features else None,
        feature_names=tuple(features),
    )


def _fidelity(text, columns, alone):
    if alone and text in columns:
        return 1, text
    epochs, colon, name = text.partition(":")
    if not colon or not epochs.isdecimal() or not 1 <= int(epochs[:9]) < 10**6:
        if alone:
            column(columns, text, "--validation-column")
        raise BadInput(f"--validation-column {text}: with several fidelities write EPOCHS:COLUMN, such as 12:{text}")
    return int(epochs), name
