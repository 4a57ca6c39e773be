"""A latency table of this machine, measured on the spot: every block of a space by itself, through XLA.

A block is the layers that share `Layer.scope`, named by `Layer.block`; a layer outside of blocks (a sum, a
concatenation) is a block of its own. Whole networks are timed in the same rounds, so that the table can say how far
the sum of its blocks is from what a network takes.
"""

import contextlib
import datetime
import functools
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.progress import Progress

from nas.cost import Cost, Factor, Stamp, factor_groups, sample_rows, tabulate
from nas.errors import BadInput, suggest
from nas.evaluate import use_compilation_cache
from nas.files import read_json, write_json
from nas.layers import Layer, Shape
from nas.network import init_layers, run_layer, trains
from nas.space import Macro, SearchSpace

SCHEMA = "nas.measurement/1"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CALL_MS = 1.0  # of work in one timed call: many times the jitter of clock and dispatch
CALLS = 5  # in a sample
COMPILING = 20  # samples take about as long as compiling one program, for the time left
GOOD_ENOUGH = 0.05  # mean relative error of the plain sum below which it is left as it is
LINE_SECONDS = 10.0


def measure(
    space: SearchSpace,
    macro: Macro | None = None,
    *,
    batch: int = 1,
    dtype: str = "float32",
    rounds: int = 15,
    warmup: int = 3,
    networks: int = 8,
    progress: Callable[[int, int, str], None] | None = None,
    path: str | os.PathLike | None = None,
    seed: int = 0,
) -> Cost:
    """Latency in ms of every architecture of a space on JAX's default device, from timing its blocks.

    A block runs k times in a loop inside one compiled program, each turn fed by the one before so that nothing can be
    left out or moved; a call without a turn and the turn of an empty loop are taken off. Blocks and whole networks are
    timed in the same way, in `rounds` rounds of shuffled order; medians are taken. So the figure is the time inside of
    XLA; what a call from Python adds is in ``details``. Where the plain sum of blocks is more than `GOOD_ENOUGH` off,
    one scale and one offset are fitted on the whole networks, if that predicts each from the others better; the
    stamp's error is then that of these predictions.

    Args:
        space: whose blocks and factors are used.
        macro: the frame; default the space's.
        batch: images a call.
        dtype: ``float32`` or ``bfloat16``, of weights and activations.
        rounds: samples of each block.
        warmup: samples before the first round.
        networks: whole networks to compare with, at least 4 for a fit; 0 for none, and then no error is known.
        progress: called with (done, total, what) after every program and sample. Default: a bar on stderr, or a line
            every ten seconds where that is no terminal.
        path: a file for the samples (JSON, written after each round); a measuring that was killed goes on from it, and
            a finished one is not repeated. It is not the table: that is what `Cost.save` writes.
        seed: of the compared networks, of weights, inputs and order.

    Returns:
        The table. ``details`` holds ``blocks`` (key -> ms, as timed, for `nas.cost.block_times`), ``loose`` (layers
        outside of blocks), ``spread`` (interquartile ranges, ms), ``validation`` (whole networks), ``call_ms`` (of a
        whole network without a turn), ``load`` (of the machine, at the end) and ``scale``, ``offset_ms``: a value of
        the table is offset + scale * (sum of blocks + loose layers).

    Raises:
        BadInput: a wrong argument; `path` holds samples of something else; two different blocks have the same key.
    """
    _check(batch=(batch, 1), rounds=(rounds, 3), warmup=(warmup, 1), networks=(networks, 0))
    if dtype not in DTYPES:
        raise BadInput(f"measure: no dtype '{dtype}'; {suggest(dtype, DTYPES)}")
    macro = macro or space.macro
    use_compilation_cache()
    stamp = replace(_stamp(macro, batch, dtype), source=_source(rounds, warmup))
    with _reporting(progress) as report:
        parts = _Parts(space, macro, lambda n, total: report(n, total, "listing blocks"))
        extra = _visit(parts, stamp)
    rows = _distinct(sample_rows(space, 4 * networks, seed + 1))[:networks]

    programs: dict[str, Block] = {"empty loop": (), **parts.blocks}
    programs |= {_network_name(row): space.layers(row, macro) for row in rows}
    make = {name: functools.partial(_sampler, block, batch, dtype, seed) for name, block in programs.items()}
    samples = _open(path, _about(space, stamp, seed))
    with _reporting(progress) as report:
        _sample(make, samples, rounds, warmup, seed, report, lambda: _save(path, _about(space, stamp, seed), samples))
    return _table(parts, rows, {name: samples[name] for name in programs}, stamp, extra)


