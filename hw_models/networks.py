"""Whole networks of a space, timed: what tables are fitted to and tested on."""

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hw_models.blocks import distinct
from hw_models.fit import fit, usable
from hw_models.measure import check_counts, conditions, take
from hw_models.runtimes import program_of
from hw_models.samples import about, open_samples, save_samples, stamp_of
from hw_models.table import network_name
from nas.cost import Cost, Stamp, sample_rows
from nas.errors import BadInput
from nas.evaluate import use_compilation_cache
from nas.layers import Layer
from nas.space import Macro, SearchSpace

DRIFT = 0.03  # of the last third of the rounds against the first; a quiet machine stays within 0.01
OUTLIER = 0.2  # above the median of its network
UNSTEADY = 0.1  # interquartile range over median


@dataclass(frozen=True, eq=False)
class Measured:
    """Whole networks timed under one set of conditions.

    Attributes:
        rows: int32[N, L], the architectures.
        ms: float64[N, R], one time a network and round.
        stamp: the conditions.
        space: fingerprint of the space.
        notes: what a reader has to know, such as drift; empty where nothing was seen.
    """

    rows: np.ndarray
    ms: np.ndarray
    stamp: Stamp
    space: str
    notes: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> np.ndarray:
        """float64[N]: the lower quartile over the rounds.

        Other processes only ever add time: on two cores that fifteen processes wanted, a second measuring of the same
        networks differed by 0.3 % in the lower quartile and by 1.3 % in the median.
        """
        return np.percentile(self.ms, 25, axis=1)

    @property
    def spread(self) -> np.ndarray:
        """float64[N]: interquartile range over the median."""
        return np.subtract(*np.percentile(self.ms, (75, 25), axis=1)) / np.median(self.ms, axis=1)


def measure_networks(
    space: SearchSpace,
    macro: Macro | None = None,
    *,
    networks: int = 100,
    rows: np.ndarray | None = None,
    runtime: str = "xla",
    batch: int = 1,
    dtype: str = "float32",
    rounds: int = 15,
    warmup: int = 3,
    progress: Callable[[int, int, str], None] | None = None,
    path: str | os.PathLike | None = None,
    seed: int = 0,
) -> Measured:
    """Times whole networks of a space, in rounds of shuffled order (see `hw_models.timing`).

    Every network is timed once in each round, so that what drifts, such as a clock or a neighbour, meets all alike.

    Args:
        space: to sample from.
        macro: the frame; default the space's.
        networks: how many distinct ones.
        rows: these instead, int32[N, L].
        runtime: ``xla``, on JAX's default device, or ``onnx``, ONNX Runtime on the CPU.
        batch: images a call.
        dtype: ``float32`` or, with XLA, ``bfloat16``.
        rounds: samples of each network.
        warmup: samples before the first round.
        progress: called with (done, total, what); default as in `hw_models.measure.measure`.
        path: a file for the samples (JSON, written after each round); a measuring that was killed goes on from it,
            and so does one with more networks or rounds.
        seed: of sampling, weights, inputs and order.

    Raises:
        BadInput: a wrong argument; `path` holds samples taken under other conditions.
    """
    check_counts(batch=(batch, 1), rounds=(rounds, 3), warmup=(warmup, 1), networks=(networks, 1))
    macro = macro or space.macro
    stamp = stamp_of(macro, batch, dtype, f"whole networks, lower quartiles {conditions(rounds, warmup)}", runtime)
    program = program_of(runtime, batch=batch, dtype=dtype, seed=seed)
    use_compilation_cache()
    if rows is None:
        rows = sample_connected(space.at(macro), networks, seed)
    common = about(space, stamp, seed)
    samples = open_samples(path, common)
    programs = {network_name(row): space.layers(row, macro) for row in rows}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    take(samples, programs, program, rounds, warmup, seed, progress, lambda: save_samples(path, common, samples))
    ms = np.asarray([samples[name] for name in programs])[:, :rounds, 0]
    found = Measured(rows, ms, stamp, space.fingerprint, quality(ms, load))
    if not (found.latency_ms > 0).all():
        raise BadInput("measure: some networks are faster than the clock can tell; measure a larger macro or batch")
    return found


def sample_connected(space: SearchSpace, networks: int, seed: int) -> np.ndarray:
    """int32[N, L]: distinct random networks; with the same seed more of them are the same ones and others.

    Networks whose output does not depend on the image, as where zeros cut every path, are left out: a runtime computes
    nothing of them, and one such figure spoils a regression of relative errors.
    """
    rows = distinct(sample_rows(space, 2 * networks + 20, seed))
    found = (row for row in rows if connected(space.layers(row)))
    return np.asarray(list(itertools.islice(found, networks)), np.int32)


def connected(layers: Sequence[Layer]) -> bool:
    """Whether the output of a network depends on its input."""
    depends: list[bool] = []
    for layer in layers:
        depends.append(layer.op == "input" or any(depends[i] for i in layer.inputs))
    return depends[-1]


def fitted(space: SearchSpace, found: Measured, *, seed: int = 0) -> Cost:
    """The table fitted to measured networks (`hw_models.fit.fit`), which keeps them and the notes in ``details``.

    Figures near zero, which no network has, are left out, and a note says so.

    Raises:
        BadInput: too few networks.
    """
    ms, notes = found.latency_ms, found.notes
    good = usable(ms)
    if not good.all():
        notes += (f"{(~good).sum()} of {len(ms)} figures are near zero and left out",)
    stamp = replace(found.stamp, source="; ".join((found.stamp.source, *notes)))
    cost = fit(space, found.rows[good], ms[good], stamp, seed=seed)
    each = zip(found.rows, ms, found.spread, strict=True)
    networks = [{"row": row.tolist(), "ms": float(m), "spread": float(s)} for row, m, s in each]
    return replace(cost, details={**(cost.details or {}), "networks": networks, "notes": list(notes)})


def quality(ms: np.ndarray, load: float | None = None) -> tuple[str, ...]:
    """What is wrong with a measuring, in words: drift over the rounds, outliers, unsteady networks, a busy machine.

    Args:
        ms: float64[N, R], rounds in order.
        load: of the machine when it began: processes that want a core.
    """
    notes = []
    relative = ms / np.median(ms, axis=1, keepdims=True)
    third = max(1, ms.shape[1] // 3)
    rounds = np.median(relative, axis=0)
    drift = float(np.median(rounds[-third:]) / np.median(rounds[:third]) - 1)
    if abs(drift) > DRIFT:
        notes.append(f"drift: the last third of the rounds was {drift:+.0%} against the first")
    outliers = float(np.mean(relative > 1 + OUTLIER))
    if outliers > 0.01:
        notes.append(f"outliers: {outliers:.0%} of the samples are more than {OUTLIER:.0%} above their median")
    spread = np.subtract(*np.percentile(relative, (75, 25), axis=1))
    if np.mean(spread > UNSTEADY) > 0.05:
        notes.append(f"unsteady: {np.mean(spread > UNSTEADY):.0%} of the networks spread by more than {UNSTEADY:.0%}")
    cores = os.cpu_count() or 1
    if load is not None and load > 0.5 * cores:
        notes.append(f"busy: {load:.1f} other processes wanted one of {cores} cores at the start")
    return tuple(notes)
