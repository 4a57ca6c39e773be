"""From a population to a child: tournament, crossover, mutation. What evolutionary strategies share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.space import SearchSpace

Breed = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def breeder(
    name: str,
    space: SearchSpace,
    *,
    tournament: int,
    crossover: float,
    identity: float,
    connections: float | None,
) -> tuple[int, Breed]:
    """U, and ``(uniform float32[U], rows int32[P, L], ranks float32[P], alive int32) -> child int32[L]``.

    `regularized_evolution` says what the arguments are. The first `alive` members are drawn from, with replacement; of
    equal ranks the one drawn first wins. `uniform` is in [0, 1): see `SearchSpace.sample_from`.

    Raises:
        BadInput: a share outside of 0 to 1, or a share of connections in a space without them.
    """
    for what, share in (("crossover", crossover), ("identity", identity), ("connections", connections or 0.0)):
        if not 0 <= share <= 1:
            raise BadInput(f"{name}: {what} is {share}; it must be from 0 to 1")
    weights = None if connections is None else mutation_weights(name, space, connections)

    length = space.length
    sizes = [tournament, length + 1]  # numbers for each step, in the order they are taken
    sizes += [1, tournament, 2 * length] if crossover else []
    sizes += [1] if identity else []

    def winner(uniform, rows, ranks, alive):
        members = jnp.minimum((uniform * alive).astype(jnp.int32), jnp.maximum(alive - 1, 0))
        return rows[members[jnp.argmax(ranks[members])]]

    def breed(uniform, rows, ranks, alive):
        fight, change, *more = jnp.split(uniform, np.cumsum(sizes)[:-1])
        child = winner(fight, rows, ranks, alive)
        if crossover:
            coin, fight, mix, *more = more
            mixed = space.cross_from(mix, child, winner(fight, rows, ranks, alive))
            child = jnp.where(coin[0] < crossover, mixed, child)
        mutant = space.mutate_from(change, child, weights)
        return jnp.where(more[0][0] < identity, child, mutant) if identity else mutant

    return sum(sizes), breed


def mutation_weights(name: str, space: SearchSpace, connections: float) -> jax.Array:
    """float32[L]: chances of the decisions such that connections, named ``*input``, have this share of mutations.

    Raises:
        BadInput: a share of decisions that the space does not have.
    """
    chosen = jnp.asarray([d.name.endswith("input") for d in space.decisions])
    kinds = (("connections", chosen, connections), ("other decisions", ~chosen, 1 - connections))
    for what, some, share in kinds:
        if share and not some.any():
            raise BadInput(
                f"{name}: connections={connections} gives {what} a share of {share:g}, but space '{space.name}' has "
                "none; leave connections out"
            )
    each = [jnp.where(some, share / jnp.maximum(some.sum(), 1), 0.0) for _, some, share in kinds]
    return each[0] + each[1]
