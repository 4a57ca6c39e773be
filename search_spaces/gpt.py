"""HW-GPT-Bench's transformers: GPT-2-like language models of three scales, every layer with heads and MLP of its own.

Sukthanker et al., "HW-GPT-Bench: Hardware-Aware Architecture Benchmark for Language Models", NeurIPS 2024. A block adds
attention and MLP to its input side by side (parallel residual), each behind a layer norm of its own; heads have 64
channels whatever the width, positions are rotary, the MLP is gated (three matrices), input and output tables are apart.
Parameters and multiply-accumulates of these layers are the ones that the benchmark states, for every network.

There are no shared weights here: the benchmark's own perplexities come with its tables, see `experiments.hwgpt`.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput, suggest
from nas.space import Decision, Macro, SearchSpace

HEAD = 64  # channels of a head
VOCABULARY, CONTEXT = 50254, 1024
MLP_RATIOS = (2, 3, 4)
FIRST = 3  # decisions before those of the layers


class Scale(NamedTuple):
    """Options of one of the three supernets."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]


SCALES = {
    "s": Scale((192, 384, 768), (10, 11, 12), (4, 8, 12)),
    "m": Scale((256, 512, 1024), (22, 23, 24), (8, 12, 16)),
    "l": Scale((320, 640, 1280), (34, 35, 36), (8, 16, 20)),
}


def gpt(scale: str = "s") -> SearchSpace:
    """Some 10^12 (s), 10^24 (m) or 10^35 (l) networks. Layers that are not there choose option 0.

    Args:
        scale: ``s``, ``m`` or ``l``, as the benchmark calls its supernets.

    Raises:
        BadInput: another scale.
    """
    if scale not in SCALES:
        raise BadInput(f"gpt: no scale '{scale}'; {suggest(str(scale), SCALES)}")
    size = SCALES[scale]
    most = max(size.depths)
    decisions = [Decision("embed_dim", size.embed_dims), Decision("n_layer", size.depths), Decision("bias", (0, 1))]
    for i in range(most):
        decisions += [Decision(f"layer_{i}_heads", size.heads), Decision(f"layer_{i}_mlp_ratio", MLP_RATIOS)]

    # option of n_layer from which on each decision counts
    since = [0] * FIRST + [sum(depth <= i for depth in size.depths) for i in range(most) for _ in range(2)]

    def allowed(row, i):
        free = np.ones(len(decisions[i].options), bool)
        return free if not since[i] else free & ((row[1] >= since[i]) | (np.arange(len(free)) == 0))

    counts = jnp.asarray([len(decision.options) for decision in decisions])

    def sample(uniform):  # as the rules would draw it, in one step instead of one after the other
        row = jnp.minimum((uniform * counts).astype(jnp.int32), counts - 1)
        return jnp.where(row[1] >= jnp.asarray(since), row, 0)

    return SearchSpace(
        name="gpt",
        decisions=tuple(decisions),
        network=functools.partial(network, heads_of=size.heads),
        macro=Macro(width=max(size.embed_dims), depth=1, input=(CONTEXT,), classes=VOCABULARY),
        allowed_of=allowed,
        sample_of=sample,
        supernet_of=_no_supernet,
        # a layer costs by width, bias, heads and ratio, and by depth where it may be absent
        factors=((0, 1, 2), *(_group(i, min(size.depths)) for i in range(most))),
        arguments={"scale": scale},
    )


def _group(i: int, always: int) -> tuple[int, ...]:
    own = (FIRST + 2 * i, FIRST + 2 * i + 1)
    return (0, 2, *own) if i < always else (0, 1, 2, *own)


def network(net, macro: Macro, *, heads_of: tuple[int, ...]):
    """The whole network, from tokens (T,) to scores (T, vocabulary). Width and depth of the macro are not read."""
    if len(macro.input) != 1:
        shown = "x".join(map(str, macro.input))
        raise BadInput(f"macro: input is {shown}; networks of 'gpt' read a sequence, so it must be a number of tokens")
    width, layers = net.width("embed_dim"), net.width("n_layer")
    if not isinstance(layers, int):
        raise BadInput(NO_SUPERNET)
    bias = bool(net.chosen("bias", 1))
    with net.block("embedding"):
        x = net.embedding(net.input, macro.classes, width, name="table")
    for i in range(layers):
        with net.block("gpt", f"layers.{i}"):
            x = _block(net, x, width, net.width(f"layer_{i}_heads"), net.width(f"layer_{i}_mlp_ratio"), bias)
    with net.block("head"):
        return net.linear(net.layer_norm(x), macro.classes, bias=False)


def _block(net, x: Any, width: int, heads: int, ratio: int, bias: bool) -> Any:
    with net.scope("attention"):
        qkv = net.linear(net.layer_norm(x), 3 * HEAD * heads, bias=bias, name="qkv")
        attended = net.linear(net.attention(qkv, heads), width, bias=bias, name="out")
    with net.scope("mlp"):
        y = net.layer_norm(x)
        gate = net.activation(net.linear(y, ratio * width, bias=bias, name="gate"), "swish")
        inner = net.multiply(gate, net.linear(y, ratio * width, bias=bias, name="up"))
        return net.add([net.linear(inner, width, bias=bias, name="out"), attended, x])


NO_SUPERNET = (
    "space 'gpt' has no shared program: its perplexities come from the benchmark's tables; use nas specialize with "
    "--accuracy-csv gpt_s.csv.gz"
)


def _no_supernet(space: SearchSpace, macro: Macro):
    raise BadInput(NO_SUPERNET)
