"""What of a search space is timed: its distinct blocks, each as a small network of its own.

A block is the layers that share `Layer.scope`, named by `Layer.block`. A layer outside of blocks (a sum, a
concatenation) is loose: a block of its own.
"""

import contextlib
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nas.cost import Stamp, factor_groups, sample_rows, tabulate
from nas.errors import BadInput
from nas.layers import Layer, Shape
from nas.space import Macro, SearchSpace

Block = tuple[Layer, ...]  # inputs first, indices within itself, the output last


class Blocks:
    """The distinct blocks of a space, and which of them each row is made of.

    Attributes:
        layers: canonical key -> block.
        names: block keys of the space -> canonical ones; "" takes no time.
        loose: the canonical keys of layers outside of blocks.
    """

    def __init__(self, space: SearchSpace, macro: Macro, report: Callable[[int, int], None]):
        self.space, self.macro, self.report = space, macro, report
        self.layers: dict[str, Block] = {}
        self.names: dict[str, str] = {}
        self.loose: set[str] = set()
        self._rows: dict[tuple[int, ...], list[str]] = {}

    def of(self, row: np.ndarray) -> list[str]:
        """Canonical keys of the blocks and loose layers of a row, as often as they occur."""
        known = tuple(np.asarray(row).tolist())
        if known not in self._rows:
            layers = self.space.layers(row, self.macro)
            scopes: dict[Any, list[int]] = {}
            for i, layer in enumerate(layers):
                if layer.block or layer.op not in ("input", "zeros"):
                    scopes.setdefault(layer.scope if layer.block else i, []).append(i)
            keys = [self._key(layers, own) for own in scopes.values()]
            self._rows[known] = [key for key in keys if key]
            self.report(len(self._rows), max(len(self._rows), _entries(self.space)))
        return self._rows[known]

    def _key(self, layers: Sequence[Layer], own: list[int]) -> str:
        last = layers[own[-1]]
        if all(layers[i].op == "zeros" for i in own):
            key = ""
        else:
            block = isolate(layers, own) if last.block else _alone(last)
            ins = "+".join(_dims(x.output_shape) for x in block if x.op == "input")
            # a convolution of zeros stays in the network: it has the price of the same block of something
            key = f"{last.block.rpartition('-input:')[0] or last.op}-input:{ins}-output:{_dims(last.output_shape)}"
            if not last.block:
                key += f" {json.dumps(last.attributes)}" if last.attributes else ""
                self.loose.add(key)
            if self.layers.setdefault(key, block) != block:
                raise BadInput(f"space '{self.space.name}': two different blocks are called '{key}'; name their kinds")
        if last.block:
            self.names[last.block] = key
        return key


def visit(blocks: Blocks, stamp: Stamp) -> np.ndarray | None:
    """Meets every block that pricing will ask for, before anything is timed.

    Returns:
        None where times of blocks add over the factors exactly, whatever they are; else rows to fit a table on.
    """
    space = blocks.space
    with contextlib.suppress(BadInput):
        # any prices tell whether a sum of them adds over the factors
        tabulate(space, lambda row: sum(zlib.crc32(key.encode()) / 2**32 for key in blocks.of(row)), stamp)
        return None
    rows = distinct(sample_rows(space, min(1000, 100 + 2 * _entries(space)), 1))
    for row in rows:
        blocks.of(row)
    return rows


def isolate(layers: Sequence[Layer], own: Sequence[int]) -> Block:
    """Some layers of a network as a network of their own.

    What comes from other layers becomes an input, and so does what is zero: the values of equal shape that are zero
    are one input, as the value is that stands there in another row.
    """
    place: dict[Any, int] = {}
    inputs: list[Layer] = []
    for source in (i for at in own for i in (layers[at].inputs or (at,))):
        outside = source not in own
        if outside or layers[source].op == "zeros":
            shape = layers[source].output_shape
            same = source if outside else ("zeros", shape)
            if same not in place:
                place[same] = len(inputs)
                inputs.append(_input(len(inputs), shape))
            place[source] = place[same]
    found = list(inputs)
    for at in own:
        if at not in place:
            x, place[at] = layers[at], len(found)
            sources = tuple(place[i] for i in x.inputs)
            found.append(Layer(f"{len(found)}", x.op, x.attributes, sources, x.input_shapes, x.output_shape))
    return tuple(found)


def _alone(layer: Layer) -> Block:
    """One layer with inputs of its own, even where it gets the same value twice."""
    inputs = [_input(i, shape) for i, shape in enumerate(layer.input_shapes)]
    return (*inputs, replace(layer, name="alone", inputs=tuple(range(len(inputs)))))


def _input(i: int, shape: Shape) -> Layer:
    return Layer(f"input_{i}", "input", {}, (), (), shape)


def _entries(space: SearchSpace) -> int:
    return sum(math.prod(space.cardinalities[d] for d in group) for group in factor_groups(space))


def distinct(rows: np.ndarray) -> np.ndarray:
    """The rows without repetitions, in order."""
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])] if len(rows) else rows


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape))
