"""An elastic block: what a slice is, what moves in a step, the order of channels; conformance has the spaces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nas.channels import channel_groups, orders, reorder
from nas.elastic import elastic_supernet, extreme, share, sliced
from nas.errors import BadInput
from nas.masked import masked_supernet
from nas.network import Network, apply_layers
from nas.space import Decision, Macro, SearchSpace
from search_spaces import darts, nats_size, ofa_mbv3, ofa_mbv3_small
from search_spaces.mobile import Frame, Stage, mobile_space

BATCH, RATE, MOMENTUM = 16, 0.05, 0.9
OPTIONS = {"kernel": (3, 5, 7), "expand": (2, 3), "layers": (1, 2)}
# all that is elastic in once-for-all's networks, in two layers: more would compile for longer and show nothing else
SPACE = mobile_space(
    "elastic",
    Frame(8, (Stage(8, 2, 2, {"se": 0.25, "activation": "hard_swish"}, OPTIONS),), head=16, features=24),
    macro=Macro(8, 1, (16, 16, 3), 10),
)
MACRO = SPACE.macro


@pytest.fixture(scope="module")
def case():
    """(supernet, weights, statistics, images, labels), all arrays off their first values."""
    rng = np.random.default_rng(0)
    supernet = elastic_supernet(SPACE, MACRO)
    shake = lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) ** 2  # noqa: E731
    weights, stats = jax.tree.map(shake, supernet.init(jax.random.key(0)))
    x = rng.normal(size=(BATCH, *MACRO.input)).astype(np.float32)
    return supernet, weights, stats, x, rng.integers(0, 10, BATCH)


@pytest.fixture(scope="module")
def step(case):
    """One compiled step of SGD with momentum, written out; what a network gives and its gradient come back too."""
    supernet, _, _, x, y = case

    @jax.jit
    def step(weights, stats, trace, row):
        def loss(weights):
            out, moved, _ = supernet.apply(weights, stats, x, row, train=True)
            return cross_entropy(out, y), (out, moved)

        gradients, (out, moved) = jax.grad(loss, has_aux=True)(weights)
        gradients = without_maps(gradients)
        trace = jax.tree.map(lambda t, g: MOMENTUM * t + g, trace, gradients)
        return jax.tree.map(lambda w, t: w - RATE * t, weights, trace), moved, trace, out

    return step


def without_maps(gradients):
    """A network alone has no maps between kernels, so they stay as they are."""
    return {
        layer: {name: jnp.zeros_like(a) if name.startswith("to_") else a for name, a in arrays.items()}
        for layer, arrays in gradients.items()
    }


def no_maps(weights):
    """Weights whose smaller kernels are the plain centres."""
    return without_maps(weights)


def cross_entropy(out, labels):
    return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()


def flax_network(case, row, weights, stats):
    """The extracted network with XLA's own convolutions, as Flax has them."""
    model = Network(SPACE.layers(row)).load(*case[0].extract(weights, stats, row))
    for module in model.modules.values():
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = jax.lax.conv_general_dilated
    return model


def test_three_steps_in_the_supernet_are_three_of_the_extracted_network(case, step):
    _, weights, stats, x, y = case
    weights = no_maps(weights)
    row = np.asarray(SPACE.encode(dict.fromkeys([d.name for d in SPACE.decisions], 2) | {
        "layer_0_kernel": 3, "layer_1_kernel": 5, "layer_0_expand": 3,
    }))  # fmt: skip
    model = flax_network(case, row, weights, stats)
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, MOMENTUM), wrt=nnx.Param)

    @nnx.jit
    def own_step(model, optimizer):
        gradients = nnx.grad(lambda m: cross_entropy(m(x), y))(model)
        optimizer.update(model, gradients)

    trace = jax.tree.map(jnp.zeros_like, weights)
    for _ in range(3):
        weights, stats, trace, _ = step(weights, stats, trace, row)
        own_step(model, optimizer)
    ours, theirs = case[0].extract(weights, stats, row), model.weights()
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_what_is_outside_of_a_slice_stays(case, step):
    _, weights, stats, *_ = case
    row = extreme(SPACE, share(SPACE, MACRO).kinds, largest=False)
    after, moved, *_ = step(weights, stats, jax.tree.map(jnp.zeros_like, weights), row)
    expand, depthwise = "layers.0.layer_0_expand.expand.conv", "layers.0.layer_0_expand.depthwise.layer_0_kernel.conv"
    norm = "layers.0.layer_0_expand.expand.batch_norm"
    same = lambda a, b: np.asarray(a == b)  # noqa: E731
    kept = same(after[expand]["kernel"], weights[expand]["kernel"])
    assert kept[..., 16:].all() and not kept[..., :16].any()
    assert same(moved[norm]["mean"], stats[norm]["mean"])[16:].all()
    kept = same(after[depthwise]["kernel"], weights[depthwise]["kernel"])
    assert kept[0].all() and kept[:, 0].all() and kept[..., 16:].all() and not kept[1:6, 1:6, :, :16].any()
    second = [name for name in weights if name.startswith("layer_1.")]  # a layer that is not there
    assert second and all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *[
        {n: w[n] for n in second} for w in (weights, after)
    ])))  # fmt: skip


