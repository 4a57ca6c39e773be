"""Every proxy against its definition, on the candidate's own network written out with XLA's operations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import rankdata

from nas.cost import count_costs
from nas.errors import BadInput
from nas.network import trains
from nas.proxies import PROXIES, Batch, best_of, combine, proxies
from nas.space import Decision, Macro, SearchSpace
from nas.supernet import network_supernet

IMAGES, SIZE, CLASSES = 6, 5, 3
DEAD = (0, 1, 0)


def network(net, macro):
    """Two places for an operation, beside a skip for the second; then a layer whose width is a decision."""
    x = net.batch_norm(net.conv(net.input, macro.width, 3, name="stem"), name="stem_norm")
    for place in ("first", "second"):
        branches = {
            "none": lambda x=x: net.zeros(net.shape(x)),
            "skip": lambda x=x: x,
            "conv": lambda x=x: net.batch_norm(net.conv(net.activation(x), macro.width, 3)),
        }
        x = net.choice(place, branches)
    x = net.batch_norm(net.conv(net.activation(x), net.width("width"), 1, name="wide"), name="wide_norm")
    return net.linear(net.global_avg_pool(net.activation(x, name="last")), macro.classes)


SPACE = SearchSpace(
    "toy",
    (
        Decision("first", ("none", "skip", "conv")),
        Decision("second", ("none", "skip", "conv")),
        Decision("width", (4, 8)),
    ),
    network,
    Macro(4, 1, (SIZE, SIZE, 2), CLASSES),
)
ROWS = np.asarray([(2, 2, 1), (2, 1, 0), (1, 1, 1), (1, 2, 0), DEAD], np.int32)
ALIVE = range(len(ROWS) - 1)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, SIZE, SIZE, 2)).astype(np.float32)
    return Batch(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, IMAGES)))


@pytest.fixture(scope="module")
def scored(batch):
    """Each row's scores, by name, from the shared program."""
    found = proxies(SPACE, [*PROXIES], batch)(ROWS)
    assert found.shape == (len(ROWS), len(PROXIES)) and found.dtype == np.float32
    return {name: found[:, i] for i, name in enumerate(PROXIES)}


class Own:
    """One candidate's network as a function of its kernels and of what is added to each kernel's output."""

    def __init__(self, row, batch):
        self.layers, self.batch = SPACE.layers(row), batch
        supernet = SPACE.supernet()
        weights, stats = supernet.init(jax.random.key(0), row)
        self.weights, _ = supernet.extract(weights, stats, row)
        self.kernels = {name: w["kernel"] for name, w in self.weights.items() if "kernel" in w}

    def run(self, kernels, x, added=None, norm=True):
        """(outputs, inputs of activations, outputs of kernels by layer)"""
        values, before, after = [], [], {}
        for layer in self.layers:
            ins = [values[i] for i in layer.inputs]
            match layer.op:
                case "input":
                    value = x
                case "zeros":
                    value = jnp.zeros((len(x), *layer.output_shape))
                case "conv":
                    dims = ("NHWC", "HWIO", "NHWC")
                    value = jax.lax.conv_general_dilated(
                        ins[0], kernels[layer.name], (1, 1), "SAME", dimension_numbers=dims
                    )
                case "linear":
                    value = ins[0] @ kernels[layer.name]
                case "batch_norm" if norm:
                    mean, var = ins[0].mean((0, 1, 2)), ins[0].var((0, 1, 2))
                    value = (ins[0] - mean) / jnp.sqrt(var + 1e-5)
                case "batch_norm":
                    value = ins[0]
                case "activation":
                    before.append(ins[0])
                    value = jnp.maximum(ins[0], 0)
                case "global_avg_pool":
                    value = ins[0].mean((1, 2))
            if layer.op in ("conv", "linear"):
                value = value + (0 if added is None else added[layer.name])
                after[layer.name] = value
            values.append(value)
        return values[-1], before, after

    def loss(self, kernels, added=None):
        out, _, after = self.run(kernels, self.batch.images, added)
        return optax.softmax_cross_entropy_with_integer_labels(out, self.batch.labels).mean(), after

    def gradient(self, kernels):
        return jax.grad(lambda k: self.loss(k)[0])(kernels)


@pytest.fixture(scope="module")
def owns(batch):
    return [Own(row, batch) for row in ROWS]


