"""Causal attention against its formula, and what rotary positions promise."""

import jax
import jax.numpy as jnp
import numpy as np

from nas.attention import attend, causal_attention, placed, rotated


def test_it_is_the_softmax_over_tokens_before():
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(2, 5, 3 * 16)).astype(np.float32)
    found = np.asarray(causal_attention(jnp.asarray(qkv), 2))
    q, k, v = (qkv[..., 16 * i : 16 * i + 16].reshape(2, 5, 2, 8) for i in range(3))
    q, k = np.asarray(rotated(q)), np.asarray(rotated(k))
    for b in range(2):
        for head in range(2):
            for t in range(5):
                scores = np.exp(k[b, : t + 1, head] @ q[b, t, head] / np.sqrt(8))
                wanted = (scores / scores.sum()) @ v[b, : t + 1, head]
                np.testing.assert_allclose(found[b, t, 8 * head : 8 * head + 8], wanted, rtol=1e-4, atol=1e-5)


def test_turned_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(1)
    q, k = (np.tile(rng.normal(size=8), (1, 9, 1, 1)) for _ in range(2))
    products = np.einsum("btnc,bsnc->ts", rotated(jnp.asarray(q)), rotated(jnp.asarray(k)))
    for distance in range(9):
        np.testing.assert_allclose(np.diagonal(products, distance), products[0, distance], rtol=1e-4, atol=1e-4)
    assert abs(products[0, 0] - products[0, 3]) > 1e-2
    np.testing.assert_allclose(np.linalg.norm(rotated(jnp.asarray(q)), axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)


def test_a_later_token_changes_nothing_before_it():
    qkv = jax.random.normal(jax.random.key(0), (1, 6, 24))
    other = qkv.at[0, 4:].set(7.0)
    a, b = causal_attention(qkv, 2), causal_attention(other, 2)
    np.testing.assert_allclose(a[0, :4], b[0, :4], rtol=1e-6)
    assert jnp.abs(a[0, 4] - b[0, 4]).max() > 0.1


def test_attending_to_another_sequence_is_the_softmax_over_it():
    rng = np.random.default_rng(2)
    q, kv = rng.normal(size=(2, 3, 8)).astype(np.float32), rng.normal(size=(2, 5, 16)).astype(np.float32)
    found = np.asarray(attend(jnp.asarray(q), jnp.asarray(kv), 2, causal=False))
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        k, v = kv[..., :8][..., own], kv[..., 8:][..., own]
        scores = np.exp(np.einsum("btc,bsc->bts", q[..., own], k) / np.sqrt(4))
        wanted = np.einsum("bts,bsc->btc", scores / scores.sum(-1, keepdims=True), v)
        np.testing.assert_allclose(found[..., own], wanted, rtol=1e-4, atol=1e-5)
    both = jnp.concatenate([jnp.asarray(q)] * 2, -1)
    causal = attend(jnp.asarray(q), both, 2, causal=True)
    np.testing.assert_allclose(causal[:, 0], q[:, 0], rtol=1e-5)  # the first token sees itself alone


def test_places_are_the_paper_s_sinusoids():
    found = np.asarray(placed(jnp.ones((1, 4, 6))))[0]
    for t in range(4):
        angles = [t / 10_000 ** (2 * i / 6) for i in range(3)]
        np.testing.assert_allclose(found[t], np.sqrt(6) + np.r_[np.sin(angles), np.cos(angles)], rtol=1e-5)
