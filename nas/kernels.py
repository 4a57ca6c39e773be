"""Array primitives of convolutional networks, at full speed inside `lax.scan` and `lax.switch`.

Everything a shared program trains runs inside a loop or behind a choice, and there XLA's CPU
compiler turns the gradients of the library's convolutions and windows into naive loops, up to
fifty times slower. Most primitives below are sums over *taps*: the shifted views of its input that
a window sees. A view is a slice, which XLA fuses anywhere, and the gradient sums views again.

Images are `[batch, height, width, channels]` and kernels `[height, width, in / groups, out]`, in
float32 or bfloat16; sums over many positions are held in float32. Windows are padded on both sides
of an axis by `dilation * (size - 1) // 2`, at every stride, which is PyTorch's `padding=size // 2`
for odd sizes. Custom gradients allow reverse mode (also twice), `vmap` and any trace, but no `jvp`.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# Elements of a chunk of images whose views stay in a core's cache during a kernel gradient.
CHUNK_ELEMENTS = 2**16
# Groups of a convolution that are computed one by one; more of them compile for longer than they save.
MOST_GROUPS = 8
# The same during a depthwise kernel gradient, which has one view at a time.
DEPTHWISE_CHUNK_ELEMENTS = 2**18


class Window(NamedTuple):
    """The static geometry of a sliding window: taps and steps along height and width."""

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: int = 1

    @property
    def taps(self) -> list[tuple[int, int]]:
        """(row, column) of each tap."""
        return [(i, j) for i in range(self.size[0]) for j in range(self.size[1])]

    @property
    def reach(self) -> tuple[int, int]:
        """Input positions between the first and the last tap."""
        height, width = self.size
        return self.dilation * (height - 1), self.dilation * (width - 1)

    @property
    def padding(self) -> tuple[int, int]:
        """Positions added on each side of height and of width."""
        height, width = self.reach
        return height // 2, width // 2

    def views(self, x: Array, fill: float = 0.0) -> list[Array]:
        """What each tap sees of the input `x`, in the output's height and width."""
        x = _pad(x, [(p, p, 0) for p in self.padding], fill)
        if any(self.padding):
            # Else XLA sees that the middle tap is the unpadded input, and computes that anew in everything that reads
            # it: a chain of pools grows quadratically.
            x = lax.optimization_barrier(x)
        return [self._slice(x, tap, self.stride) for tap in self.taps]

    def returns(self, ys: list[Array], shape: tuple[int, ...], fill: float = 0.0) -> list[Array]:
        """Where each tap puts back its own output-sized `y`: the transpose of `views`."""
        config = []
        for axis, (pad, reach, stride) in enumerate(zip(self.padding, self.reach, self.stride, strict=True), start=1):
            covered = (ys[0].shape[axis] - 1) * stride + 1
            config.append((reach - pad, shape[axis] + pad - covered, stride - 1))
        # A tap further right sees the input further right, so its output lies further left.
        return [self._slice(_pad(y, config, fill), tap, (1, 1)) for y, tap in zip(ys, self.taps[::-1], strict=True)]

    def _slice(self, x: Array, tap: tuple[int, int], stride: tuple[int, int]) -> Array:
        starts = [self.dilation * t for t in tap]
        stops = [n - r + s for n, r, s in zip(x.shape[1:3], self.reach, starts, strict=True)]
        limits = (x.shape[0], *stops, x.shape[3])
        return lax.slice(x, (0, *starts, 0), limits, (1, *stride, 1))


def _pad(x: Array, config: list[tuple[int, int, int]], fill: float) -> Array:
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _wide(x: Array) -> Array:
    return x.astype(_width(x))


def _width(x: Array):
    return jnp.promote_types(x.dtype, jnp.float32)  # float64 stays, where a comparison asks for it


def conv2d(x: Array, kernel: Array, *, stride: int | tuple[int, int] = 1, dilation: int = 1, groups: int = 1) -> Array:
    """Cross-correlates `x[B, H, W, C]` with `kernel[KH, KW, C / groups, O]`, without a bias.

    `stride` is one number or (along height, along width). Returns
    `[B, ceil(H / stride), ceil(W / stride), O]` for odd kernel sizes. Each kind of
    convolution takes the form that is fastest inside loops on a CPU; on other devices gradients
    and depthwise convolutions are the library's:

    * dense: the library's convolution with its own gradients, because the library's gradient of
      the kernel (and of the input, at a stride) is a naive loop;
    * 1x1, and windows that cover the image, as 3x3 on 2x2 pixels: a matrix product;
    * depthwise (`groups == C == O`): a sum of shifted products, because XLA's grouped convolution
      is a naive loop even outside `scan`;
    * up to `MOST_GROUPS` groups: so many dense convolutions side by side, for the same reason.

    Other groupings go to the library unchanged.
    """
    window = Window(_pair(kernel.shape[:2]), _pair(stride), dilation)
    if groups == 1:
        return _dense(x, kernel, window)
    if groups == x.shape[-1] == kernel.shape[-1]:
        return _depthwise(x, kernel, window)
    if groups <= MOST_GROUPS:
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([_dense(x, kernel, window) for x, kernel in parts], -1)
    return _library(x, kernel, window, groups)


