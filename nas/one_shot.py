"""The weight-sharing contract, and the training of shared weights: seeded, checkpointed, exactly resumable."""

import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.augment import augment
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.data import DeviceSplit, batches, gather
from nas.errors import BadInput
from nas.evaluate import CandidateFailed
from nas.network import BATCH_NORM_MOMENTUM
from nas.recipe import Recipe
from nas.supernet import Supernet
from nas.train import data_mesh, on_all, spread_over

State = Any  # a pytree of arrays


class Batch(NamedTuple):
    """Images float32[B, H, W, C], normalised (those to train weights on augmented as well), and labels int32[B]."""

    x: jax.Array
    labels: jax.Array


class OneShot(NamedTuple):
    """A weight-sharing method: every architecture's weights are trained together, in one program.

    Attributes:
        init: ``(key) -> State``, a pytree of arrays: weights, statistics, optimiser, logits and whatever else a resume
            needs.
        step: ``(State, train: Batch, valid: Batch, key, progress float32) -> (State, {metric: float32})``. Pure; the
            engine compiles a loop of them. `progress` goes from 0 to below 1 over the whole training. A metric that
            is no finite number means that the training has diverged.
        after_epoch: ``(State, epoch, validation: DeviceSplit) -> (State, events, stop)``, on the host, between epochs:
            guards and phases. `epoch` counts from 1, `events` are JSON objects for the record; `stop` ends the
            training. None where there is nothing to do.
        derive: ``(State, validation: DeviceSplit, key) -> int32[N, L]``, the architectures found, best first. None
            where the shared weights are handed to a multi-trial strategy that looks for them.
        gates: ``(State) -> float32[E, K]``, what a picture shows over time; None where there are none.
        shared: ``(State) -> (weights, stats)`` of `network`.
        network: the supernet; its `apply` takes rows, and gates where it is relaxed.
        name: of the method, for people and `search.json`.
        arguments: JSON values it was made with.
    """

    init: Callable[[jax.Array], State]
    step: Callable[[State, Batch, Batch, jax.Array, jax.Array], tuple[State, Mapping[str, jax.Array]]]
    after_epoch: Callable[[State, int, DeviceSplit], tuple[State, list[dict[str, Any]], bool]] | None
    derive: Callable[[State, DeviceSplit, jax.Array], Any] | None
    gates: Callable[[State], jax.Array] | None
    shared: Callable[[State], tuple[Any, Any]]
    network: Supernet
    name: str
    arguments: Mapping[str, Any]


class Shared(NamedTuple):
    """Shared weights, trained.

    Attributes:
        seed: of the training.
        state: of the method.
        record: one JSON object for each epoch: ``epoch``, the mean ``metrics`` of its steps, ``events`` of guards and
            phases, ``seconds`` since the training began (all calls together), and ``gates`` where there are any.
        finished: False where a time budget or Ctrl-C ended the training; a resume goes on.
    """

    seed: int
    state: State
    record: list[dict[str, Any]]
    finished: bool


# steps between two looks at the clock
CHUNK = 20
# a kill loses at most what was computed since the last checkpoint: an epoch, or this long
CHECKPOINT_SECONDS = 60.0


def batch_size(recipe: Recipe, *sizes: int) -> int:
    """Images a step: the recipe's, or fewer where a split is smaller."""
    return min(recipe.batch, *sizes)


def step_count(recipe: Recipe, train: int, valid: int) -> int:
    """Steps of a whole training on splits of these sizes; what the methods' schedules span."""
    return train // batch_size(recipe, train, valid) * recipe.epochs


class _Run(NamedTuple):
    state: State
    sums: dict[str, jax.Array]  # of each metric over the steps of this epoch
    epoch: int = 0
    step: int = 0  # of the epoch
    retries: int = 0
    stopped: bool = False


