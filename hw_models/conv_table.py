"""Profiles of single convolutions, as TensorRT's on a V100 (TinyNAS, Alibaba, Apache-2.0), summed over a network.

A convolution that the profile has is taken as it stands. Between its sizes a plane is fitted to the logarithms of the
nearest entries of the same kind; entries left out of TensorRT's profile are so predicted with a median error of 4 to
7 %. Pools, additions and dense layers are in no such profile: the figure is of the convolutions alone, and its stamp
says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nas.config import macro_to_json
from nas.cost import Cost, Stamp, tabulate_layers
from nas.errors import BadInput, suggest
from nas.layers import Layer
from nas.space import Macro, SearchSpace

NEIGHBOURS = 12
MOST = 1e9  # of any figure of a profile
FARTHEST = 1.0  # octaves from the nearest entry, in channels or side; beyond it a block is refused
SIZES = ("in_ch", "out_ch", "in_h")
COLUMNS = ("precision", "conv_type", "batch", *SIZES, "in_w", "kernel", "stride", "elmt_fused", "latency_ms")


class Kind(NamedTuple):
    """What must agree exactly."""

    depthwise: bool
    kernel: int
    stride: int


@dataclass(frozen=True, eq=False)
class ConvTable:
    """Latencies of convolutions of one precision and batch.

    Attributes:
        stamp: what they are about; its macro is empty.
        sizes: kind -> float64[N, 3], base-2 logarithms of input channels, output channels and side.
        times: kind -> float64[N], base-2 logarithms of ms.
    """

    stamp: Stamp
    sizes: dict[Kind, np.ndarray]
    times: dict[Kind, np.ndarray]

    def conv(self, kind: Kind, sizes: tuple[int, int, int], *, leave_out: int | None = None) -> float:
        """Latency in ms of one convolution; ``leave_out`` predicts that entry from the others.

        Raises:
            BadInput: no entry of that kind within `FARTHEST`.
        """
        known, asked = self.sizes.get(kind, np.zeros((0, 3))), np.log2(sizes)
        off = known - asked
        near = np.flatnonzero((np.abs(off) <= FARTHEST).all(-1) & (np.arange(len(off)) != leave_out))
        if not len(near):
            raise BadInput(
                f"cost: the profile has no {'depthwise ' * kind.depthwise}convolution of kernel {kind.kernel} and "
                f"stride {kind.stride} near {sizes[0]} to {sizes[1]} channels at side {sizes[2]}"
            )
        far = (off[near] ** 2).sum(-1)
        order = np.argsort(far, kind="stable")[:NEIGHBOURS]
        near, far = near[order], far[order]
        if far[0] == 0:
            return float(2 ** self.times[kind][near[0]])
        weight = np.sqrt(1 / (far + 0.05))
        # where entries are few the slopes fall back on those of work that grows with the pixels, and half with channels
        prior = np.asarray([0.5, 0.0 if kind.depthwise else 0.5, 2.0])
        left = np.concatenate([weight[:, None] * np.c_[np.ones(len(near)), off[near]], 0.1 * np.eye(4)[1:]])
        right = np.concatenate([weight * self.times[kind][near], 0.1 * prior])
        return float(2 ** np.linalg.lstsq(left, right, rcond=None)[0][0])

    def price(self, layers: Sequence[Layer]) -> float:
        """The sum over the convolutions of a network, in ms."""
        return sum(self._layer(layer) for layer in layers if layer.op == "conv")

    def _layer(self, layer: Layer) -> float:
        said, (height, width, into) = layer.attributes, layer.input_shapes[0]
        groups, (tall, wide), (down, across) = said["groups"], said["kernel"], said["stride"]
        depthwise = groups == into == said["features"] and groups > 1
        square = height == width and tall == wide and down == across and said["dilation"] == 1
        if not square or (groups > 1 and not depthwise):
            raise BadInput(f"cost: convolution '{layer.name}' is grouped, dilated or not square; the profile has none")
        return self.conv(Kind(depthwise, tall, down), (into, said["features"], height))

    def cost(self, space: SearchSpace, macro: Macro) -> Cost:
        """The table of a space at one frame.

        Raises:
            BadInput: as `conv`, or a convolution that is grouped, dilated or not square.
        """
        return tabulate_layers(space, macro, self.price, replace(self.stamp, macro=macro_to_json(macro)))

    def held_out(self, entries: int = 300, seed: int = 0) -> np.ndarray:
        """float64[entries]: relative errors of random entries, each predicted from the others."""
        rng, found = np.random.default_rng(seed), []
        kinds = sorted(self.sizes)
        share = np.asarray([len(self.sizes[kind]) for kind in kinds], float)
        for kind in rng.choice(len(kinds), entries, p=share / share.sum()):
            sizes, times = self.sizes[kinds[kind]], self.times[kinds[kind]]
            i = int(rng.integers(len(times)))
            guess = self.conv(kinds[kind], tuple(np.round(2 ** sizes[i]).astype(int)), leave_out=i)
            found.append(abs(guess / 2 ** times[i] - 1))
        return np.asarray(found)


def read_profile(columns: dict[str, list[str]], where: str, precision: str, batch: int, device: str) -> ConvTable:
    """Entries of one precision and batch, without a fused addition, of square images.

    Args:
        columns: of the CSV, as text.
        where: its name, for messages.
        precision: one of those in the file.
        batch: one of those in the file.
        device: for the stamp.

    Raises:
        BadInput: a column that is not there, a cell that is no number above zero, or nothing of that kind.
    """
    for name in COLUMNS:
        if name not in columns:
            raise BadInput(f"{where}: has no column '{name}'; a profile of convolutions has {', '.join(COLUMNS)}")
    known = sorted(set(columns["precision"]))
    if precision not in known:
        raise BadInput(f"{where}: no precision '{precision}'; {suggest(precision, known)}")
    here = np.asarray(columns["precision"]) == precision
    numbers = {}
    for name in COLUMNS[2:]:
        try:
            numbers[name] = np.asarray(columns[name])[here].astype(np.float64)
        except ValueError:
            raise BadInput(f"{where}: column '{name}' holds what is no number") from None
        if not (np.abs(numbers[name]) < MOST).all():
            raise BadInput(f"{where}: column '{name}' holds what is not finite, or above {MOST:g}")
    batches = sorted({int(b) for b in numbers["batch"]})
    if batch not in batches:
        raise BadInput(f"{where}: no batch {batch} at {precision}; it has {', '.join(map(str, batches))}")
    keep = (numbers["batch"] == batch) & (numbers["elmt_fused"] == 0) & (numbers["in_h"] == numbers["in_w"])
    above_zero = all((numbers[name][keep] > 0).all() for name in ("latency_ms", *SIZES))
    if not above_zero or not keep.any():
        raise BadInput(f"{where}: latencies, channels and sides must be above zero")
    depthwise = np.asarray(columns["conv_type"])[here] == "Depthwise"
    kinds = np.stack([depthwise, numbers["kernel"], numbers["stride"]], 1)[keep].astype(int)
    sizes = np.log2(np.stack([numbers[name] for name in SIZES], 1)[keep])
    times = np.log2(numbers["latency_ms"][keep])
    mask = {Kind(bool(d), int(k), int(s)): (kinds == (d, k, s)).all(1) for d, k, s in np.unique(kinds, axis=0)}
    stamp = Stamp("latency", "ms", device, "TensorRT", batch, precision, {}, f"sum of the convolutions alone, {where}")
    return ConvTable(stamp, {k: sizes[m] for k, m in mask.items()}, {k: times[m] for k, m in mask.items()})
