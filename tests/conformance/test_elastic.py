"""Elastic supernets of the spaces that have one: sub-networks extracted give and learn what the supernet does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nas.elastic import elastic_supernet, extreme, share
from nas.network import Network
from nas.space import Macro
from search_spaces import SPACES

# space, arguments that make it small, a macro that compiles in seconds
TABLE = [
    ("ofa_mbv3_small", {"resolutions": [8], "kernels": [3, 5], "expands": [1, 2], "depths": [1, 2]}, (4, (8, 8, 3))),
    (
        "ofa_resnet",
        {"ratios": [0.25, 0.5], "multipliers": [0.5, 1], "channels": [16, 32], "layers": [2, 2], "fewer": [1, 0]},
        (8, (8, 8, 3)),
    ),
]
BATCH = 8
RATE, MOMENTUM = 0.05, 0.9


class Elastic:
    """One space's elastic supernet; compiled once for its tests."""

    def __init__(self, name, arguments, frame):
        self.space, self.macro = SPACES[name](**arguments), Macro(frame[0], 1, frame[1], 10)
        self.supernet = elastic_supernet(self.space, self.macro)
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(BATCH, *self.macro.input)).astype(np.float32)
        self.y = rng.integers(0, self.macro.classes, BATCH)
        # off their first values, so that a mixed-up one shows; a network alone has no maps between kernels
        shake = lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) ** 2  # noqa: E731
        weights, self.stats = jax.tree.map(shake, self.supernet.init(jax.random.key(0)))
        self.weights = without_maps(weights)

    def alone(self, row):
        """The extracted network, with XLA's own convolutions as Flax has them."""
        model = Network(self.space.layers(row, self.macro))
        for module in model.modules.values():
            if isinstance(module, nnx.Conv):
                module.conv_general_dilated = jax.lax.conv_general_dilated
        return model.load(*self.supernet.extract(self.weights, self.stats, row))

    def loss(self, out):
        return optax.softmax_cross_entropy_with_integer_labels(out, self.y).mean()


def without_maps(arrays):
    return {
        layer: {name: jnp.zeros_like(a) if name.startswith("to_") else a for name, a in own.items()}
        for layer, own in arrays.items()
    }


@functools.cache
def elastic(name):
    return Elastic(*next(entry for entry in TABLE if entry[0] == name))


@pytest.fixture(params=[name for name, *_ in TABLE])
def case(request):
    return elastic(request.param)


def close(a, b, tolerance=1e-4):
    def check(x, y):
        size = max(1.0, np.abs(y).max(initial=0))  # rounding of a sum goes with its largest terms
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * size)

    jax.tree.map(check, a, b)


def test_fifty_extracted_networks_give_what_the_supernet_gives(case):
    predict = jax.jit(lambda row: case.supernet.apply(case.weights, case.stats, case.x, row, train=False)[0])
    rows = np.unique(np.asarray(case.space.sample(jax.random.key(1), 100)), axis=0)
    rows = np.random.default_rng(0).permutation(rows)[:50]
    assert len(rows) == 50
    for row in rows:
        model = case.alone(row)
        model.eval()
        close(predict(row), model(case.x))
    assert predict._cache_size() == 1


def test_three_steps_in_the_supernet_are_three_of_the_extracted_network(case):
    kinds = share(case.space, case.macro).kinds
    ends = [extreme(case.space, kinds, largest) for largest in (False, True)]
    # the deepest network with the smallest slices: each layer is there, and none of them is whole
    deep = [kinds.get(d.name) == "depth" for d in case.space.decisions]
    row = np.where(deep, ends[1], ends[0]).astype(np.int32)
    model = case.alone(row)
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, MOMENTUM), wrt=nnx.Param)

    @jax.jit
    def step(weights, stats, trace, row):
        def loss(weights):
            out, moved, _ = case.supernet.apply(weights, stats, case.x, row, train=True)
            return case.loss(out), moved

        gradients, moved = jax.grad(loss, has_aux=True)(weights)
        trace = jax.tree.map(lambda t, g: MOMENTUM * t + g, trace, without_maps(gradients))
        return jax.tree.map(lambda w, t: w - RATE * t, weights, trace), moved, trace

    @nnx.jit
    def own_step(model, optimizer):
        gradients = nnx.grad(lambda m: case.loss(m(case.x)))(model)
        optimizer.update(model, gradients)

    weights, stats = case.weights, case.stats
    trace = jax.tree.map(jnp.zeros_like, weights)
    for _ in range(3):
        weights, stats, trace = step(weights, stats, trace, row)
        own_step(model, optimizer)
    ours, theirs = case.supernet.extract(weights, stats, row), model.weights()
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    close(ours, theirs)
    before = case.supernet.extract(case.weights, case.stats, row)[0]
    assert all(
        np.abs(own["kernel"] - before[name]["kernel"]).max() > 1e-4 for name, own in ours[0].items() if "kernel" in own
    )