def train_shared(
    method: OneShot,
    splits: tuple[DeviceSplit, DeviceSplit],
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: str | os.PathLike | None = None,
    seconds: float | None = None,
    observer: Callable[[int, Mapping[str, float]], None] = lambda done, metrics: None,
    devices: int = 1,
) -> Shared:
    """Trains shared weights, going on from `checkpoint` if that file exists.

    The order of the data and all randomness depend on `seed` and the step alone, so a training that was killed and
    resumed gives the same arrays as one that was not. It is saved after each epoch, and inside one every minute.

    Args:
        method: from `strategies.ONE_SHOT`.
        splits: (to train weights on, to validate on), from `nas.data.on_device`. A pass over the first is an epoch;
            each of its steps has a batch of the second, which begins anew where it is shorter.
        recipe: `epochs`, `batch` and `augment` are read here; the rest is the method's.
        seed: of everything random.
        checkpoint: file; None keeps everything in memory.
        seconds: wall time of this call after which it stops, to be resumed.
        observer: called with (steps done, metrics of the last one).
        devices: share each batch.

    Raises:
        CandidateFailed: the training diverged, and did so again after it had gone back to the last good epoch.
        BadInput: a checkpoint of another method, space or version; fewer devices, or a batch that they cannot share.

    A keyboard interrupt saves, and returns what is there.
    """
    began = time.monotonic()
    sizes = tuple(len(split.labels) for split in splits)
    batch, total = batch_size(recipe, *sizes), step_count(recipe, *sizes)
    steps = total // recipe.epochs
    key = jax.random.key(seed)
    mesh = data_mesh(devices)
    if batch % devices:
        raise BadInput(f"devices: {devices} cannot share a batch of {batch} images; make it a multiple of {devices}")
    program, whole = _program(method, recipe, total, spread_over(mesh)), on_all(mesh)
    splits = whole(splits)
    run = _Run(*jax.jit(functools.partial(_begin, method, splits, batch))(jax.random.fold_in(key, 0)))
    record: list[dict[str, Any]] = []
    before = 0.0
    # beside a place inside an epoch the end of the last one is kept: a training that diverges goes back to it
    files = [] if checkpoint is None else [Path(checkpoint), Path(f"{checkpoint}.within")]
    good = run
    for file in files:
        if file.exists():
            (state, sums), notes = load_checkpoint(file, run[:2])
            _check_notes(file, notes)
            if (notes["seed"], notes["total"]) != (seed, total):
                raise BadInput(f"{file}: a run of another seed or length; give the same options")
            place = _Run(state, sums, *notes["place"])
            if (place.epoch, place.step) > (run.epoch, run.step):
                run, record, before = place, notes["record"], notes["seconds"]
            good = place if place.step == 0 else good._replace(retries=max(good.retries, place.retries))

    def save():
        if files:
            notes = {"seed": seed, "total": total, "place": run[2:], "record": record}
            save_checkpoint(files[run.step > 0], run[:2], notes | {"seconds": before + time.monotonic() - began})

    saved = time.monotonic()
    try:
        while run.epoch < recipe.epochs and not run.stopped:
            if seconds is not None and time.monotonic() - began >= seconds:
                break
            if run.step == steps:
                run, entry = _end_of_epoch(method, run, steps, splits[1])
                record.append(entry | {"seconds": before + time.monotonic() - began})
                good = run
                save()
                saved = time.monotonic()
                continue
            first, count = run.epoch * steps + run.step, min(CHUNK, steps - run.step)
            orders = [_order(n, batch, jax.random.fold_in(key, 2 + i), first, count) for i, n in enumerate(sizes)]
            step_key = jax.random.fold_in(jax.random.fold_in(key, 1), run.retries)
            state, sums, last = program(*whole((run.state, run.sums, splits, orders, step_key, first, count)))
            if not all(math.isfinite(float(value)) for value in sums.values()):
                if run.retries:
                    raise CandidateFailed(f"{_diverged(sums, run.epoch)}, and again after going back; {ADVICE}")
                record.append({"epoch": run.epoch + 1, "events": [_went_back(sums, run, good)]})
                run = good = good._replace(retries=1)
                continue
            run = run._replace(state=state, sums=sums, step=run.step + count)
            observer(first + count, {name: float(value) for name, value in last.items()})
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
    except KeyboardInterrupt:
        pass
    if run.step:
        save()
    return Shared(seed, run.state, record, run.epoch >= recipe.epochs or run.stopped)


ADVICE = "lower learning_rate, or set gradient_clip"


