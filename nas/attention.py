"""Causal self-attention with rotary positions, as language models of today have it.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Su et al., "RoFormer: Enhanced Transformer with Rotary
Position Embedding", arXiv:2104.09864. A half of a head's channels turns with the position, as the supernets of
HW-GPT-Bench were trained.
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