def _on_cpu(ours: Callable, library: Callable) -> Callable:
    """Ours where JAX computes on a CPU; `lax.platform_dependent` loses residuals in gradients of gradients."""
    return ours if jax.default_backend() == "cpu" else library


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _library(x: Array, kernel: Array, window: Window, groups: int = 1) -> Array:
    return lax.conv_general_dilated(
        x, kernel, window.stride, [(p, p) for p in window.padding],
        rhs_dilation=(window.dilation,) * 2, feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x: Array, kernel: Array, window: Window) -> Array:
    taps = math.prod(window.size)
    if taps == 1 or math.prod(x.shape[1:3]) <= taps:
        views = jnp.concatenate(window.views(x), axis=-1)
        return jnp.einsum("bhwt,to->bhwo", views, kernel.reshape(-1, kernel.shape[-1]))
    return _library(x, kernel, window)


def _dense_backward(window, residuals, g):
    def ours(x, kernel, g):
        dk = _over_chunks(products, x, g).astype(kernel.dtype)
        symmetric = all(r == 2 * p for r, p in zip(window.reach, window.padding, strict=True))
        if window.stride == (1, 1) and symmetric:
            return _dense(g, kernel[::-1, ::-1].swapaxes(2, 3), window), dk
        shares = [jnp.einsum("bhwo,co->bhwc", g, kernel[tap]) for tap in window.taps]
        return sum(window.returns(shares, x.shape)), dk

    def products(x, g):
        views = jnp.concatenate(window.views(x), axis=-1)
        # Output channels first: XLA's CPU matrix product takes half the time of the other order, to which the compiler
        # would return by folding the transpose into it, were it not for the barrier.
        sums = jnp.einsum("bhwo,bhwt->ot", g, views, preferred_element_type=_width(x))
        return lax.optimization_barrier(sums).T.reshape(kernel.shape)

    def library(x, kernel, g):
        return jax.vjp(functools.partial(_library, window=window), x, kernel)[1](g)

    x, kernel = residuals
    return _on_cpu(ours, library)(x, kernel, g)


_dense.defvjp(lambda x, k, window: (_dense(x, k, window), (x, k)), _dense_backward)


ZERO = np.int32(0)  # starts of a slice are of one type, with 64-bit numbers switched on as well


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: Array, kernel: Array, window: Window) -> Array:
    def ours(x, kernel):
        return _weighted(window.views(x), kernel).astype(x.dtype)

    def library(x, kernel):
        return _library(x, kernel, window, groups=x.shape[-1])

    return _on_cpu(ours, library)(x, kernel)


def _depthwise_backward(window, residuals, g):
    def ours(x, kernel, g):
        shares = window.returns([g] * len(window.taps), x.shape)
        dk = _over_chunks(products, x, g, DEPTHWISE_CHUNK_ELEMENTS)
        return _weighted(shares, kernel).astype(x.dtype), dk.astype(kernel.dtype)

    def products(x, g):
        padded = _pad(x, [(p, p, 0) for p in window.padding], 0.0)
        images, height, width, channels = g.shape
        rows, columns = window.dilation * np.asarray(window.taps, np.int32).T

        def product(row, column):
            covered = [(n - 1) * s + 1 for n, s in zip((height, width), window.stride, strict=True)]
            view = lax.dynamic_slice(padded, (ZERO, row, column, ZERO), (images, *covered, channels))
            return (_wide(view[:, :: window.stride[0], :: window.stride[1]]) * _wide(g)).sum((0, 1, 2))

        def product_of_rows(row, start):
            view = lax.dynamic_slice(lines, (ZERO, row, start), (images, height, width * channels))
            return (_wide(view) * _wide(g.reshape(view.shape))).sum((0, 1)).reshape(width, channels).sum(0)

        # a loop over the taps runs as fast as what is written out, and compiles in a fraction of the time
        if window.stride == (1, 1):
            # width and channels are one axis, so that there are long vectors to add up
            lines = padded.reshape(*padded.shape[:2], -1)
            sums = lax.map(lambda start: product_of_rows(*start), (rows, columns * channels))
        else:
            sums = lax.map(lambda start: product(*start), (rows, columns))
        return sums.reshape(kernel.shape)

    def library(x, kernel, g):
        call = functools.partial(_library, window=window, groups=x.shape[-1])
        return jax.vjp(call, x, kernel)[1](g)

    x, kernel = residuals
    return _on_cpu(ours, library)(x, kernel, g)


_depthwise.defvjp(lambda x, k, window: (_depthwise(x, k, window), (x, k)), _depthwise_backward)


def _weighted(views: list[Array], kernel: Array) -> Array:
    weights = _wide(kernel).reshape(len(views), -1)
    return sum(_wide(view) * weight for view, weight in zip(views, weights, strict=True))