def test_synflow_is_the_sum_of_weight_times_slope_of_the_network_of_absolute_weights(scored, owns):
    for i in ALIVE:
        kernels = jax.tree.map(jnp.abs, owns[i].kernels)
        slopes = jax.grad(lambda k, i=i: owns[i].run(k, jnp.ones((1, SIZE, SIZE, 2)), norm=False)[0].sum())(kernels)
        flow = sum(float((kernels[name] * slopes[name]).sum()) for name in kernels)
        np.testing.assert_allclose(scored["synflow"][i], np.log(flow), rtol=1e-5)


def test_synflow_of_a_network_whose_flow_no_float32_holds():
    layers, weight = 60, np.exp(2.0)

    def chain(net, macro):
        x = net.choice("head", {"relu": lambda: net.activation(net.input)})
        for i in range(layers - 1):
            x = net.conv(x, 1, 1, name=f"conv_{i}")
        return net.linear(net.global_avg_pool(x), 1)

    supernet = SearchSpace("chain", (Decision("head", ("relu",)),), chain, Macro(1, 1, (2, 2, 1), 1)).supernet()
    weights, stats = supernet.init(jax.random.key(0))
    weights = {name: w | {"kernel": jnp.full_like(w["kernel"], -weight)} for name, w in weights.items()}
    batch = Batch(jnp.zeros((2, 2, 2, 1)), jnp.zeros(2, int))
    found = jax.jit(lambda w: PROXIES["synflow"](supernet, w, stats, jnp.zeros(1, jnp.int32), batch))(weights)
    # every one of the layers sees the whole flow, the product of all weights
    np.testing.assert_allclose(found, np.log(layers) + 2.0 * layers, rtol=1e-5)


def test_naswot_is_the_log_determinant_of_agreeing_activation_codes(scored, owns, batch):
    for i in ALIVE:
        kernel = np.eye(IMAGES)
        for before in owns[i].run(owns[i].kernels, batch.images)[1]:
            code = np.asarray(before).reshape(IMAGES, -1) > 0
            kernel += (code[:, None] == code[None]).sum(-1)
        np.testing.assert_allclose(scored["naswot"][i], np.linalg.slogdet(kernel)[1], rtol=1e-4)


def test_jacob_cov_is_mellors_score_of_the_jacobian(scored, owns, batch):
    for i in ALIVE:
        jacobian = jax.jacrev(lambda x, i=i: owns[i].run(owns[i].kernels, x)[0])(batch.images)
        slopes = np.asarray(jacobian, np.float64).sum((0, 1)).reshape(IMAGES, -1)
        v = np.linalg.eigvalsh(np.corrcoef(slopes)) + 1e-5
        np.testing.assert_allclose(scored["jacob_cov"][i], -np.sum(np.log(v) + 1 / v), rtol=2e-3)


def test_snip_and_grad_norm_are_sums_over_the_candidates_own_kernels(scored, owns):
    for i in ALIVE:
        gradient = owns[i].gradient(owns[i].kernels)
        snip = sum(np.abs(owns[i].kernels[name] * g).sum() for name, g in gradient.items())
        norm = sum(np.sqrt(np.square(g).sum()) for g in gradient.values())
        np.testing.assert_allclose((scored["snip"][i], scored["grad_norm"][i]), (snip, norm), rtol=1e-3)


def test_grasp_is_the_hessian_times_the_gradient(scored, owns):
    for i in ALIVE:
        kernels = owns[i].kernels
        gradient = owns[i].gradient(kernels)
        product = jax.jvp(owns[i].gradient, (kernels,), (gradient,))[1]  # forward over reverse; ours is reverse twice
        expected = -sum(float((kernels[name] * product[name]).sum()) for name in kernels)
        scale = sum(float(np.abs(kernels[name] * product[name]).sum()) for name in kernels)
        np.testing.assert_allclose(scored["grasp"][i], expected, atol=1e-3 * scale)


def test_fisher_is_half_the_squared_activation_times_its_gradient(scored, owns):
    for own, score in list(zip(owns, scored["fisher"], strict=True))[: len(ALIVE)]:
        _, after = own.loss(own.kernels)
        none = jax.tree.map(jnp.zeros_like, after)
        slopes = jax.grad(lambda added, own=own: own.loss(own.kernels, added)[0])(none)
        expected = 0.0
        for name, activation in after.items():
            product = np.asarray(activation * slopes[name])
            per_image = product.sum(tuple(range(1, product.ndim - 1)))
            expected += 0.5 * np.square(per_image).mean(0).sum() * own.kernels[name][..., 0].size
        np.testing.assert_allclose(score, expected, rtol=1e-3)