def _check_notes(file, notes):
    kinds = {"seed": int, "total": int, "place": list, "record": list, "seconds": int | float}
    place = notes.get("place", ())
    if (
        not all(isinstance(notes.get(name), kind) for name, kind in kinds.items())
        or len(place) != len(_Run._fields) - 2
    ):
        raise BadInput(f"{file}: no checkpoint, or a damaged one; delete it to start this run again")
    if not all(isinstance(number, int) and number >= 0 for number in place):
        raise BadInput(f"{file}: the checkpoint is of no place in a training; delete it to start this run again")


def _diverged(sums, epoch):
    bad = next(name for name, value in sums.items() if not math.isfinite(float(value)))
    return f"the training diverged: {bad} is no finite number in epoch {epoch + 1}"


def _went_back(sums, run, good):
    why = f"{_diverged(sums, run.epoch)}; it goes on from the end of epoch {good.epoch} with other random numbers"
    return {"event": "guard", "guard": "divergence", "why": why}


def _begin(method, splits, batch, key):
    """The state, and a zero for each metric of a step."""
    state = method.init(key)
    x, labels = jax.eval_shape(lambda: gather(splits[0], jnp.zeros(batch, jnp.int32)))
    metrics = jax.eval_shape(method.step, state, Batch(x, labels), Batch(x, labels), key, jnp.float32(0))[1]
    return state, {name: jnp.float32(0) for name in metrics}


def _program(method, recipe, total, spread):
    """Up to CHUNK steps, compiled once for any number of them."""
    augmentation = augment(recipe.augment)

    @jax.jit
    def program(state, sums, splits, orders, key, first, count):
        def body(i, carry):
            state, sums, _ = carry
            augment_key, step_key = jax.random.split(jax.random.fold_in(key, first + i))
            (x, labels), valid = (gather(s, spread(order[i])) for s, order in zip(splits, orders, strict=True))
            train, valid = Batch(augmentation(augment_key, x), labels), Batch(*valid)
            state, metrics = method.step(state, train, valid, step_key, (first + i) / jnp.float32(total))
            metrics = {name: jnp.float32(value) for name, value in metrics.items()}
            return state, {name: sums[name] + value for name, value in metrics.items()}, metrics

        return jax.lax.fori_loop(0, count, body, (state, sums, sums))

    return program


def _order(n, batch, key, first, count):
    """int32[CHUNK, batch]: the images of the steps from `first` on, pass after pass over a split."""
    steps = n // batch
    places = [min(i, first + count - 1) for i in range(first, first + CHUNK)]
    passes = {p: np.asarray(batches(n, batch, seed=key, epoch=p)) for p in {i // steps for i in places}}
    return np.stack([passes[i // steps][i % steps] for i in places])


def _end_of_epoch(method, run, steps, validation):
    means = {name: float(value) / steps for name, value in run.sums.items()}
    state, events, stop = run.state, [], False
    if method.after_epoch is not None:
        state, events, stop = method.after_epoch(state, run.epoch + 1, validation)
    entry = {"epoch": run.epoch + 1, "metrics": means, "events": events}
    if method.gates is not None:
        entry["gates"] = np.asarray(method.gates(state), float).round(5).tolist()
    zero = jax.tree.map(jnp.zeros_like, run.sums)
    return run._replace(state=state, sums=zero, epoch=run.epoch + 1, step=0, stopped=bool(stop)), entry


def recalibrate(network: Supernet, weights: Any, stats: Any, choice: Any, split: DeviceSplit, order: jax.Array) -> Any:
    """The batch-norm statistics of one architecture: means over the batches of `order` int32[S, B] of `split`.

    Shared statistics are a mixture of those of all architectures, and say little of any one (Yu and Huang,
    "Universally Slimmable Networks", ICCV 2019, section 3.3; Cai et al., "Once-for-All", ICLR 2020). Jittable.
    """
    nothing = jax.tree.map(jnp.zeros_like, stats)

    def add(total, batch):
        x, _ = gather(split, batch)
        # started from nothing, what has moved is a share of what the batch alone would give
        moved = network.apply(weights, nothing, x, choice, train=True)[1]
        return jax.tree.map(lambda t, m: t + m / (1 - BATCH_NORM_MOMENTUM), total, moved), None

    total, _ = jax.lax.scan(add, nothing, order)
    return jax.tree.map(lambda t: t / order.shape[0], total)
