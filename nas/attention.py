"""Attention: causal with rotary positions, as language models of today have it, and from one sequence to another.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Su et al., "RoFormer: Enhanced Transformer with Rotary
Position Embedding", arXiv:2104.09864. Where positions are rotary, a half of a head's channels turns with the position,
as the supernets of HW-GPT-Bench were trained.
"""

import jax
import jax.numpy as jnp

TURNED = 0.5  # of the channels of a head
LONGEST = 10_000.0  # wavelengths reach from two pi tokens to this many times as much


def causal_attention(qkv: jax.Array, heads: int) -> jax.Array:
    """Queries, keys and values side by side, float[B, T, 3 C], to float[B, T, C]; C is a multiple of `heads`."""
    shape = (*qkv.shape[:2], heads, -1)
    q, k, v = (part.reshape(shape) for part in jnp.split(qkv, 3, -1))
    return jax.nn.dot_product_attention(rotated(q), rotated(k), v, is_causal=True).reshape(*qkv.shape[:2], -1)


def attend(q: jax.Array, kv: jax.Array, heads: int, *, causal: bool) -> jax.Array:
    """Each query float[B, T, C] over keys and values side by side, float[B, S, 2 C], to float[B, T, C].

    Positions are not in it (see `placed`). C is a multiple of `heads`; `causal` takes T = S.
    """
    k, v = jnp.split(kv, 2, -1)
    q, k, v = (part.reshape(*part.shape[:2], heads, -1) for part in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(*q.shape[:2], -1)


def placed(x: jax.Array) -> jax.Array:
    """Embeddings float[B, T, C] times the root of C, plus the sinusoids of their places (the paper's section 3.5).

    The first half of the channels has the sines, the second the cosines (the paper interleaves them); C is even.
    """
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * LONGEST ** (-jnp.arange(half) / half)
    return x * x.shape[-1] ** 0.5 + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(x.dtype)


def rotated(x: jax.Array) -> jax.Array:
    """float[B, T, N, C]: pairs of channels turned by an angle that grows with the token's place.

    Channel i of the turned part is paired with the one half of that part further on. The product of two turned vectors
    then depends on how far apart they stand, and not on where.
    """
    half = int(TURNED * x.shape[-1]) // 2
    speeds = LONGEST ** (-jnp.arange(half) / half)
    angles = (jnp.arange(x.shape[1])[:, None] * speeds)[:, None]  # [T, 1, half]
    one, two, rest = jnp.split(x, [half, 2 * half], -1)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin, rest], -1)
