"""Checkpoints: a pytree of arrays and a few JSON values in one safetensors file, written whole or not at all."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nas.errors import BadInput
from nas.files import to_json, write_atomic

NOTES = "nas"  # the one entry of the file's metadata


def save_checkpoint(path: str | os.PathLike, state: Any, notes: Mapping[str, Any]) -> None:
    """Writes `state`, a pytree of arrays (typed keys too), and `notes`, JSON values; a kill leaves the old or the new.

    bfloat16 is kept as it is: a resumed run goes on from the same bits.
    """
    arrays = {name: _stored(leaf) for name, leaf in _named(state)}
    write_atomic(path, save(arrays, metadata={NOTES: to_json(dict(notes), indent=None)}))


def load_checkpoint(path: str | os.PathLike, like: Any) -> tuple[Any, dict[str, Any]]:
    """(state, notes) as they were saved.

    Args:
        path: of the file.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`, of the state's structure.

    Raises:
        BadInput: no checkpoint, a damaged one, or one of another space, method or version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        arrays = load(data)
        (length,) = struct.unpack("<Q", data[:8])
        notes = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][NOTES])
        if not isinstance(notes, dict):
            raise ValueError("notes are no object")
    except OSError as error:
        raise BadInput(f"{path}: the checkpoint cannot be read ({error.strerror})") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{path}: no checkpoint, or a damaged one; delete it to start this run again") from None
    wanted = dict(_named(like))
    for name in {**wanted, **arrays}:
        want, have = wanted.get(name), arrays.get(name)
        shape = None if want is None else _stored_shape(want)
        if want is None or have is None or (have.shape, have.dtype) != shape:
            held = "nothing" if have is None else f"{have.dtype}{list(have.shape)}"
            raise BadInput(
                f"{path}: a checkpoint of another space, method or version: it holds {held} under '{name}', where "
                + ("nothing is" if shape is None else f"{shape[1]}{list(shape[0])} is")
                + " expected; give the same options or choose another folder"
            )
    leaves = [_restored(arrays[name], leaf) for name, leaf in _named(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), notes


def _named(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf):
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")


def _stored_shape(leaf):
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape), np.dtype(leaf.dtype)


def _restored(array, like):
    return jax.random.wrap_key_data(array) if _is_key(like) else jnp.asarray(array)
