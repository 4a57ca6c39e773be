"""A recurrent controller: an LSTM that takes the decisions of a row one after the other.

Zoph and Le, "Neural Architecture Search with Reinforcement Learning", ICLR 2017; Zoph et al., "Learning Transferable
Architectures for Scalable Image Recognition" (NASNet), CVPR 2018; Pham et al., "Efficient Neural Architecture Search
via Parameter Sharing" (ENAS), ICML 2018. Pure functions over arrays, for multi-trial strategies and weight sharing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nas.errors import BadInput
from nas.space import SearchSpace

Weights = Any  # a pytree of arrays


class Drawn(NamedTuple):
    """Rows with what the policy says of them; differentiable in the controller's weights.

    Attributes:
        row: int32[N, L].
        log_prob: float32[N], of the whole row; the sum over its decisions.
        entropy: float32[N], the sum of the entropies of the decisions met on the way. Its mean over rows drawn from the
            policy is the policy's entropy over rows.
    """

    row: jax.Array
    log_prob: jax.Array
    entropy: jax.Array


class Controller(NamedTuple):
    """A policy over the rows of one space.

    Attributes:
        init: ``(key) -> Weights``. The heads start at zero, so a new policy draws each decision uniformly from what is
            allowed, as `SearchSpace.sample` does.
        draw: ``(Weights, keys[N]) -> Drawn``, a row for each key.
        read: ``(Weights, rows int32[N, L]) -> Drawn``, the same for given rows.
    """

    init: Callable[[jax.Array], Weights]
    draw: Callable[[Weights, jax.Array], Drawn]
    read: Callable[[Weights, jax.Array], Drawn]


class _Network(nnx.Module):
    """One LSTM cell; an embedding for each option of each decision, a softmax head for each decision."""

    def __init__(self, length: int, options: int, hidden: int, rngs: nnx.Rngs):
        uniform = lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -0.1, 0.1)  # noqa: E731
        self.start = nnx.Param(uniform(rngs(), (hidden,)))
        self.embed = nnx.Param(uniform(rngs(), (length, options, hidden)))
        self.cell = nnx.OptimizedLSTMCell(hidden, hidden, kernel_init=uniform, recurrent_kernel_init=uniform, rngs=rngs)
        self.head = nnx.Param(jnp.zeros((length, hidden, options)))
        self.bias = nnx.Param(jnp.zeros((length, options)))


def controller(space: SearchSpace, hidden: int = 100) -> Controller:
    """A one-layer LSTM of `hidden` units, 100 as in NASNet and ENAS.

    Its input is the embedding of the option taken last; the first input is learned. Weights start uniform in
    [-0.1, 0.1] as in NASNet, except for the heads (see `Controller`).

    Raises:
        BadInput: `hidden` below 1.
    """
    if hidden < 1:
        raise BadInput(f"controller: hidden is {hidden}; it must be at least 1")
    length, options = space.length, max(space.cardinalities)
    graph, _ = nnx.split(nnx.eval_shape(lambda: _Network(length, options, hidden, nnx.Rngs(0))))
    places = jnp.arange(length)

    def allowed(row, i):
        if space.allowed_of is None:
            return jnp.arange(options) < jnp.asarray(space.cardinalities)[i]
        # `allowed` takes a Python int; a switch keeps the loop over decisions small for the compiler
        return jax.lax.switch(i, [lambda row, i=i: space.allowed(row, i) for i in range(length)], row)

    def walk(weights, choose, given):
        """One row; ``choose(logits, given[i])`` takes decision i."""
        network = nnx.merge(graph, weights)

        def step(carry, each):
            (state, x, row, log_prob, entropy), (i, given, embed, head, bias) = carry, each
            state, h = network.cell(state, x)
            # finite, so that an impossible option has probability 0 and entropy 0 and not NaN
            logits = jax.nn.log_softmax(jnp.where(allowed(row, i), h @ head + bias, -1e30))
            option = choose(logits, given).astype(jnp.int32)
            entropy -= (jnp.exp(logits) * logits).sum()
            return (state, embed[option], row.at[i].set(option), log_prob + logits[option], entropy), None

        zeros = jnp.zeros(hidden)
        first = ((zeros, zeros), network.start[...], jnp.zeros(length, jnp.int32), jnp.float32(0), jnp.float32(0))
        each = (places, given, network.embed[...], network.head[...], network.bias[...])
        (_, _, row, log_prob, entropy), _ = jax.lax.scan(step, first, each)
        return Drawn(row, log_prob, entropy)

    def init(key):
        return nnx.state(_Network(length, options, hidden, nnx.Rngs(key)))

    def draw(weights, keys):
        pick = lambda logits, key: jax.random.categorical(key, logits)  # noqa: E731
        return jax.vmap(lambda key: walk(weights, pick, jax.random.split(key, length)))(keys)

    def read(weights, rows):
        return jax.vmap(lambda row: walk(weights, lambda logits, option: option, row))(jnp.asarray(rows, jnp.int32))

    return Controller(init, draw, read)
