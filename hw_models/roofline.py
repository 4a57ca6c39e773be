"""Which layers of a network wait for memory and which for arithmetic, on a device of a given peak and bandwidth.

Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures",
Communications of the ACM 2009. A layer's bytes are its inputs, weights and outputs, each moved once: what fusion and
caches save is not known from layers alone, so the bound is of layers run one by one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import BadInput
from nas.layers import Layer, layer_macs, layer_params


@dataclass(frozen=True)
class Bound:
    """One layer under the roofline.

    Attributes:
        name: of the layer.
        op: its operation.
        macs: multiply-accumulates of a call.
        bytes: moved by a call.
        intensity: floating-point operations (two a multiply-accumulate) a byte.
        memory_bound: whether moving takes longer than computing.
        least_ms: no call is faster.
    """

    name: str
    op: str
    macs: int
    bytes: int
    intensity: float
    memory_bound: bool
    least_ms: float


def roofline(
    layers: Sequence[Layer], *, gflops: float, gbytes: float, batch: int = 1, bytes_per_value: int = 4
) -> list[Bound]:
    """The bound of each layer that computes or moves anything.

    Args:
        layers: of the network.
        gflops: peak of the device, 1e9 floating-point operations a second.
        gbytes: bandwidth of its memory, 1e9 bytes a second.
        batch: images a call.
        bytes_per_value: of weights and activations.

    Raises:
        BadInput: a peak or bandwidth that is not above zero.
    """
    if not (0 < gflops < math.inf and 0 < gbytes < math.inf):
        raise BadInput(f"roofline: {gflops:g} GFLOP/s and {gbytes:g} GB/s; both must be above zero")
    found = []
    for layer in layers:
        if layer.op in ("input", "zeros"):
            continue
        values = sum(map(math.prod, layer.input_shapes)) + math.prod(layer.output_shape)
        moved = bytes_per_value * (batch * values + layer_params(layer))
        macs = batch * layer_macs(layer)
        computing, moving = 2 * macs / (1e6 * gflops), moved / (1e6 * gbytes)
        bound = moving >= computing
        found.append(Bound(layer.name, layer.op, macs, moved, 2 * macs / moved, bound, max(computing, moving)))
    return found
