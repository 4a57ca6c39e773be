"""Memory without compiling, against what XLA says of the compiled program."""

import jax
import pytest

from experiments.bench_memory import MACROS, xla_memory
from hw_models.memory import inference_memory, training_memory
from nas.builder import LayerBuilder
from nas.layers import counts
from nas.recipe import Recipe
from nas.supernet import network_supernet
from nas.train import make_program
from search_spaces import nasbench201

LAYERS = nasbench201().layers([3, 1, 2, 4, 0, 3], MACROS["nasbench201"])


@pytest.mark.parametrize("optimizer, moments", [("sgd", 1), ("adamw", 2)])
def test_what_is_kept_between_steps_is_counted_exactly(optimizer, moments):
    recipe = Recipe(optimizer=optimizer)
    found = training_memory(LAYERS, recipe)
    state = jax.eval_shape(make_program(network_supernet(LAYERS), recipe).init, jax.random.key(0), None)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if x.ndim)  # noqa: E731
    assert found.parameters == size((state.weights, state.stats))
    assert found.optimizer == size(state.optimizer) == moments * found.gradients
    assert found.gradients == size(state.weights) == 4 * counts(LAYERS).params


def test_a_step_takes_what_xla_says():
    recipe = Recipe(batch=16)  # not the batch that the constants were found at
    assert training_memory(LAYERS, recipe).total == pytest.approx(xla_memory(LAYERS, recipe), rel=0.15)


def test_views_that_a_loop_makes_are_gone_after_it():
    """Wide layers on large images: their gradients go chunk by chunk, and views of a whole batch are never there."""
    net = LayerBuilder((16, 16, 3), (), ())
    x = net.input
    for i in range(3):
        x = net.activation(net.batch_norm(net.conv(x, 64, 3, name=f"conv_{i}"), name=f"norm_{i}"), name=f"relu_{i}")
    layers, recipe = net.finish(net.linear(net.global_avg_pool(x), 10)), Recipe(batch=64)
    found, xla = training_memory(layers, recipe), xla_memory(layers, recipe)
    assert found.workspace == 0 and found.total == pytest.approx(xla, rel=0.15)
    assert xla < found.total + 2 * 9 * 4 * 64 * 16 * 16 * 64 / 4, "no quarter of the views of the two wide layers"


def test_memory_grows_with_batch_and_shrinks_with_precision():
    at = lambda **settings: training_memory(LAYERS, Recipe(**settings))  # noqa: E731
    few, many, half = at(batch=64), at(batch=128), at(batch=64, precision="bfloat16")
    assert many.activations == pytest.approx(2 * few.activations, abs=2)
    assert half.activations == pytest.approx(few.activations / 2, abs=2)
    assert (many.parameters, half.parameters) == (few.parameters, few.parameters)


def test_the_same_activation_of_one_value_is_one_array():
    def network(kinds):
        net = LayerBuilder((8, 8, 4), (), ())
        parts = [net.conv(net.activation(net.input, k, name=f"a{i}"), 4, 1, name=f"c{i}") for i, k in enumerate(kinds)]
        return net.finish(net.linear(net.global_avg_pool(net.add(parts)), 2))

    one, two = (
        training_memory(network(k), Recipe(batch=100)).activations for k in (("relu", "relu"), ("relu", "tanh"))
    )
    assert two - one == pytest.approx(0.95 * 4 * 100 * 8 * 8 * 4, abs=2)


def test_inference_holds_weights_statistics_and_the_peak_of_activations():
    found = inference_memory(LAYERS, batch=3)
    stats = 8 * sum(x.output_shape[-1] for x in LAYERS if x.op == "batch_norm")
    assert found.parameters == 4 * counts(LAYERS).params + stats
    assert found.activations == counts(LAYERS, batch=3).memory_bytes
    assert found.total == found.parameters + found.activations
