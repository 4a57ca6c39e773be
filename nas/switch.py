"""`lax.switch` whose gradient keeps only what the branch that ran needs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

# Their results are worth keeping for the gradient. The rest, such as activations and normalisation, takes less time to
# compute again than to write and read. What has a gradient of its own, as most of `nas.kernels`, passes for costly.
KEPT = {
    primitives.conv_general_dilated_p,
    primitives.dot_general_p,
    primitives.reduce_sum_p,
    primitives.reduce_max_p,
    primitives.custom_vjp_call_p,
}


def switch(index: jax.Array, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """``branches[index](*operands)`` for a traced index; differentiable in reverse mode.

    The gradient of ``lax.switch`` hands the residuals of *every* branch from the forward to the backward pass, zeros
    for those that did not run; with five operations on an edge that writes more memory than the operations do. Here a
    branch keeps only what is costly to compute again, branches share residual slots of equal shape, and what is an
    operand already is not copied.

    Args:
        index: int32, from 0 to below the number of branches.
        branches: pure functions of the operands that give the same shapes and dtypes, closing over no tracer that is
            differentiated.
        operands: pytrees of arrays.
    """
    flat, tree = jax.tree.flatten(operands)
    flat_branches = [lambda *leaves, b=b: b(*jax.tree.unflatten(tree, leaves)) for b in branches]
    recipes: dict[int, tuple] = {}

    @jax.custom_vjp
    def call(index, *leaves):
        return lax.switch(index, flat_branches, *leaves)

    def keeping(k, branch):
        # Only the backward branch computes again, in a computation of its own, where no barrier is needed.
        branch = jax.checkpoint(branch, prevent_cse=False, policy=lambda primitive, *_, **__: primitive in KEPT)

        @jax.jit  # traced once, for its residuals' shapes and for the switch
        def run(*leaves):
            out, pull = jax.vjp(branch, *leaves)
            kept, shape = jax.tree.flatten(pull)
            place = {id(leaf): i for i, leaf in enumerate(leaves)}
            own = [leaf for leaf in kept if id(leaf) not in place]
            recipes[k] = shape, [place.get(id(leaf)) for leaf in kept], [_kind(leaf) for leaf in own]
            return out, own

        return run

    runs = [keeping(k, b) for k, b in enumerate(flat_branches)]

    def forward(index, *leaves):
        slots = _slots([[_kind(leaf) for leaf in jax.eval_shape(run, *leaves)[1]] for run in runs])

        def branch(run):
            def go(*leaves):
                out, own = run(*leaves)
                return out, _pack(own, slots)

            return go

        out, kept = lax.switch(index, [branch(run) for run in runs], *leaves)
        return out, (index, leaves, kept)

    def backward(residuals, gradient):
        index, leaves, slots = residuals
        kinds = [_kind(s) for s in slots]

        def branch(k):
            def go(gradient, leaves, slots):
                shape, places, own = recipes[k]
                found = iter(_unpack(slots, kinds, own))
                kept = [next(found) if place is None else leaves[place] for place in places]
                return jax.tree.unflatten(shape, kept)(gradient)

            return go

        pulled = lax.switch(index, [branch(k) for k in range(len(branches))], gradient, leaves, slots)
        return None, *pulled

    call.defvjp(forward, backward)
    return call(index, *flat)


def _kind(leaf):
    return jnp.shape(leaf), jnp.result_type(leaf)


def _slots(branches):
    """For each shape and dtype as many slots as the branch that needs most of them."""
    kinds = dict.fromkeys(kind for kinds in branches for kind in kinds)
    return [kind for kind in kinds for _ in range(max(kinds.count(kind) for kinds in branches))]


def _pack(own, kinds):
    left = list(own)
    packed = []
    for shape, dtype in kinds:
        at = next((i for i, leaf in enumerate(left) if _kind(leaf) == (shape, dtype)), None)
        packed.append(jnp.zeros(shape, dtype) if at is None else left.pop(at))
    return packed


def _unpack(slots, kinds, own):
    left = list(zip(kinds, slots, strict=True))
    for kind in own:
        at = next(i for i, (k, _) in enumerate(left) if k == kind)
        yield left.pop(at)[1]