def _over_chunks(
    products: Callable[[Array, Array], Array], x: Array, g: Array, elements: int = CHUNK_ELEMENTS
) -> Array:
    """Sums `products(x, g)` over chunks of images small enough for their views to stay in cache."""
    batch = x.shape[0]
    images = max(1, min(batch, batch * elements // max(x.size, g.size)))
    chunks = -(-batch // images)
    if chunks == 1:
        return products(x, g)

    def chunked(a):
        a = jnp.pad(a, [(0, chunks * images - batch)] + [(0, 0)] * 3)
        return a.reshape(chunks, images, *a.shape[1:])

    def add(total, chunk):
        return total + products(*chunk), None

    parts = chunked(x), chunked(g)
    total = jax.eval_shape(products, *(part[0] for part in parts))
    return lax.scan(add, jnp.zeros(total.shape, total.dtype), parts)[0]


def avg_pool(x: Array, window: int, *, stride: int = 1) -> Array:
    """Means over `window x window` positions of `x[B, H, W, C]`, not counting the padding.

    Window 3 pads by 1, window 2 by 0 (with stride 2, the shortcut of a residual block). The custom
    gradient is one sum of views, ten times faster on a CPU than the padded slices that JAX adds up.
    """
    return _avg_pool(x, Window((window, window), (stride, stride)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _avg_pool(x: Array, window: Window) -> Array:
    total = functools.reduce(jnp.add, (_wide(view) for view in window.views(x)))
    return (total / _counts(x.shape, window)).astype(x.dtype)


def _avg_pool_backward(window, x, g):
    share = _wide(g) / _counts(x.shape, window)
    return (sum(window.returns([share] * len(window.taps), x.shape)).astype(x.dtype),)


_avg_pool.defvjp(lambda x, window: (_avg_pool(x, window), x), _avg_pool_backward)


def _counts(shape: tuple[int, ...], window: Window) -> np.ndarray:
    """How many positions of the image each output averages, `[H', W', 1]`."""

    def along(size, k, pad, stride):
        starts = np.arange(-pad, size + pad - k + 1, stride)
        return np.minimum(starts + k, size) - np.maximum(starts, 0)

    rows, columns = (along(*axis) for axis in zip(shape[1:3], window.size, window.padding, window.stride, strict=True))
    return np.outer(rows, columns)[:, :, None].astype(np.float32)


def max_pool(x: Array, window: int, *, stride: int = 1) -> Array:
    """Maxima over `window x window` positions of `x[B, H, W, C]`, never of the padding.

    The custom gradient keeps only which tap won, as int8. The first of equals takes it all, as in
    PyTorch: equals are common after a ReLU, and `jnp.maximum` shares between them unevenly.
    """
    return _max_pool(x, Window((window, window), (stride, stride)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, window: Window) -> Array:
    return functools.reduce(jnp.maximum, window.views(x, fill=-jnp.inf))


def _max_pool_forward(x, window):
    best, *others = window.views(x, fill=-jnp.inf)
    winner = jnp.zeros(best.shape, jnp.int8)
    for tap, view in enumerate(others, start=1):
        winner = jnp.where(view > best, jnp.int8(tap), winner)
        best = jnp.maximum(best, view)
    return best, (x, winner)


def _max_pool_backward(window, residuals, g):
    x, winner = residuals
    taps = len(window.taps)
    shares = window.returns([g] * taps, x.shape)
    winners = window.returns([winner] * taps, x.shape, fill=-1)
    return (sum(jnp.where(won == t, g, 0) for t, (won, g) in enumerate(zip(winners, shares, strict=True))),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def global_avg_pool(x: Array) -> Array:
    """Means of `x[B, H, W, C]` over height and width, `[B, C]`."""
    return x.mean((1, 2))


def batch_norm(
    x: Array, scale: Array | None, bias: Array | None, mean: Array, var: Array,
    *, train: bool, momentum: float, epsilon: float = 1e-5,
) -> tuple[Array, tuple[Array, Array]]:  # fmt: skip
    """Normalises the last axis of `x[..., C]`; returns `(y, (new_mean, new_var))`.

    Training uses the batch's mean and biased variance and moves the running ones as Flax does:
    `new = momentum * old + (1 - momentum) * batch`. Otherwise the running statistics are used and
    returned. `scale` and `bias` are `[C]` or None; statistics are `[C]` in float32.

    Both moments come from one pass over `x`, as in Flax: a fifth faster than two passes. A custom
    gradient measured no faster than JAX's own, so there is none.
    """
    wide = _wide(x)
    running = (mean, var)
    if train:
        axes = tuple(range(x.ndim - 1))
        mean = wide.mean(axes)
        var = jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0)
        running = (
            momentum * running[0] + (1 - momentum) * mean,
            momentum * running[1] + (1 - momentum) * var,
        )
    factor = lax.rsqrt(var + epsilon)
    if scale is not None:
        factor = factor * _wide(scale)
    y = (wide - mean) * factor
    if bias is not None:
        y = y + _wide(bias)
    return y.astype(x.dtype), running
