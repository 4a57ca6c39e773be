"""The shared program against each architecture's own network: outputs, gradients, training, and no compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nas.network import Network, apply_layers, trains
from nas.space import Macro
from search_spaces import SPACES

# space, what its factory is called with, a macro small enough to compile in seconds
TABLE = [
    ("nasbench201", {}, Macro(4, 1, (8, 8, 3), 10)),
    ("nats_size", {"widths": (4, 8)}, Macro(8, 1, (8, 8, 3), 10)),
    ("darts", {"nodes": 3, "operations": ["skip_connect", "max_pool_3x3", "sep_conv_3x3"]}, Macro(4, 3, (8, 8, 3), 10)),
    (
        "nasnet",
        {"nodes": 3, "operations": ["skip_connect", "conv_7x1_1x7", "max_pool_5x5"]},
        Macro(4, 3, (8, 8, 3), 10),
    ),
    ("amoebanet", {"nodes": 3, "operations": ["dil_conv_3x3", "avg_pool_3x3"]}, Macro(4, 3, (8, 8, 3), 10)),
    ("nas_bench_macro", {"most_layers": 1}, Macro(8, 1, (8, 8, 3), 10)),
    ("fbnet", {"blocks": ["k3_e1_g2", "skip"], "most_layers": 1, "head": 64}, Macro(4, 1, (8, 8, 3), 10)),
    ("proxylessnas", {"blocks": ["k3_e3"], "most_layers": 2}, Macro(4, 1, (8, 8, 3), 10)),
    ("mnasnet", {"blocks": ["conv", "sep_conv"], "most_layers": 2, "stages": 2}, Macro(4, 1, (8, 8, 3), 10)),
    (
        "mobile",
        {"base": "mobilenet_v3_small", "block": ["conv"], "kernel": [], "expand": [], "most_layers": 1},
        Macro(4, 1, (8, 8, 3), 10),
    ),
    (
        "ofa_mbv3",
        {"resolutions": [8], "kernels": [3], "expands": [1, 2], "depths": [1, 2]},
        Macro(4, 1, (8, 8, 3), 10),
    ),
    (
        "ofa_mbv3_small",
        {"resolutions": [8], "kernels": [3], "expands": [2], "depths": [1, 2]},
        Macro(4, 1, (8, 8, 3), 10),
    ),
    (
        "ofa_resnet",
        {"ratios": [0.25], "multipliers": [0.5, 1], "channels": [32], "layers": [2], "fewer": [1, 0]},
        Macro(64, 1, (8, 8, 3), 10),
    ),
    ("darts_rnn", {"nodes": 4}, Macro(6, 1, (5,), 12)),
]
BATCH = 16
RATE, MOMENTUM = 0.05, 0.9
# minutes of compilation together, of networks whose blocks and cells are those of other spaces
LONG = ("ofa_mbv3", "nasnet", "proxylessnas")
# thirty batch norms in a row make fifty times more of rounding with every step: float64 shows that it is no more
WIDE = ("ofa_mbv3",)


class Shared:
    """One space's shared program, with its jitted uses; compiled once for all tests of the space."""

    def __init__(self, name, arguments, macro):
        self.space, self.macro = SPACES[name](**arguments), macro
        self.supernet = self.space.supernet(macro)
        self.rows = np.asarray(self.space.sample(jax.random.key(3), 4), np.int32)
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(BATCH, *macro.input)).astype(np.float32)
        self.y = rng.integers(0, macro.classes, BATCH)
        if len(macro.input) == 1:  # a text: a label for each token
            self.x, self.y = (rng.integers(0, macro.classes, (BATCH, *macro.input), np.int32) for _ in range(2))
        weights, stats = self.supernet.init(jax.random.key(0))
        # statistics and affine parameters off their first values, so that a mixed-up one shows
        shake = lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) ** 2  # noqa: E731
        dtype = np.float64 if name in WIDE else np.float32
        self.x = self.x if self.x.dtype == np.int32 else self.x.astype(dtype)
        self.weights, self.stats = jax.tree.map(lambda a: jnp.asarray(shake(a), dtype), (weights, stats))
        self.tolerance = 1e-10 if name in WIDE else 1e-4
        self.step = jax.jit(self._step)
        self.predict = jax.jit(lambda w, s, row: self.supernet.apply(w, s, self.x, row, train=False)[0])

    def _step(self, weights, stats, trace, row):
        """One step of SGD with momentum, written out: (weights, stats, trace, outputs, gradients)."""

        def loss(weights):
            out, moved, _ = self.supernet.apply(weights, stats, self.x, row, train=True)
            return cross_entropy(out, self.y), (out, moved)

        gradients, (out, moved) = jax.grad(loss, has_aux=True)(weights)
        trace = jax.tree.map(lambda t, g: MOMENTUM * t + g, trace, gradients)
        return jax.tree.map(lambda w, t: w - RATE * t, weights, trace), moved, trace, out, gradients

    def start(self, row):
        zeros = jax.tree.map(jnp.zeros_like, self.weights)
        return self.step(self.weights, self.stats, zeros, row)