def test_a_network_without_a_path_scores_finite_and_lowest(scored):
    for name in ("synflow", "naswot", "jacob_cov"):
        assert np.isfinite(scored[name]).all() and scored[name].argmin() == len(ROWS) - 1, name
    # only the bias of the head is left to learn, and it is no kernel
    assert [scored[name][-1] for name in ("snip", "grad_norm", "fisher", "grasp")] == [0, 0, 0, 0]


def test_a_network_alone_scores_as_in_the_shared_program(owns, scored, batch):
    own = owns[0]  # the widest row: its kernels are the shared program's
    stats = {la.name: {"mean": jnp.zeros(la.output_shape[-1]), "var": jnp.ones(la.output_shape[-1])}
             for la in own.layers if la.op == "batch_norm"}  # fmt: skip
    supernet = network_supernet(own.layers)
    for name in ("naswot", "jacob_cov", "snip"):
        alone = jax.jit(lambda w, name=name: PROXIES[name](supernet, w, stats, None, batch))(own.weights)
        np.testing.assert_allclose(alone, scored[name][0], rtol=1e-3)


def test_what_a_row_does_not_use_changes_nothing(batch):
    supernet, row = SPACE.supernet(), jnp.asarray(ROWS[1])
    weights, stats = supernet.init(jax.random.key(0), row)
    used = {layer.name for layer in SPACE.layers(ROWS[1]) if trains(layer)}
    other = {n: w if n in used else jax.tree.map(lambda a: 5 * a + 1, w) for n, w in weights.items()}
    assert set(weights) - used
    for name in ("synflow", "snip", "fisher"):
        score = jax.jit(lambda w, name=name: PROXIES[name](supernet, w, stats, row, batch))
        assert score(weights) == score(other), name


def test_another_row_compiles_nothing(batch):
    score = proxies(SPACE, ["synflow", "naswot"], batch)
    score(ROWS[:1])
    compiled = []

    def listen(event, *_, **__):
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        score(ROWS)
        assert not compiled
        jax.jit(lambda x: x + 1.25)(1.0)  # the listener hears
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_counts_are_columns_too(batch):
    found = proxies(SPACE, ["macs", "params"], batch)(ROWS)
    counted = count_costs(SPACE)
    np.testing.assert_allclose(found, np.stack([counted["macs"](ROWS), counted["params"](ROWS)], 1))


def test_inside_jit_the_scores_are_the_same(batch):
    score = proxies(SPACE, ["naswot", "params"], batch)
    np.testing.assert_allclose(jax.jit(score)(jnp.asarray(ROWS)), score(ROWS), rtol=1e-5)


def test_combining_is_by_logarithms_of_ranks():
    scores = np.random.default_rng(0).integers(0, 5, (20, 3)).astype(float)
    scores[3, 1] = np.nan
    ranks = rankdata(np.where(np.isnan(scores), -1, scores), axis=0)
    np.testing.assert_allclose(combine(scores), np.log(ranks / 20).sum(1))


def test_a_warm_start_is_the_best_of_the_rows_drawn():
    worth = lambda rows: rows.sum(1, keepdims=True).astype(np.float32)  # noqa: E731
    key = jax.random.key(4)
    drawn = np.asarray(SPACE.sample(key, 30)).sum(1)
    kept = best_of(SPACE, worth, key, drawn=30, kept=7)
    assert sorted(kept.sum(1)) == sorted(drawn)[-7:]
    assert list(kept.sum(1)) == sorted(kept.sum(1), reverse=True)


def test_bad_input_is_one_line(batch):
    with pytest.raises(BadInput, match=r"no proxy 'synflo'.*synflow"):
        proxies(SPACE, ["synflo"], batch)
    with pytest.raises(BadInput, match="8 kept of 7 drawn"):
        best_of(SPACE, lambda rows: rows, jax.random.key(0), drawn=7, kept=8)
    unlisted = SPACE.supernet()._replace(layers=())
    with pytest.raises(BadInput, match="lists no layers"):
        PROXIES["naswot"](unlisted, {}, {}, ROWS[0], batch)
