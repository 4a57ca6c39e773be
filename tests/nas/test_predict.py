"""Regressors against closed forms, scikit-learn, and what is known of the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import Ridge

from nas.errors import BadInput
from nas.predict import (
    REGRESSORS,
    encoding,
    gaussian_process,
    inverse_of_lower,
    mlp_ensemble,
    normal_scores,
    one_hot,
    ridge,
)
from search_spaces import SPACES

KEY = jax.random.key(0)
MADE = {"gaussian_process": gaussian_process(), "mlp_ensemble": mlp_ensemble(steps=150), "ridge": ridge()}


def points(n=40, features=3, seed=0):
    random = np.random.RandomState(seed)
    x = random.uniform(-1, 1, (n, features)).astype(np.float32)
    y = 70 + 3 * np.sin(2 * x[:, 0]) + 2 * x[:, 1] + 0.2 * random.normal(size=n)
    return x, y.astype(np.float32)


@functools.cache
def programs(name):
    return jax.jit(MADE[name].fit), jax.jit(MADE[name].predict)


def test_every_regressor_is_tested():
    assert set(MADE) == set(REGRESSORS)


@pytest.mark.parametrize("name", MADE)
def test_what_is_not_valid_is_never_read(name):
    """Padding with NaN, anywhere between, gives the predictions of the points alone."""
    fit, predict = programs(name)
    x, y = points()
    padded_x, padded_y = np.full((64, 3), np.nan, np.float32), np.full(64, np.nan, np.float32)
    places = np.sort(np.random.RandomState(1).permutation(64)[:40])
    padded_x[places], padded_y[places] = x, y
    valid = np.isin(np.arange(64), places)
    query = points(20, seed=5)[0]
    alone = predict(fit(KEY, x, y, np.ones(40, bool)), query)
    padded = predict(fit(KEY, padded_x, padded_y, valid), query)
    for a, b in zip(alone, padded, strict=True):
        assert np.allclose(a, b, rtol=1e-3, atol=2e-2 if name == "mlp_ensemble" else 1e-3)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_almost_no_data_gives_finite_predictions(name, count):
    fit, predict = programs(name)
    x, y = points()
    mean, std = predict(fit(KEY, x, y, np.arange(40) < count), points(20, seed=5)[0])
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (np.asarray(std) >= 0).all()
    if count == 0:
        assert np.allclose(mean, 0, atol=1e-6) and (np.asarray(std) > 0.99).all()
    if count == 1:  # untrained networks differ away from the point, by about their deviation of 1
        assert np.allclose(mean, y[0], atol=10 if name == "mlp_ensemble" else 0.1)


@pytest.mark.parametrize("name", MADE)
def test_predictions_are_better_than_the_mean_and_in_the_unit_of_the_targets(name):
    fit, predict = programs(name)
    x, y = points()
    query, truth = points(200, seed=5)
    mean, std = predict(fit(KEY, x, y, np.ones(40, bool)), query)
    # a straight line leaves a tenth of the variance, from the curve of the sine
    assert np.mean((mean - truth) ** 2) < 0.15 * np.var(truth)
    assert 0.01 < np.mean(std) < 3


@pytest.mark.parametrize("name", MADE)
def test_many_fits_in_one_call(name):
    regressor = MADE[name]
    x, y = points()
    valid = np.arange(40)[None] < np.asarray([[10], [40]])
    together = jax.jit(jax.vmap(lambda v: regressor.predict(regressor.fit(KEY, x, y, v), x[:5])))(valid)
    fit, predict = programs(name)
    for i in range(2):
        for a, b in zip(together, predict(fit(KEY, x, y, valid[i]), x[:5]), strict=True):
            assert np.allclose(a[i], b, rtol=1e-3, atol=1e-2)


# ---- Gaussian process --------------------------------------------------------------------------------------------
def sklearn_process(x, y, length, noise):
    """Scikit-learn's, on standardised targets, with the amplitude that maximises the likelihood in closed form."""
    target = (y.astype(np.float64) - y.mean(dtype=np.float64)) / y.std(dtype=np.float64)
    shape = np.exp(-0.5 * ((x[:, None].astype(float) - x[None]) ** 2).sum(-1) / length**2)
    amplitude = target @ np.linalg.solve(shape + noise * np.eye(len(x)), target) / len(x)
    kernel = ConstantKernel(amplitude) * RBF(length)
    return GaussianProcessRegressor(kernel, alpha=noise * amplitude, optimizer=None).fit(x, target)


