"""The relaxed form of a space: a number for each operation on each edge, instead of one choice for each decision."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from nas.space import SearchSpace


class Relaxation(NamedTuple):
    """What differentiable methods search in: E edges, each a mixture of its own operations, K at most.

    Attributes:
        edges: names, E of them.
        options: of each edge, in the order of its gates; ``none`` stands for no edge at all.
        gates: ``(row int32[L]) -> float32[E, K]``: of ones and zeros, what the row takes.
        discretise: ``(gates float32[E, K]) -> int32[L]``, the architecture that gates (or logits) say. Jittable.
        nodes: of each edge, the node whose sum it joins.
    """

    edges: tuple[str, ...]
    options: tuple[tuple[Any, ...], ...]
    gates: Callable[[jax.Array], jax.Array]
    discretise: Callable[[jax.Array], jax.Array]
    nodes: tuple[str, ...]

    @property
    def allowed(self) -> np.ndarray:
        """bool[E, K], which gates there are."""
        most = max(map(len, self.options))
        return np.asarray([[k < len(own) for k in range(most)] for own in self.options])


def plain_relaxation(space: "SearchSpace") -> Relaxation:
    """An edge for each decision, each with a node of its own: one-hot for a row; its strongest option is taken."""
    options = tuple(d.options for d in space.decisions)
    most = max(map(len, options))
    there = np.asarray([[k < len(own) for k in range(most)] for own in options])

    def gates(row):
        return jax.nn.one_hot(jnp.asarray(row), most)

    def discretise(gates):
        return jnp.where(there, gates, -jnp.inf).argmax(-1).astype(jnp.int32)

    names = tuple(d.name for d in space.decisions)
    return Relaxation(names, options, gates, discretise, names)
