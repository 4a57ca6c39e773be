"""HAT's latency files: what its translation networks take on a Raspberry Pi, a Xeon and a Titan Xp.

Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing", ACL 2020. A file holds 2,000
networks of one task on one device: ten features, and latencies in ms of the encoder, for one sentence, and of the
decoder, for as many steps as the sentence has tokens with a beam of five. Features of layers are means over the layers,
so a file does not say which network it measured; times the number of layers they are sums over layers, and a model that
is linear in those sums is a table over the choices of single layers, the same in every layer.

HAT's own predictor is an MLP on the ten features. A table is as good and is a sum: docs/cli.md has figures of both.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.fit_command import read_values
from experiments.options import accepted, call, parse_sets, split_sets
from experiments.tables import Columns, read_csv
from hw_models.fit import MOST, agreement, check
from nas.config import macro_to_json
from nas.cost import Cost, Factor, Stamp
from nas.errors import BadInput, suggest
from nas.space import SearchSpace
from search_spaces.hat import (
    ATTENDED,
    DECODER,
    DECODER_LAYERS,
    EMBED_DIMS,
    ENCODER,
    ENCODER_LAYERS,
    FFN_DIMS,
    HEADS,
    LENGTH,
    TASKS,
    hat,
)
from search_spaces.hat_format import task_of

# as a file's name has it -> what HAT says it is
DEVICES = {
    "raspberrypi": "Raspberry Pi 4 (ARM Cortex-A72)",
    "xeon": "Intel Xeon E5-2640",
    "titanxp": "NVIDIA Titan Xp",
}
PARTS = {
    "sum": ("latency_mean_encoder", "latency_mean_decoder"),
    "encoder": ("latency_mean_encoder",),
    "decoder": ("latency_mean_decoder",),
}
BEAM = 5  # of the decoder
LEAST_NETWORKS = 100
FFN_UNIT = 512  # channels that coefficients of feed-forward widths are for, so that all terms are of one size
# feature, what options of a layer it may be the mean of, and its unit
OF_ENCODER = (("ffn_embed_dim", FFN_DIMS, FFN_UNIT), ("self_attention_heads", HEADS, 1))
OF_DECODER = (
    ("ffn_embed_dim", FFN_DIMS, FFN_UNIT),
    ("self_attention_heads", HEADS, 1),
    ("ende_attention_heads", HEADS, 1),
    ("arbitrary_ende_attn", tuple(ATTENDED.values()), 1),
)


class Table(NamedTuple):
    """One file.

    Attributes:
        wide: bool[N, 2], whether encoder and decoder have the larger width.
        depth: int[N], layers of the decoder.
        encoder, decoder: float64[N, F], sums over layers of `OF_ENCODER` and `OF_DECODER`.
        latency_ms: float64[N].
    """

    wide: np.ndarray
    depth: np.ndarray
    encoder: np.ndarray
    decoder: np.ndarray
    latency_ms: np.ndarray

    def terms(self, at: Any = slice(None)) -> np.ndarray:
        """float64[N, 17]: for encoder and decoder a constant or two and sums, and the same again where it is wide."""
        wide = self.wide[at].astype(float)
        one = np.ones((len(wide), 1))
        halves = self.encoder[at], np.c_[self.depth[at], self.decoder[at]]
        own = [np.c_[half, wide[:, [i]], half * wide[:, [i]]] for i, half in enumerate(halves)]
        return np.concatenate([one, *own], 1)


# ---- reading -----------------------------------------------------------------------------------------------------
def read(path: Path, part: str = "sum") -> Table:
    """One file, checked against what networks of the space have.

    Args:
        path: CSV, packed or not.
        part: ``sum``, ``encoder`` or ``decoder``: whose latency.

    Raises:
        BadInput: a column that is missing, a feature that no network has, or a latency that is none.
    """
    columns, where = read_csv(path), str(path)

    def one_of(name, known):
        values = read_values(columns, name, where)
        _refuse(~np.isin(values, known), values, f"{where}: {name}", f"one of {', '.join(map(str, known))}")
        return values

    wide = [one_of(f"{side}_embed_dim", EMBED_DIMS) == max(EMBED_DIMS) for side in ("encoder", "decoder")]
    one_of("encoder_layer_num", (ENCODER_LAYERS,))
    depth = one_of("decoder_layer_num", DECODER_LAYERS).astype(int)
    six = np.full(len(depth), ENCODER_LAYERS)
    sums = [
        np.stack(
            [_sums(columns, f"{side}_{name}_avg", layers, options, where) / unit for name, options, unit in features]
        )
        for side, features, layers in (("encoder", OF_ENCODER, six), ("decoder", OF_DECODER, depth))
    ]
    latency = np.zeros(len(depth))
    for name in PARTS[part]:
        values = read_values(columns, name, where)
        _refuse(~(np.isfinite(values) & (values > 0)), values, f"{where}: {name}", "a latency in ms, above 0")
        with np.errstate(over="ignore"):
            latency += values
    return Table(np.stack(wide, 1), depth, sums[0].T, sums[1].T, latency)


def _sums(columns: Columns, name: str, layers: np.ndarray, options: tuple[int, ...], where: str) -> np.ndarray:
    """float64[N], sums over layers of a feature that a file has the means of; refuses what no `options` give."""
    reached: list[set[int]] = [{0}]
    for _ in range(max(DECODER_LAYERS)):
        reached.append({total + option for total in reached[-1] for option in options})
    means = read_values(columns, name, where)
    means = np.where(np.abs(means) <= max(options), means, 0.0)  # NaN and infinities too: no mean is zero
    found = np.round(means * layers)
    known = [total in reached[n] for total, n in zip(found.tolist(), layers.tolist(), strict=True)]
    # a product of a mean with all its digits is as near to a whole number as this
    bad = ~np.asarray(known) | (np.abs(means * layers - found) > 1e-6 * max(options))
    right = f"the mean of as many layers of {', '.join(map(str, options))}"
    _refuse(bad, read_values(columns, name, where), f"{where}: {name}", right)
    return found


def _refuse(bad: np.ndarray, values: np.ndarray, where: str, right: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise BadInput(f"{where} is {values[row]:g} in row {row + 1}; it must be {right}")


def named(path: Path, sets: list[str], device: str | None) -> tuple[SearchSpace, str]:
    """(space, device) of a file: from its name, and where that does not say it, from ``--set task=`` and ``--device``.

    Raises:
        BadInput: neither says it, or a task that is not the one of the name.
    """
    words, told = re.split(r"[^a-z0-9]+", path.name.lower()), task_of(path.name)
    arguments = split_sets(parse_sets(sets), {"space": accepted(hat)})["space"]
    task = arguments.get("task", told)
    if task is None:
        known = ", ".join(TASKS)
        raise BadInput(f"{path}: its name does not say which task it is of; give --set task=NAME, one of {known}")
    if told not in (None, task):
        raise BadInput(f"{path}: it is of task {told}, not {task}; take that one's file, or leave --set task out")
    device = device or next((DEVICES[word] for word in words if word in DEVICES), None)
    if device is None:
        known = ", ".join(DEVICES)
        raise BadInput(f"{path}: its name says none of {known}; say what it was measured on with --device NAME")
    return call("hat", hat, **{**arguments, "task": task}), device


# ---- the table ---------------------------------------------------------------------------------------------------
def cost(
    path: Path, *, part: str = "sum", sets: list[str] | None = None, device: str | None = None, seed: int = 0
) -> Cost:
    """A table fitted to at most `MOST` of the file's networks, or four fifths; its error is that on the others.

    Least squares of relative errors, as in `hw_models.fit`, of 17 terms: constants, sums over layers of feed-forward
    widths and heads, and for the decoder its depth and the encoder layers attended to, each with a coefficient for
    either width. Coefficients by depth as well, or of the encoder's width in the decoder, bring nothing on the seven
    files.

    Args:
        path: of the file.
        part: ``sum``, ``encoder`` or ``decoder``.
        sets: of the space, as typed (``ffn=[1024,2048]``).
        device: for the stamp, and where the file's name says none.
        seed: which networks are fitted to.

    Raises:
        BadInput: as `read` and `named`; another part; too few networks; or a table that prices a network below zero.
    """
    if part not in PARTS:
        raise BadInput(f"--column: HAT's files have no '{part}'; {suggest(str(part), PARTS)}")
    space, device = named(path, sets or [], device)
    table = read(path, part)
    y, networks = table.latency_ms, len(table.latency_ms)
    if networks < LEAST_NETWORKS:
        raise BadInput(f"{path}: {networks} networks; a table is fitted to {LEAST_NETWORKS} or more")
    order = np.random.default_rng(seed).permutation(networks)
    train, test = np.split(order, [min(MOST, int(0.8 * networks))])
    task = TASKS[space.arguments["task"]]
    how = f"one sentence of {task.tokens} tokens, beam {BEAM}" if part != "encoder" else f"{task.tokens} tokens"
    what = "encoder and decoder" if part == "sum" else f"the {part} alone"
    note = f"HAT, {path.name}: {what}, {how}; fitted to {len(train)} networks, the error is of {len(test)} others"
    stamp = Stamp("latency", "ms", device, "PyTorch", 1, "float32", macro_to_json(space.macro), note)
    check(table.terms(), y, stamp)
    terms = table.terms(train) / y[train, None]
    if np.linalg.matrix_rank(terms) < terms.shape[1]:
        raise BadInput(f"{path}: its networks are too alike to tell what each choice costs")
    fitted = np.linalg.lstsq(terms, np.ones(len(train)), rcond=None)[0]
    found = agreement(table.terms(test) @ fitted, y[test])
    base, factors = tabulated(space, fitted)
    if (least := _least(base, factors)) <= 0:
        raise BadInput(f"{path}: the table fitted prices a network at {least:.3g} ms; are its latencies right?")
    details = {"fit": {"networks": len(train), "held_out": f"{len(test)} other networks", **found}, "part": part}
    details |= {"task": space.arguments["task"]}
    return Cost(replace(stamp, error=found["mape"]), base, factors, None, space.fingerprint, details)


def _coefficients(fitted: np.ndarray) -> list[list[tuple[float, np.ndarray]]]:
    """For encoder and decoder, at either width, (constant, coefficients of the sums); see `Table.terms`."""
    halves, first = [], 1
    for size in (len(OF_ENCODER), 1 + len(OF_DECODER)):
        plain, constant, more = np.split(fitted[first : first + 1 + 2 * size], [size, size + 1])
        halves.append([(0.0, plain), (float(constant[0]), plain + more)])
        first += 1 + 2 * size
    return halves


def tabulated(space: SearchSpace, fitted: np.ndarray) -> tuple[float, tuple[Factor, ...]]:
    """(base, factors) that give `Table.terms` of a network times `fitted`, from its row."""
    encoder, decoder = _coefficients(fitted)
    factors = [Factor((i,), np.asarray([c for c, _ in side])) for i, side in enumerate((encoder, decoder))]
    for at in range(ENCODER, DECODER):
        kind = (at - ENCODER) % len(OF_ENCODER)
        values = np.asarray(space.decisions[at].options) / OF_ENCODER[kind][2]
        factors.append(Factor((0, at), np.stack([c[kind] * values for _, c in encoder])))
    for at in range(DECODER, LENGTH):
        layer, kind = divmod(at - DECODER, len(OF_DECODER))
        name, _, unit = OF_DECODER[kind]
        options = space.decisions[at].options
        values = np.asarray([ATTENDED[o] for o in options] if name == "arbitrary_ende_attn" else options) / unit
        # what a layer takes as such goes with the first of its decisions
        each = np.stack([c[1 + kind] * values + (c[0] if kind == 0 else 0.0) for _, c in decoder])
        there = np.asarray(space.decisions[2].options) > layer
        factors.append(Factor((1, 2, at), each[:, None] * there[:, None]))
    return float(fitted[0]), tuple(factors)


def _least(base: float, factors: tuple[Factor, ...]) -> float:
    """What the cheapest network costs: each layer chooses by itself once widths and depth are chosen."""
    encoder = sum(f.table if len(f.decisions) == 1 else f.table.min(-1) for f in factors if f.decisions[0] == 0)
    decoder = sum(
        f.table[:, None] if len(f.decisions) == 1 else f.table.min(-1) for f in factors if f.decisions[0] == 1
    )
    return base + float(np.min(encoder)) + float(np.min(decoder))
