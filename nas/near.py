"""A view of a space: the architectures within a few changes of a given one."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.space import Row, SearchSpace


def near(space: SearchSpace, row: Row, edits: int) -> SearchSpace:
    """The space of rows that differ from `row` in at most `edits` decisions; all else is the same.

    Decisions are taken in order, so one that comes after `edits` changes keeps the option of `row`. Where that does not
    fit the changed ones before it, it takes what fits, and such a row may differ in more than `edits` decisions.
    Samples change `edits` decisions, drawn alike; `mutate` of a row with all its changes used undoes one.

    Args:
        space: any; its name, fingerprint and networks stay.
        row: int32[L].
        edits: from 1 to L.

    Raises:
        BadInput: a row that is none of the space, or no such number of edits.
    """
    start = space.check(row)
    if isinstance(edits, bool) or not isinstance(edits, int) or not 1 <= edits <= space.length:
        raise BadInput(
            f"edits is {edits!r}; it must be a whole number from 1 to {space.length}, the decisions of a row"
        )

    def allowed(row, i):
        mask = space.allowed(row, i)
        changed = (row[:i] != start[:i]).sum()
        kept = mask & ((changed < edits) | (np.arange(len(mask)) == start[i]))
        return jnp.where(kept.any(), kept, mask)

    def sample(uniform):
        """The smallest numbers say which decisions change; their later digits, to what."""
        changes = jnp.argsort(jnp.argsort(uniform)) < edits
        sizes = jnp.asarray(space.cardinalities)
        digits = uniform * 4096 % 1
        other = jnp.floor(digits * jnp.maximum(sizes - 1, 1)).astype(jnp.int32)
        other = jnp.minimum(other + (other >= start), sizes - 1)
        return view.settle(jnp.where(changes, other, start), digits)

    described = {"near": start.tolist(), "edits": edits}
    view = replace(space, allowed_of=allowed, sample_of=sample, view=described)
    return view