def cross_entropy(out, labels):
    return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()


@functools.cache
def shared(name):
    return Shared(*next(entry for entry in TABLE if entry[0] == name))


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n, *_ in TABLE])
def case(request):
    with jax.enable_x64(request.param in WIDE):
        yield shared(request.param)


def close(a, b, tolerance=1e-5):
    def check(x, y):
        size = max(1.0, np.abs(y).max(initial=0))  # rounding of a sum goes with its largest terms
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * size)

    jax.tree.map(check, a, b)


def plain(model):
    """The network with XLA's own convolutions throughout, as Flax has them: no code shared with the shared program."""
    for module in model.modules.values():
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = jax.lax.conv_general_dilated
    return model


def own_network(case, row, weights, stats):
    return plain(Network(case.space.layers(row, case.macro)).load(*case.supernet.extract(weights, stats, row)))


def test_every_space_is_in_the_table():
    assert [name for name, *_ in TABLE] == [n for n in SPACES if n not in ("gpt", "hat")], "these alone have none"


def test_what_is_extracted_are_the_layers_that_train(case):
    for row in case.rows:
        weights, stats = case.supernet.extract(case.weights, case.stats, row)
        names = {layer.name for layer in case.space.layers(row, case.macro) if trains(layer)}
        assert set(weights) | set(stats) == names


def test_the_layers_as_pure_functions_give_the_same_outputs_and_gradients():
    """One space, because the operations are those of the shared program."""
    case = shared("nasbench201")
    row = case.rows[0]
    layers = case.space.layers(row, case.macro)
    weights, stats = case.supernet.extract(case.weights, case.stats, row)

    @jax.jit
    def own(weights):
        def loss(weights):
            out, moved = apply_layers(layers, weights, stats, case.x, train=True)
            return cross_entropy(out, case.y), (out, moved)

        return *jax.grad(loss, has_aux=True)(weights), apply_layers(layers, weights, stats, case.x, train=False)[0]

    _, moved, _, out, gradients = case.start(row)
    own_gradients, (own_out, own_moved), predicted = own(weights)
    close(out, own_out)
    close(case.supernet.extract(gradients, moved, row), (own_gradients, own_moved))
    close(case.predict(case.weights, case.stats, row), predicted)


def test_outputs_gradients_and_three_steps_are_those_of_the_flax_network(case):
    row, weights, stats, tolerance = case.rows[2], case.weights, case.stats, case.tolerance
    model = own_network(case, row, weights, stats)
    trace = jax.tree.map(jnp.zeros_like, weights)
    predict = nnx.jit(lambda model: model(case.x))
    model.eval()
    close(case.predict(weights, stats, row), predict(model))
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, MOMENTUM), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            out = model(case.x)
            return cross_entropy(out, case.y), out

        gradients, out = nnx.grad(loss, has_aux=True)(model)
        optimizer.update(model, gradients)
        return out

    for i in range(3):
        weights, stats, trace, out, _ = case.step(weights, stats, trace, row)
        flax_out = step(model, optimizer)
        if i == 0:  # after one step the weights say what the gradients were, and the statistics are of one batch
            close(out, flax_out, tolerance / 10)
            close(case.supernet.extract(weights, stats, row), model.weights(), tolerance / 10)
    close(case.supernet.extract(weights, stats, row), model.weights(), tolerance)
    model.eval()
    close(case.predict(weights, stats, row), predict(model), 10 * tolerance)


def test_what_a_row_does_not_use_stays(case):
    row = case.rows[0]
    weights, stats, *_ = case.start(row)
    used = {layer.name for layer in case.space.layers(row, case.macro)}
    for before, after in ((case.weights, weights), (case.stats, stats)):
        unused = [name for name in before if name not in used]
        close({n: before[n] for n in unused}, {n: after[n] for n in unused}, 0)


def test_another_row_compiles_nothing(case):
    for row in case.rows:
        case.start(row)
        case.predict(case.weights, case.stats, row)
    assert case.step._cache_size() == case.predict._cache_size() == 1
