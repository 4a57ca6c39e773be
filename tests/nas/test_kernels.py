"""Each primitive and its gradients against XLA's and Flax's own, in every trace a search uses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nas import kernels

KEY = jax.random.key(0)

CONVOLUTIONS = [
    # kernel size, stride, dilation, groups, input channels, output channels
    ((3, 3), 1, 1, 1, 4, 6),
    ((3, 3), 2, 1, 1, 4, 6),
    ((3, 3), 1, 2, 1, 4, 4),
    ((5, 5), 2, 2, 1, 3, 2),
    ((1, 7), 1, 1, 1, 4, 4),
    ((1, 7), (1, 2), 1, 1, 4, 4),
    ((7, 1), (2, 1), 1, 1, 4, 4),
    ((7, 1), 2, 1, 1, 4, 4),
    ((2, 2), 1, 1, 1, 3, 5),
    ((1, 1), 1, 1, 1, 4, 6),
    ((1, 1), 2, 1, 1, 4, 6),
    ((3, 3), 1, 1, 4, 4, 4),
    ((3, 3), 2, 2, 4, 4, 4),
    ((3, 3), (2, 1), 1, 4, 4, 4),
    ((5, 5), 1, 1, 4, 4, 4),
    ((5, 5), (2, 1), 2, 4, 4, 4),
    ((1, 1), 1, 1, 4, 4, 4),
    ((3, 3), 1, 1, 2, 4, 6),
    ((3, 3), 1, 1, 4, 4, 8),
]
SIZES = [(8, 8), (9, 7)]


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.fold_in(KEY, seed), shape).astype(dtype)


def library_conv(x, kernel, stride, dilation, groups):
    padding = [(dilation * (k - 1) // 2,) * 2 for k in kernel.shape[:2]]
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    return lax.conv_general_dilated(
        x, kernel, strides, padding, rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def library_pool(x, window, stride, operation):
    pad = (window - 1) // 2
    shape, strides, padding = (
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    )
    if operation == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, shape, strides, padding)
    total = lax.reduce_window(x, 0.0, lax.add, shape, strides, padding)
    return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, shape, strides, padding)


def in_jit(function, *args):
    return jax.jit(function)(*args)


def in_scan(function, *args):
    return jax.jit(lambda *args: lax.scan(lambda _, x: (_, function(*x)), 0, [a[None] for a in args])[1][0])(*args)


def in_switch(function, *args):
    def other(*args):
        return jnp.zeros_like(function(*args))

    return jax.jit(lambda i, *args: lax.switch(i, [other, function], *args))(1, *args)


def in_vmap(function, *args):
    return jax.jit(jax.vmap(function))(*(jnp.stack([a, 2 * a]) for a in args))[0]


TRACES = [in_jit, in_scan, in_switch, in_vmap]


def assert_same(ours, reference, *args, trace=in_jit, tolerance=2e-5):
    """Values and all gradients agree, under a cotangent that tells positions apart."""
    cotangent = normal(99, *jax.eval_shape(reference, *args).shape)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def value_and_gradients(function, run):
        value, pull_back = jax.vjp(functools.partial(run, function), *args)
        return value, *pull_back(cotangent)

    for value, wanted in zip(value_and_gradients(ours, trace), value_and_gradients(reference, in_jit), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d_equals_the_library(case, size):
    window, stride, dilation, groups, channels, features = case
    x, kernel = normal(1, 3, *size, channels), normal(2, *window, channels // groups, features)

    def ours(x, k):
        return kernels.conv2d(x, k, stride=stride, dilation=dilation, groups=groups)

    assert_same(ours, lambda x, k: library_conv(x, k, stride, dilation, groups), x, kernel)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("trace", TRACES)
def test_conv2d_in_every_trace(trace, window, groups):
    x, kernel = normal(1, 2, 6, 6, 4), normal(2, window, window, 4 // groups, 4)

    def ours(x, k):
        return kernels.conv2d(x, k, groups=groups)

    assert_same(ours, lambda x, k: library_conv(x, k, 1, 1, groups), x, kernel, trace=trace)


@pytest.mark.parametrize("groups", [1, 4])
def test_kernel_gradient_in_unequal_chunks(monkeypatch, groups):
    monkeypatch.setattr(kernels, "CHUNK_ELEMENTS", 3 * 6 * 6 * 4)
    x, kernel = normal(1, 7, 6, 6, 4), normal(2, 3, 3, 4 // groups, 4)

    def ours(x, k):
        return kernels.conv2d(x, k, groups=groups)

    assert_same(ours, lambda x, k: library_conv(x, k, 1, 1, groups), x, kernel)


@pytest.mark.parametrize("groups, window", [(1, 3), (4, 3), (4, 5)])
def test_conv2d_second_order(groups, window):
    x, kernel = normal(1, 2, 6, 6, 4), normal(2, window, window, 4 // groups, 4)

    def after_one_step(conv):
        def loss(k):
            return jnp.square(conv(x, k)).sum()

        return jax.grad(lambda k: loss(k - 1e-3 * jax.grad(loss)(k)))(kernel)

    ours = after_one_step(lambda x, k: kernels.conv2d(x, k, groups=groups))
    np.testing.assert_allclose(
        ours, after_one_step(lambda x, k: library_conv(x, k, 1, 1, groups)), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window, stride", [(2, 2), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("operation", ["avg", "max"])
def test_pools_equal_the_library(operation, window, stride, size):
    pool = {"avg": kernels.avg_pool, "max": kernels.max_pool}[operation]

    def ours(x):
        return pool(x, window, stride=stride)

    assert_same(ours, lambda x: library_pool(x, window, stride, operation), normal(3, 2, *size, 3))


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("operation", ["avg", "max"])
def test_pools_in_every_trace(operation, trace):
    pool = {"avg": kernels.avg_pool, "max": kernels.max_pool}[operation]
    assert_same(
        lambda x: pool(x, 3),
        lambda x: library_pool(x, 3, 1, operation),
        normal(3, 2, 6, 6, 3),
        trace=trace,
    )


def test_the_first_of_equal_maxima_takes_the_gradient():
    gradient = jax.grad(lambda x: kernels.max_pool(x, 2, stride=2).sum())(jnp.zeros((1, 2, 2, 1)))
    assert gradient.reshape(-1).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax(train, affine):
    x = 3 * normal(4, 8, 5, 5, 6) + 1
    layer = nnx.BatchNorm(
        6,
        momentum=0.9,
        use_bias=affine,
        use_scale=affine,
        use_running_average=not train,
        rngs=nnx.Rngs(0),
    )
    layer.mean[...], layer.var[...] = normal(5, 6), jnp.exp(normal(6, 6))
    mean, var = layer.mean[...], layer.var[...]
    scale, bias = (normal(7, 6), normal(8, 6)) if affine else (None, None)
    if affine:
        layer.scale[...], layer.bias[...] = scale, bias

    def ours(x):
        return kernels.batch_norm(x, scale, bias, mean, var, train=train, momentum=0.9)

    frozen = nnx.split(layer)
    y, running = ours(x)
    np.testing.assert_allclose(y, layer(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(running, (layer.mean[...], layer.var[...]), rtol=1e-5, atol=1e-6)

    def weighted(f):
        return jax.grad(lambda x: (f(x) * normal(9, *x.shape)).sum())(x)

    flax_gradient = weighted(lambda x: nnx.merge(*frozen, copy=True)(x))
    np.testing.assert_allclose(weighted(lambda x: ours(x)[0]), flax_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "primitive",
    [
        lambda x: kernels.conv2d(x, normal(1, 3, 3, 8, 8, dtype=x.dtype)),
        lambda x: kernels.conv2d(x, normal(1, 1, 1, 8, 8, dtype=x.dtype)),
        lambda x: kernels.conv2d(x, normal(1, 3, 3, 1, 8, dtype=x.dtype), groups=8),
        lambda x: kernels.avg_pool(x, 3),
        lambda x: kernels.max_pool(x, 3),
        lambda x: kernels.batch_norm(x, jnp.ones(8), None, jnp.zeros(8), jnp.ones(8), train=True, momentum=0.9)[0],
    ],
    ids=["conv3x3", "conv1x1", "depthwise", "avg_pool", "max_pool", "batch_norm"],
)
def test_bfloat16_stays_bfloat16(primitive):
    x = normal(0, 2, 6, 6, 8, dtype=jnp.bfloat16)
    value, pull_back = jax.vjp(primitive, x)
    (gradient,) = pull_back(value)
    assert value.dtype == gradient.dtype == jnp.bfloat16
    wide = primitive(x.astype(jnp.float32))
    np.testing.assert_allclose(value.astype(jnp.float32), wide, rtol=0.05, atol=0.05 * float(jnp.abs(wide).max()))
