"""Accuracies of once-for-all's networks without training: a published predictor, or one fitted to measured ones."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tables import column, read_csv
from nas.decode import NPZ_ERRORS
from nas.errors import BadInput
from nas.predict import encoding, ridge
from nas.result import Result, longest
from nas.space import SearchSpace
from nas.summary import spearman
from search_spaces.once_for_all import DEPTHS, EXPANDS, KERNELS, STAGES, from_encoding

LAYERS = max(DEPTHS) * len(STAGES)
PUBLISHED_RESOLUTIONS = tuple(range(112, 225, 16))
SPLITS, HELD_OUT, FEWEST = 5, 0.2, 50


class AccuracyModel(NamedTuple):
    """What predicts a network's accuracy.

    Attributes:
        predict: ``rows int32[N, L] -> float32[N]``, a share of one; jittable.
        source: where it is from and how good it is, for people.
        held_out: Spearman and mean absolute error (in points) on networks it was not fitted to, where known.
        left_out: measured networks that it was not fitted to, because the space has not their resolution.
        metric: ``top1``, or ``perplexity``: then `predict` gives one by it, the mean probability of the right token.
    """

    predict: Callable[[Any], jax.Array]
    source: str
    held_out: dict[str, float]
    left_out: int = 0
    metric: str = "top1"

    def figure(self, share: float) -> float:
        """The metric of what `predict` gave."""
        return 1 / float(share) if self.metric == "perplexity" else float(share)


def published(path: Path, space: SearchSpace) -> AccuracyModel:
    """Once-for-all's own predictor: dense layers of 400 on one-hot kernel and ratio of each layer, and resolution.

    Its inputs are 0 for layers that are not there. It ranks measured networks well (Spearman .957) and reads some
    points too high.

    Raises:
        BadInput: no such file, other arrays than that network's, or a resolution that it was not made for.
    """
    sizes = (6 * LAYERS + len(PUBLISHED_RESOLUTIONS), 400, 400, 400, 1)
    try:
        with np.load(path, allow_pickle=False) as file:
            layers = [(file[f"{2 * i}.weight"].T, file[f"{2 * i}.bias"]) for i in range(len(sizes) - 1)]
    except NPZ_ERRORS as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:80]
        raise BadInput(f"{path}: not an accuracy predictor (.npz with 0.weight to 6.bias): {reason}") from None
    if [w.shape for w, _ in layers] != list(itertools.pairwise(sizes)):
        raise BadInput(f"{path}: its layers are {[w.shape for w, _ in layers]}; wanted are dense layers of {sizes}")
    paper = {"kernels": list(KERNELS), "expands": list(EXPANDS), "depths": list(DEPTHS)}
    other = next((name for name, value in paper.items() if list(space.arguments[name]) != value), None)
    if other is not None:
        raise BadInput(f"{path}: knows {other} {paper[other]} alone; leave out --set {other}")
    weights = [(jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32)) for w, b in layers]
    options = space.decisions[0].options
    unknown = next((r for r in options if r not in PUBLISHED_RESOLUTIONS), None)
    if unknown is not None:
        raise BadInput(f"{path}: knows the resolutions {PUBLISHED_RESOLUTIONS}, not {unknown}; --set resolutions=[...]")
    places = jnp.asarray([PUBLISHED_RESOLUTIONS.index(r) for r in options])
    names = [d.name for d in space.decisions]
    depths = np.asarray([names.index(f"stage_{s}_layers") for s in range(1, 1 + len(STAGES))])
    kernels, expands = (
        np.asarray([names.index(f"layer_{i}_{what}") for i in range(1, 1 + LAYERS)]) for what in ("kernel", "expand")
    )

    def predict(rows):
        rows = jnp.asarray(rows)
        there = jnp.asarray(DEPTHS)[rows[:, depths]][..., None] > jnp.arange(max(DEPTHS))
        parts = [jax.nn.one_hot(rows[:, at], 3) * there.reshape(len(rows), -1, 1) for at in (kernels, expands)]
        flat = [part.reshape(len(rows), -1) for part in parts]
        x = jnp.concatenate([*flat, jax.nn.one_hot(places[rows[:, 0]], len(PUBLISHED_RESOLUTIONS))], -1)
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w + b)
        return (x @ weights[-1][0] + weights[-1][1])[:, 0]

    return AccuracyModel(predict, f"the predictor {path.name}", {})


def measured_resolutions(path: Path) -> tuple[int, ...]:
    """The resolutions of a table of measured sub-networks."""
    return tuple(sorted({int(r) for r in _numbers(column(read_csv(path), "image_size", str(path)), path)}))


def fitted(path: Path, space: SearchSpace, seed: int = 0) -> AccuracyModel:
    """A ridge regression on measured sub-networks: columns ks, e, d (joined by ``-``), image_size and top1 (a share).

    Five random splits say how good it is on a fifth that it has not seen; what is used is fitted to all.

    Raises:
        BadInput: a column is missing, a row is no network of the space, or an accuracy is no share of one.
    """
    columns = read_csv(path)
    texts = [column(columns, name, str(path)) for name in ("ks", "e", "d", "image_size")]
    # networks of other resolutions than the space's say nothing of it in a table of its own options
    known = [r.strip() in {str(option) for option in space.decisions[0].options} for r in texts[3]]
    rows = []
    for number, (ks, e, d, r) in enumerate(zip(*texts, strict=True), 1):
        if not known[number - 1]:
            continue
        try:
            parts = {"ks": _list(ks), "e": _list(e), "d": _list(d), "r": int(r)}
            rows.append(from_encoding(parts, space))
        except ValueError as error:  # BadInput is one
            raise BadInput(f"{path}, row {number}: {' '.join(str(error).split())}") from None
    y = _numbers(column(columns, "top1", str(path)), path)[known]
    if len(y) < FEWEST or not ((y > 0) & (y <= 1)).all():
        raise BadInput(f"{path}: needs at least {FEWEST} networks with top1 from 0 to 1, a share and not per cent")
    found = cross_checked(np.stack(rows), y, space, f"networks of {path.name}", seed)
    return found._replace(left_out=known.count(False))


def searched(result: Result, folder: Path, seed: int = 0) -> AccuracyModel:
    """A ridge regression on the networks that a search measured, such as those in the weights of a supernet.

    Raises:
        BadInput: too few.
    """
    done = longest(result.trials)
    if len(done) < FEWEST:
        raise BadInput(
            f"{folder}: {len(done)} networks were measured there, and a predictor needs {FEWEST}; go on with the "
            f"same search, --resume --trials {2 * FEWEST}"
        )
    rows, y = np.stack([t.row for t in done]), np.asarray([t.metrics["accuracy"] for t in done])
    return cross_checked(rows, y, result.space, f"networks of {folder}", seed)


def cross_checked(rows: np.ndarray, y: np.ndarray, space: SearchSpace, source: str, seed: int = 0) -> AccuracyModel:
    """A ridge regression on rows int32[N, L] and accuracies float[N]; five random splits say how good it is."""
    encode, model = encoding(space), ridge()
    x, y = np.asarray(encode(rows)), np.asarray(y, np.float32)
    fit, predict = jax.jit(model.fit), jax.jit(model.predict)
    everything = fit(jax.random.key(seed), x, y, np.ones(len(y), bool))
    ranks, errors = [], []
    for split in range(SPLITS):
        order = np.random.default_rng([seed, split]).permutation(len(y))
        test, kept = order[: int(HELD_OUT * len(y))], np.ones(len(y), bool)
        kept[test] = False
        mean = np.asarray(predict(fit(jax.random.key(seed), x, y, kept), x[test])[0])
        ranks.append(spearman(mean.tolist(), y[test].tolist()))
        errors.append(float(np.abs(mean - y[test]).mean()) * 100)
    held_out = {"spearman": float(np.mean(ranks)), "error_points": float(np.mean(errors)), "networks": len(y)}
    return AccuracyModel(
        lambda r: model.predict(everything, encode(r))[0], f"ridge regression on {len(y)} {source}", held_out
    )


def _list(text: str) -> list[int]:
    return [int(part) for part in text.split("-")]


def _numbers(texts: list[str], path: Path) -> np.ndarray:
    try:
        return np.asarray([float(t) for t in texts])
    except ValueError:
        raise BadInput(f"{path}: a cell of image_size or top1 is no number") from None