Samples = dict[str, list[list[float]]]  # name -> [ms of a turn, ms of a call without a turn] of each round


# ---- what there is to time ---------------------------------------------------------------------------------------
Block = tuple[Layer, ...]  # inputs first, indices within itself, the output last


class _Parts:
    """The distinct blocks of a space, and which of them each row is made of."""

    def __init__(self, space: SearchSpace, macro: Macro, report: Callable[[int, int], None]):
        self.space, self.macro, self.report = space, macro, report
        self._expected = sum(math.prod(space.cardinalities[d] for d in group) for group in factor_groups(space)) + 9
        self.blocks: dict[str, Block] = {}  # by canonical key
        self.names: dict[str, str] = {}  # block keys of the space -> canonical ones; "" takes no time
        self.loose: set[str] = set()
        self._rows: dict[tuple[int, ...], list[str]] = {}

    def of(self, row: np.ndarray) -> list[str]:
        """Canonical keys of the blocks and loose layers of a row, as often as they occur."""
        row_key = tuple(np.asarray(row).tolist())
        if row_key not in self._rows:
            layers = self.space.layers(row, self.macro)
            scopes: dict[Any, list[int]] = {}
            for i, layer in enumerate(layers):
                if layer.block or layer.op not in ("input", "zeros"):
                    scopes.setdefault(layer.scope if layer.block else i, []).append(i)
            keys = [self._key(layers, own) for own in scopes.values()]
            self._rows[row_key] = [key for key in keys if key]
            self.report(len(self._rows), max(len(self._rows), self._expected))
        return self._rows[row_key]

    def _key(self, layers: Sequence[Layer], own: list[int]) -> str:
        last = layers[own[-1]]
        if all(layers[i].op == "zeros" for i in own):
            key = ""
        else:
            block = isolate(layers, own) if last.block else _alone(last)
            ins = "+".join(_dims(x.output_shape) for x in block if x.op == "input")
            # a convolution of zeros stays in the network: it has the price of the same block of something
            key = f"{last.block.rpartition('-input:')[0] or last.op}-input:{ins}-output:{_dims(last.output_shape)}"
            if not last.block:
                key += f" {json.dumps(last.attributes)}" if last.attributes else ""
                self.loose.add(key)
            if self.blocks.setdefault(key, block) != block:
                raise BadInput(f"space '{self.space.name}': two different blocks are called '{key}'; name their kinds")
        if last.block:
            self.names[last.block] = key
        return key


def isolate(layers: Sequence[Layer], own: Sequence[int]) -> Block:
    """Some layers of a network as a network of their own.

    What comes from other layers becomes an input, and so does what is zero: the values of equal shape that are zero
    are one input, as the value is that stands there in another row.
    """
    place: dict[Any, int] = {}
    inputs: list[Layer] = []
    for source in (i for at in own for i in (layers[at].inputs or (at,))):
        outside = source not in own
        if outside or layers[source].op == "zeros":
            shape = layers[source].output_shape
            same = source if outside else ("zeros", shape)
            if same not in place:
                place[same] = len(inputs)
                inputs.append(Layer(f"input_{len(inputs)}", "input", {}, (), (), shape))
            place[source] = place[same]
    found = list(inputs)
    for at in own:
        if at not in place:
            x, place[at] = layers[at], len(found)
            name = f"{len(found)}"
            sources = tuple(place[i] for i in x.inputs)
            found.append(Layer(name, x.op, x.attributes, sources, x.input_shapes, x.output_shape))
    return tuple(found)


