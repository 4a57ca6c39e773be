"""`switch` against `lax.switch`: values, gradients, and what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nas import kernels
from nas.network import BATCH_NORM_MOMENTUM
from nas.space import Decision, Macro, SearchSpace
from nas.switch import switch

SHAPE = (2, 4, 4, 3)
SCALES = jnp.arange(1.0, 4.0)  # closed over by a branch


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def norm_conv(x, weights):
    y = kernels.conv2d(jax.nn.relu(x), weights["kernel"])
    return kernels.batch_norm(y, weights["scale"], None, jnp.zeros(3), jnp.ones(3), train=True, momentum=0.9)[0]


def branches(shift):
    """Branches that keep nothing, that keep operands, and that keep arrays of equal and of different shapes."""
    return [
        lambda x, weights, places: jnp.zeros_like(x),
        lambda x, weights, places: x + shift.astype(x.dtype),
        lambda x, weights, places: norm_conv(x, weights),
        lambda x, weights, places: norm_conv(norm_conv(x, weights), weights) * SCALES.astype(x.dtype),
        lambda x, weights, places: kernels.max_pool(jnp.tanh(x), 3),
        lambda x, weights, places: jnp.einsum("bhwc,cd->bhwd", x, weights["kernel"][0, 0])[..., places],
        lambda x, weights, places: x * weights["scale"] * places.astype(x.dtype),
    ]


def operands(dtype=jnp.float32):
    weights = {"kernel": normal(1, 3, 3, 3, 3, dtype=dtype), "scale": normal(2, 3, dtype=dtype)}
    return normal(0, *SHAPE, dtype=dtype), weights, jnp.asarray([2, 0, 1])


def loss(choose, index, x, weights, places, shift=0.5):
    y = choose(index, branches(jnp.float32(shift)), x, weights, places)
    return (y * normal(3, *SHAPE, dtype=x.dtype)).sum()


def assert_close(ours, wanted, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()))


def value_and_gradient(choose):
    return jax.jit(lambda i, *args: jax.value_and_grad(lambda x, w, p: loss(choose, i, x, w, p), (0, 1))(*args))


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)], ids=["float32", "bfloat16"])
def test_every_branch_equals_lax_switch(dtype, tolerance):
    ours, wanted = value_and_gradient(switch), value_and_gradient(lax.switch)
    for index in range(len(branches(jnp.float32(0)))):
        assert_close(ours(index, *operands(dtype)), wanted(index, *operands(dtype)), tolerance)


def test_without_jit_and_without_gradient():
    for index in (1, 3):
        assert_close(loss(switch, jnp.int32(index), *operands()), loss(lax.switch, jnp.int32(index), *operands()))


def test_inside_scan_with_a_branch_for_each_step():
    def run(choose):
        def total(x, weights, places):
            def step(x, index):
                y = choose(index, branches(jnp.float32(0.1)), x, weights, places)
                return y, y.sum()

            return lax.scan(step, x, jnp.asarray([2, 4, 1, 5, 3]))[1].sum()

        return jax.jit(jax.value_and_grad(total, (0, 1)))(*operands())

    assert_close(run(switch), run(lax.switch), 1e-4)


def test_nested_and_several_outputs():
    def run(choose):
        def inner(index, x):
            return choose(index, [jnp.sin, lambda x: jnp.square(x) @ jnp.ones((3, 3))], x)

        def total(x, scale):
            cases = [lambda x, s: (inner(1, x) * s, s), lambda x, s: (x, jnp.float32(2)), lambda x, s: (-x * s, 3 * s)]
            y, s = choose(jnp.int32(0), cases, x, scale)
            return (y * s).sum()

        return jax.jit(jax.value_and_grad(total, (0, 1)))(normal(0, *SHAPE), jnp.float32(1.5))

    assert_close(run(switch), run(lax.switch))


def test_branches_share_what_they_keep_for_the_gradient():
    x, weights, _ = operands()
    convs = [lambda x, w, k=k: norm_conv(x * k, w) for k in range(1, 6)]
    _, pull = jax.vjp(lambda x, w: switch(jnp.int32(2), [*convs, lambda x, w: x], x, w), x, weights)
    images = {id(leaf): leaf for leaf in jax.tree.leaves(pull) if jnp.shape(leaf) == SHAPE}
    assert len(images) == 2  # the operand, and the convolution before its norm


def test_statistics_move_only_where_an_operation_ran():
    def network(net, macro):
        def conv_bn(size):
            return lambda: net.batch_norm(net.conv(net.input, 4, size))

        return net.linear(net.global_avg_pool(net.choice("op", {"a": conv_bn(1), "b": conv_bn(3)})), macro.classes)

    macro = Macro(width=4, depth=1, input=(6, 6, 3), classes=2)
    space = SearchSpace("two", (Decision("op", ("a", "b")),), network, macro)
    supernet = space.supernet(macro)
    weights, stats = supernet.init(jax.random.key(0))
    x = normal(1, 5, 6, 6, 3, dtype=jnp.bfloat16)
    cast = jax.tree.map(lambda a: a.astype(jnp.bfloat16), weights)
    out, moved, _ = jax.jit(lambda w, s, x, row: supernet.apply(w, s, x, row, train=True))(
        cast, stats, x, jnp.array([1])
    )
    assert out.dtype == jnp.bfloat16
    for name, before in stats.items():
        after = moved[name]
        assert after["mean"].dtype == after["var"].dtype == jnp.float32
        if ".a." in name:
            assert_close(after, before, 0)
        else:
            y = kernels.conv2d(x, cast["op.b.conv"]["kernel"]).astype(jnp.float32)
            assert_close(after["mean"], (1 - BATCH_NORM_MOMENTUM) * y.mean((0, 1, 2)), 1e-3)