def test_no_row_compiles_anything(case, step):
    _, weights, stats, *_ = case
    trace = jax.tree.map(jnp.zeros_like, weights)
    for row in np.asarray(SPACE.sample(jax.random.key(2), 4)):
        step(weights, stats, trace, row)
    assert step._cache_size() == 1


def test_smaller_kernels_are_mapped_centres():
    """Equation by equation, 7 to 5 to 3."""
    rng = np.random.default_rng(0)
    kernel, five, three = (rng.normal(size=s).astype(np.float32) for s in ((7, 7, 1, 4), (25, 25), (9, 9)))
    arrays = {"kernel": jnp.asarray(kernel), "to_5": jnp.asarray(five), "to_3": jnp.asarray(three)}
    layer = next(
        x for x in SPACE.layers(extreme(SPACE, share(SPACE, MACRO).kinds, False))
        if x.op == "conv" and x.attributes["groups"] > 1
    )  # fmt: skip
    found = sliced(arrays, layer, (7, 5, 3))["kernel"]
    for channel in range(4):
        centre = kernel[1:6, 1:6, 0, channel].reshape(25)
        middle = ((np.eye(25) + five) @ centre).reshape(5, 5)
        inner = (np.eye(9) + three) @ middle[1:4, 1:4].reshape(9)
        np.testing.assert_allclose(found[..., 0, channel].reshape(9), inner, rtol=1e-4, atol=1e-4)


def test_sorted_channels_compute_the_same_and_the_important_ones_come_first(case):
    supernet, weights, stats, x, _ = case
    weights = no_maps(weights)
    groups = channel_groups(SPACE, MACRO)
    assert {len(g.widths) for g in groups} == {2}
    largest = extreme(SPACE, share(SPACE, MACRO).kinds, largest=True)
    found = orders(groups, weights)
    moved = reorder(groups, found, (weights, stats))
    layers = SPACE.layers(largest)
    outputs = [
        apply_layers(layers, *supernet.extract(*arrays, largest), x, train=False)[0]
        for arrays in ((weights, stats), moved)
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    for i in range(2):
        prefix = f"layer_{i}." * i + f"layers.{i}.layer_{i}_expand"
        read = np.abs(moved[0][f"{prefix}.project.conv"]["kernel"]).sum((0, 1, 3))
        assert len(read) == 24 and (np.diff(read) <= 0).all()
    # with both widths in use, no channel crosses from one to the next
    for group, order in zip(groups, orders(groups, weights, used=2), strict=True):
        assert sorted(order[: group.widths[0]].tolist()) == list(range(group.widths[0]))


def test_what_each_decision_is_follows_from_the_network():
    kinds = share(ofa_mbv3(resolutions=(128, 160)), ofa_mbv3().macro).kinds
    assert kinds["resolution"] == "resolution" and kinds["stage_1_layers"] == "depth"
    assert kinds["layer_7_kernel"] == "kernel" and kinds["layer_7_expand"] == "expand"
    assert set(share(nats_size(), nats_size().macro).kinds.values()) == {"width"}
    # without its first convolution a block of ratio 1 is one of another ratio all the same
    small = ofa_mbv3_small(expands=(1, 2))
    assert share(small, small.macro).kinds["layer_1_expand"] == "expand"


def test_resolutions_share_all_weights():
    space = ofa_mbv3_small(0.5, resolutions=(8, 16), kernels=(3,), expands=(2,), depths=(1,))
    macro = space.macro
    supernet = elastic_supernet(space, macro)
    weights, stats = supernet.init(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    both = jax.jit(lambda row: supernet.apply(weights, stats, x, row, train=False)[0])
    rows = np.zeros((2, space.length), np.int32)
    rows[1, 0] = 1
    outputs = [both(row) for row in rows]
    assert both._cache_size() == 1 and np.abs(outputs[0] - outputs[1]).max() > 1e-3
    for row, out in zip(rows, outputs, strict=True):
        own = apply_layers(space.layers(row), *supernet.extract(weights, stats, row), x, train=False)[0]
        np.testing.assert_allclose(out, own, rtol=1e-4, atol=1e-4)


def _two(net, macro):
    x = net.choice(
        "what", {"wide": lambda: net.conv(net.input, 4, 3), "deep": lambda: net.batch_norm(net.input, name="conv")}
    )
    return net.linear(net.global_avg_pool(x), macro.classes)


@pytest.mark.parametrize(
    ("space", "word"),
    [
        (darts(), "cells"),
        (SearchSpace("two", (Decision("what", ("wide", "deep")),), _two, Macro(4, 1, (8, 8, 4), 2)), "of one kind"),
    ],
)
def test_what_cannot_share_is_refused_in_one_line(space, word):
    with pytest.raises(BadInput, match=word) as caught:
        elastic_supernet(space, space.macro)
    assert "\n" not in str(caught.value)


def test_masks_compute_what_slices_compute(case):
    supernet, weights, stats, x, _ = case
    masked = masked_supernet(SPACE, MACRO)
    row = np.asarray(SPACE.sample(jax.random.key(5), 1)[0])
    outputs = [jax.jit(partial(net.apply, train=True))(weights, stats, x, row)[:2] for net in (supernet, masked)]
    np.testing.assert_allclose(outputs[0][0], outputs[1][0], rtol=1e-4, atol=1e-4)