def _alone(layer: Layer) -> Block:
    """One layer with inputs of its own, even where it gets the same value twice."""
    shapes = layer.input_shapes
    inputs = tuple(Layer(f"input_{i}", "input", {}, (), (), shape) for i, shape in enumerate(shapes))
    return (*inputs, replace(layer, name="alone", inputs=tuple(range(len(shapes)))))


class _Projection(NamedTuple):
    """What of a figure does not add over the factors exactly, and the rows to fit it on."""

    rows: np.ndarray
    everything: bool  # blocks as well, not the layers outside of them alone


def _visit(parts: _Parts, stamp: Stamp) -> _Projection | None:
    """Meets every block that pricing will ask for, and finds out what can be tabulated, before anything is timed.

    Returns:
        None where all of it adds over the factors.
    """
    # any prices tell whether a sum of them adds over the factors
    price = lambda key: zlib.crc32(key.encode()) / 2**32  # noqa: E731
    with contextlib.suppress(BadInput):
        tabulate(parts.space, lambda row: sum(map(price, parts.of(row))), stamp)
        return None
    entries = sum(math.prod(parts.space.cardinalities[d] for d in group) for group in factor_groups(parts.space))
    rows = _distinct(sample_rows(parts.space, min(1000, 100 + 2 * entries), 1))
    for row in rows:
        parts.of(row)
    with contextlib.suppress(BadInput):
        tabulate(parts.space, lambda row: sum(price(k) for k in parts.of(row) if k not in parts.loose), stamp)
        return _Projection(rows, False)
    return _Projection(rows, True)


def _network_name(row: np.ndarray) -> str:
    return "network " + json.dumps(row.tolist())


def _distinct(rows: np.ndarray) -> np.ndarray:
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])] if len(rows) else rows


# ---- timing ------------------------------------------------------------------------------------------------------
def _sampler(block: Block, batch: int, dtype: str, seed: int) -> Callable[[], tuple[float, float]]:
    """A function that times (one turn of a block, one call without a turn), in ms. No layers: an empty loop."""
    rng = np.random.default_rng(seed)
    arrays = _arrays(block, dtype, rng)
    # the empty loop's input is large enough that XLA does not turn the loop into one kernel
    shapes = [x.output_shape for x in block if x.op == "input"] or [(128, 128)]
    inputs = tuple(jnp.asarray(rng.normal(size=(batch, *shape)), DTYPES[dtype]) for shape in shapes)

    def once(arrays, inputs, out):
        # one number of the last result goes into each input, so that XLA can neither hoist nor drop a turn; writing
        # it costs nothing beside a block. Bounded, because denormal and infinite numbers could change the time
        mark = jnp.clip(out[(0,) * out.ndim], 0.5, 1.0)
        inputs = tuple(lax.dynamic_update_slice(x, mark.reshape((1,) * x.ndim), (0,) * x.ndim) for x in inputs)
        return inputs, _run(block, arrays, inputs) if block else out + 0.25

    @jax.jit
    def repeat(arrays, inputs, turns):
        shape = jax.eval_shape(lambda: _run(block, arrays, inputs) if block else inputs[0][0, :1, 0])
        start = inputs, jnp.zeros(shape.shape, shape.dtype)
        return lax.fori_loop(0, turns, lambda _, carry: once(arrays, *carry), start)[1]

    def call(turns: int) -> float:
        start = time.perf_counter()
        repeat(arrays, inputs, np.int32(turns)).block_until_ready()
        return 1e3 * (time.perf_counter() - start)

    def sample(turns: int) -> tuple[float, float]:
        # the best of a few short calls: what another process takes of a core is no part of a block
        calls = [(call(turns), call(0)) for _ in range(CALLS)]
        whole, nothing = map(min, zip(*calls, strict=True))
        return (whole - nothing) / turns, nothing

    call(1)
    turns = 1
    while (took := turns * sample(turns)[0]) < CALL_MS / 3 and turns < 10**6:
        turns *= 8
    turns = max(1, round(turns * min(3.0, CALL_MS / took)))
    return functools.partial(sample, turns)