def test_the_process_is_scikit_learns():
    x, y = points()
    query = points(20, seed=5)[0]
    length, noise = 0.8, 0.05
    regressor = gaussian_process((length,), (noise,))
    mean, std = regressor.predict(regressor.fit(KEY, x, y, np.ones(40, bool)), query)
    theirs, their_std = sklearn_process(x, y, length, noise).predict(query, return_std=True)
    assert np.allclose(mean, y.mean() + y.std() * theirs, atol=5e-3)
    assert np.allclose(std, y.std() * their_std, rtol=2e-2, atol=2e-3)


def test_length_and_noise_are_those_of_the_largest_likelihood():
    lengths, noises = (0.2, 0.8, 3.0), (0.003, 0.03, 0.3)
    for seed in range(3):
        x, y = points(seed=seed)
        found = gaussian_process(lengths, noises).fit(KEY, x, y, np.ones(40, bool))
        likelihood = {
            (length, noise): sklearn_process(x, y, length, noise).log_marginal_likelihood_value_
            for length in lengths
            for noise in noises
        }
        best = max(likelihood, key=likelihood.__getitem__)
        assert (pytest.approx(float(found.length)), pytest.approx(float(found.noise))) == best


@pytest.mark.parametrize("n", [1, 2, 7, 64, 100])
def test_inverse_of_a_lower_triangle(n):
    random = np.random.RandomState(n)
    lower = np.tril(random.uniform(-0.2, 0.2, (n, n)), -1) + np.diag(random.uniform(0.5, 1, n))
    assert np.allclose(inverse_of_lower(jnp.asarray(lower, jnp.float32)), np.linalg.inv(lower), atol=1e-3)


# ---- ridge -------------------------------------------------------------------------------------------------------
def test_ridge_is_scikit_learns_with_the_penalty_of_the_smallest_leave_one_out_error():
    x, y = points(15, 6)
    penalties = (0.01, 0.3, 10.0)
    target = (y - y.mean()) / y.std()

    def left_out(penalty):
        errors = []
        for i in range(15):
            rest = np.arange(15) != i
            errors.append(Ridge(penalty).fit(x[rest], target[rest]).predict(x[i : i + 1])[0] - target[i])
        return np.mean(np.square(errors))

    best = min(penalties, key=left_out)
    query = points(20, 6, seed=5)[0]
    regressor = ridge(penalties)
    mean, _ = regressor.predict(regressor.fit(KEY, x, y, np.ones(15, bool)), query)
    assert np.allclose(mean, y.mean() + y.std() * Ridge(best).fit(x, target).predict(query), atol=2e-3)


# ---- encodings ---------------------------------------------------------------------------------------------------
def test_squared_distance_of_one_hot_rows_is_the_share_of_decisions_that_differ():
    rows = np.random.RandomState(0).randint(0, (2, 5, 3, 4), (30, 4))
    x = np.asarray(one_hot(rows, (2, 5, 3, 4)))
    assert x.shape == (30, 14)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    assert np.allclose(squared, (rows[:, None] != rows[None]).mean(-1), atol=1e-6)


def test_rows_of_equivalent_networks_are_one_point_and_others_are_not():
    space = SPACES["nasbench201"]()
    # the third edge leaves a node that nothing reaches, so its operation does not matter; that of the fourth does
    row, twin, other = [0, 3, 1, 3, 0, 3], [0, 3, 2, 3, 0, 3], [0, 3, 1, 2, 0, 3]
    x = np.asarray(encoding(space)(np.asarray([row, twin, other])))
    assert (x[0] == x[1]).all() and (x[0] != x[2]).any()


def test_normal_scores_keep_the_order_and_share_ties():
    values = jnp.asarray([3.0, -1e9, 3.0, 7.0, np.nan, 5.0])
    found = np.asarray(normal_scores(values, jnp.asarray([True, True, True, True, False, True])))
    assert found[1] < found[0] == found[2] < found[5] < found[3] and found[4] == 0
    assert np.isclose(found[1], -found[3])


@pytest.mark.parametrize("bad", [lambda: gaussian_process(()), lambda: ridge((-1.0,)), lambda: mlp_ensemble(0)])
def test_settings_without_a_meaning_are_refused(bad):
    with pytest.raises(BadInput):
        bad()
