"""Networks that read a text token by token: how their layers run.

A layer list with a ``state`` in it has three parts: what comes before is computed for the whole sequence; what lies
between the state and the layer whose value it carries runs once for each token; what follows, for the whole sequence.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nas.layers import Layer


def loop_of(layers: Sequence[Layer]) -> tuple[int, int] | None:
    """(place of the state, place of the layer whose value it carries); None for a network that reads no text.

    Raises:
        ValueError: the carried layer is not there, or comes before the state.
    """
    first = next((i for i, layer in enumerate(layers) if layer.op == "state"), None)
    if first is None:
        return None
    carried = layers[first].attributes["of"]
    last = next((i for i, layer in enumerate(layers) if layer.name == carried and i > first), None)
    if last is None:
        raise ValueError(f"the state carries '{carried}', and no such layer follows it")
    return first, last


def run_tokens(
    layers: Sequence[Layer],
    x: jax.Array,
    run: Callable[[Layer, list[jax.Array]], jax.Array],
    state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs a recurrent network.

    Args:
        layers: with a ``state``.
        x: int32[B, T].
        run: computes one layer; inside the loop its values are float[B, features].
        state: float[B, features] before the first token; None is zeros.

    Returns:
        (float[B, T, vocabulary], the state after the last token).
    """
    found = loop_of(layers)
    assert found is not None
    first, last = found
    values: dict[int, Any] = {}
    after: Any = state
    for i, layer in enumerate(layers[:first]):
        values[i] = x if layer.op == "input" else run(layer, [values[j] for j in layer.inputs])
    read = sorted({j for layer in layers[first : last + 1] for j in layer.inputs if j < first})
    if after is None:
        after = jnp.zeros((len(x), layers[first].output_shape[-1]), values[read[0]].dtype)

    def token(state, own):
        inner = dict(zip(read, own, strict=True)) | {first: state}
        for i in range(first + 1, last + 1):
            inner[i] = run(layers[i], [inner[j] for j in layers[i].inputs])
        return inner[last], inner[last]

    after, outs = jax.lax.scan(token, after, [values[j].swapaxes(0, 1) for j in read])
    values[last] = outs.swapaxes(0, 1)
    for i in range(last + 1, len(layers)):
        values[i] = run(layers[i], [values[j] for j in layers[i].inputs])
    return values[len(layers) - 1], after