def _run(block: Block, arrays, inputs: Sequence[jax.Array]) -> jax.Array:
    """The output of a block, batch norm in inference."""
    weights, stats = arrays
    feed = iter(inputs)
    values: list[jax.Array] = []
    # a zero that XLA cannot see, see `once`: a convolution of zeros is run in a network that is called once, and would
    # be moved out of a loop
    zero = jnp.maximum(inputs[0][(0,) * inputs[0].ndim] - 1, 0)
    for layer in block:
        ins = [values[i] for i in layer.inputs]
        if layer.op == "input":
            values.append(next(feed))
        elif layer.op == "zeros":
            values.append(jnp.broadcast_to(zero, (inputs[0].shape[0], *layer.output_shape)))
        else:
            values.append(run_layer(layer, weights.get(layer.name, {}), stats.get(layer.name), ins, False)[0])
    return values[-1]


def _arrays(layers: Sequence[Layer], dtype: str, rng: np.random.Generator):
    """(weights, stats) as of a trained network: nothing that grows or fades over many layers."""
    if not any(map(trains, layers)):
        return {}, {}
    # `init_layers` needs a kernel to draw, and a block may have batch norms alone
    spare = Layer("spare", "linear", {"features": 1, "bias": False}, (), ((1,),), (1,))
    shapes = jax.eval_shape(lambda key: init_layers((*layers, spare), key), jax.random.key(0))

    def fill(path, like):
        name = path[-1].key
        if name == "kernel":
            value = rng.normal(size=like.shape) * math.sqrt(2 / math.prod(like.shape[:-1]))
        else:
            value = np.full(like.shape, 1.0 if name in ("scale", "var") else 0.0)
        # statistics stay float32 whatever the precision, as in training
        return jnp.asarray(value, like.dtype if name in ("mean", "var") else DTYPES[dtype])

    return jax.tree_util.tree_map_with_path(fill, shapes)


def _sample(make, samples: Samples, rounds, warmup, seed, report, save) -> None:
    """Fills `samples` up to `rounds` in shuffled order, saving after each round."""
    todo = [name for name in make if len(samples.setdefault(name, [])) < rounds]
    done, total = 0, COMPILING * len(todo) + sum(rounds - len(samples[name]) for name in todo)
    samplers = {}
    for name in todo:
        samplers[name] = make[name]()
        for _ in range(warmup):
            samplers[name]()
        done += COMPILING
        report(done, total, "compiling blocks")
    rng = np.random.default_rng(seed)
    try:
        while left := [name for name in todo if len(samples[name]) < rounds]:
            for at in rng.permutation(len(left)):
                samples[left[at]].append(list(samplers[left[at]]()))
                done += 1
                report(done, total, "timing blocks")
            save()
    except BaseException:
        save()
        raise


