"""`nas search --start-from` and `--warm-start`: the rows that a search starts with."""

import re
from pathlib import Path

import jax
import numpy as np

from nas import config as configs
from nas.data import Data
from nas.errors import BadInput, suggest
from nas.files import read_json
from nas.proxies import COUNTED, PROXIES, best_of, draw_batch, proxies
from nas.space import Macro, SearchSpace


def given_rows(
    start_from: Path | None,
    warm_start: str | None,
    *,
    space: SearchSpace,
    macro: Macro,
    data: Data,
    kept: int,
    seed: int,
) -> list[list[int]]:
    """The architecture of a config, then the `kept` best of a random draw by zero-cost proxies.

    Args:
        start_from: architecture config.
        warm_start: ``NAMES:N``, such as ``synflow+jacob_cov:200``: the best of N random rows by these proxies combined.
        space: of the search.
        macro: the frame that candidates are searched at.
        data: images for the proxies.
        kept: rows of a warm start, at most.
        seed: of the draw and of the weights.

    Raises:
        BadInput: a config of another space, or a warm start of another form.
    """
    rows = []
    if start_from is not None:
        rows.append(start_row(start_from, space).tolist())
    if warm_start is not None:
        names, drawn = parse_warm_start(warm_start)
        score = proxies(space, names, draw_batch(data), macro=macro, seed=seed)
        rows += best_of(space, score, jax.random.key(seed), drawn=drawn, kept=min(kept, drawn)).tolist()
    return rows


def start_row(config: Path, space: SearchSpace) -> np.ndarray:
    """int32[L]: the architecture of a config, which must be of this space."""
    return np.asarray(configs.load(config, {space.name: lambda **arguments: space}).row)


def parse_warm_start(text: str) -> tuple[list[str], int]:
    """``synflow+jacob_cov:200`` in its parts.

    Raises:
        BadInput: another form, or no such proxy.
    """
    names, _, drawn = text.partition(":")
    if not re.fullmatch("[1-9][0-9]{0,5}", drawn):
        raise BadInput(f"--warm-start {text}: write PROXY+PROXY:NUMBER, for example synflow+jacob_cov:200")
    known = (*PROXIES, *COUNTED)
    if unknown := [name for name in names.split("+") if name not in known]:
        raise BadInput(f"--warm-start {text}: no proxy '{unknown[0]}'; {suggest(unknown[0], known)}")
    return names.split("+"), int(drawn)


def kept_rows(folder: Path) -> list[list[int]] | None:
    """What a search that is resumed started with; None where it is a new one."""
    if not (folder / "search.json").exists():
        return None
    arguments = read_json(folder / "search.json", "search description").get("strategy", {}).get("arguments", {})
    return arguments.get("first", [])