# ---- the table ---------------------------------------------------------------------------------------------------
def _table(parts: _Parts, rows: np.ndarray, samples: Samples, stamp: Stamp, extra: _Projection | None) -> Cost:
    """The cost from all samples."""
    turns = {name: np.asarray(v)[:, 0] for name, v in samples.items()}
    middle = {name: float(np.median(v)) for name, v in turns.items()}
    spread = {name: float(np.subtract(*np.percentile(v, (75, 25)))) for name, v in turns.items()}
    turn = middle["empty loop"]
    # a block that is faster than the clock can tell stands near zero, never below
    times = {key: max(0.0, middle[key] - turn) for key in parts.blocks}
    total = lambda row: sum(times[key] for key in parts.of(row))  # noqa: E731
    fixed = lambda row: sum(times[key] for key in parts.of(row) if key not in parts.loose)  # noqa: E731
    note = ""
    if extra is None:
        cost = tabulate(parts.space, total, stamp)
    else:
        exact = (lambda row: 0.0) if extra.everything else fixed
        cost = tabulate(parts.space, exact, stamp)
        cost, left = _with_projected(cost, parts.space, lambda row: total(row) - exact(row), extra.rows)
        what = "blocks" if extra.everything else "layers outside of blocks"
        note = f"; {what} by least squares over the factors, {left:.1%} of the sum is left over"
    names = [_network_name(row) for row in rows]
    details: dict[str, Any] = {
        "blocks": {name: times.get(key, 0.0) for name, key in parts.names.items()},
        "loose": {key: times[key] for key in sorted(parts.loose)},
        "spread": {key: spread[key] for key in parts.blocks},
        "empty_loop_ms": turn,
        "call_ms": float(np.median([np.asarray(samples[name])[:, 1] for name in names])) if names else None,
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "scale": 1.0,
        "offset_ms": 0.0,
    }
    measured, error = np.asarray([middle[name] for name in names]), None
    if len(rows):
        note += f"; a call from Python adds about {details['call_ms']:.2g} ms to a network, not counted"
        plain = cost(rows)
        error = float(np.mean(np.abs(plain / measured - 1)))
        report: dict[str, Any] = {"error_of_sum": error, "spearman": _spearman(plain, measured)}
        held_out, fitted, (scale, offset) = plain, math.inf, (1.0, 0.0)
        if len(rows) >= 4:
            fits = [_fit(np.delete(plain, i), np.delete(measured, i)) for i in range(len(rows))]
            fitted_out = np.asarray([b + a * x for (a, b), x in zip(fits, plain, strict=True)])
            fitted, (scale, offset) = float(np.mean(np.abs(fitted_out / measured - 1))), _fit(plain, measured)
            report["error_of_fit_held_out"] = fitted
        # a scale of zero would make all architectures alike: then the noise is larger than what tells them apart
        if error > GOOD_ENOUGH and fitted < error and scale > 0:
            held_out, error = fitted_out, fitted
            details |= {"scale": scale, "offset_ms": offset}
            factors = tuple(Factor(f.decisions, scale * f.table) for f in cost.factors)
            cost = replace(cost, base=offset + scale * cost.base, factors=factors)
            note += f"; calibrated by {scale:.3g} * sum + {offset:.3g} ms on {len(rows)} whole networks"
            note += ", the error is of each under the fit on the others"
        report |= {"error_held_out": error, "networks": []}
        for row, name, *values in zip(rows, names, measured, plain, held_out, strict=True):
            figures = dict(zip(("measured_ms", "sum_ms", "held_out_ms"), map(float, values), strict=True))
            report["networks"].append({"row": row.tolist(), **figures, "spread_ms": spread[name]})
        details["validation"] = report
    return replace(cost, stamp=replace(stamp, source=stamp.source + note, error=error), details=details)


def _with_projected(cost: Cost, space: SearchSpace, value: Callable[[np.ndarray], float], rows: np.ndarray):
    """A cost plus a figure that adds over the factors only nearly, by least squares over some rows.

    Returns:
        The sum, a Cost; and the mean of what the figure is off, relative to the sum.
    """
    groups = factor_groups(space)
    shapes = [tuple(space.cardinalities[d] for d in group) for group in groups]
    wanted = np.asarray([value(row) for row in rows])
    columns = [np.ones((len(rows), 1))]
    for group, shape in zip(groups, shapes, strict=True):
        flat = np.ravel_multi_index(tuple(rows[:, d] for d in group), shape)
        columns.append(np.eye(math.prod(shape))[flat])
    design = np.concatenate(columns, 1)
    found = np.linalg.lstsq(design, wanted, rcond=None)[0]
    base, factors, at = cost.base + found[0], [], 1
    for factor, shape in zip(cost.factors, shapes, strict=True):
        extra = found[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
        table = factor.table + extra
        base += table.min()
        factors.append(Factor(factor.decisions, table - table.min()))
    projected = replace(cost, base=max(0.0, float(base)), factors=tuple(factors))
    exact = cost(rows) + wanted
    return projected, float(np.mean(np.abs(projected(rows) - exact)) / max(float(np.mean(exact)), 1e-12))


def _fit(sums: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """(scale, offset) of least relative squares, neither below zero: more blocks never take less time."""
    scale, offset = np.linalg.lstsq(np.stack([sums, np.ones_like(sums)], 1) / measured[:, None], 1 + 0 * sums)[0]
    if scale < 0:
        return 0.0, float((1 / measured).sum() / (1 / measured**2).sum())
    if offset < 0:
        ratio = sums / measured
        return float(ratio.sum() / (ratio**2).sum()), 0.0
    return float(scale), float(offset)


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation; None where one of them does not vary."""
    ranks = [np.asarray([(x < y).sum() + (x == y).sum() / 2 for y in x]) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if all(np.ptp(r) > 0 for r in ranks) else None


# ---- stamp and file ----------------------------------------------------------------------------------------------
def _stamp(macro: Macro, batch: int, dtype: str) -> Stamp:
    device = jax.devices()[0]
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"{_processor()}, {threads} threads" if device.platform == "cpu" else device.device_kind
    today = datetime.date.today().isoformat()
    runtime = f"xla-{device.platform} jax {jax.__version__}"
    return Stamp("latency", "ms", name, runtime, batch, dtype, asdict(macro), "", None, today)


def _source(rounds: int, warmup: int) -> str:
    best = f"each the best of {CALLS} calls of about {CALL_MS:g} ms"
    return f"blocks timed alone inside XLA, medians of {rounds} rounds, {best}, after {warmup} warm-up samples"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def _about(space: SearchSpace, stamp: Stamp, seed: int) -> dict[str, Any]:
    """What samples must have in common to stand in one table, as JSON gives it back."""
    about = {name: getattr(stamp, name) for name in ("device", "runtime", "batch", "dtype", "macro")}
    return json.loads(json.dumps({"space": space.fingerprint, "seed": seed, **about}))


def _open(path, about: Mapping[str, Any]) -> Samples:
    """The samples of an earlier call, none where there is no file.

    Raises:
        BadInput: the file holds something else; it is left as it is.
    """
    if path is None or not Path(path).exists():
        return {}
    data = read_json(path, "measuring to go on with")
    if data.get("schema") != SCHEMA:
        raise BadInput(f"{path}: not a measuring to go on with ({SCHEMA}); give another path, or delete it")
    found = data.get("about")
    for name, value in about.items():
        was = json.dumps(found.get(name) if isinstance(found, dict) else None)
        if json.loads(was) != value:
            raise BadInput(
                f"{path}: measured with {name} {was}, not {json.dumps(value)}; give another path, or delete it"
            )
    samples: Any = data.get("samples")
    try:
        good = all(np.isfinite(np.asarray(v, np.float64).reshape(len(v), 2)).all() for v in samples.values())
    except (AttributeError, TypeError, ValueError):
        good = False
    if not good:
        raise BadInput(f"{path}: holds samples that are no numbers; delete it and measure again")
    return samples


def _save(path, about: Mapping[str, Any], samples: Samples) -> None:
    if path is not None:
        write_json(path, {"schema": SCHEMA, "about": about, "samples": samples})


@contextlib.contextmanager
def _reporting(progress: Callable[[int, int, str], None] | None) -> Iterator[Callable[[int, int, str], None]]:
    """Where reports go: the caller's function, a bar with the time left, or plain lines."""
    if progress is not None:
        yield progress
        return
    start = shown = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("measuring", total=None)

        def report(done: int, total: int, what: str) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total, description=what)
            now = time.monotonic()
            if bar.disable and now - shown > LINE_SECONDS:
                left = (now - start) * (total - done) / done
                print(f"measure: {what}, {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
                shown = now

        yield report


def _check(**least: tuple[int, int]) -> None:
    for name, (value, at_least) in least.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise BadInput(f"measure: {name} is {value!r}; it must be a whole number of at least {at_least}")


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape))
