"""Whole networks timed for real by both runtimes, and what is said about the quality of a measuring."""

import json

import numpy as np
import pytest

from hw_models.measure import measure
from hw_models.networks import Measured, connected, measure_networks, quality, sample_connected
from hw_models.runtimes import pin
from nas.errors import BadInput
from nas.space import Macro
from search_spaces import nasbench201

QUIET = lambda done, total, what: None  # noqa: E731
QUICK = {"rounds": 3, "warmup": 1, "progress": QUIET}
SPACE = nasbench201().at(Macro(8, 1, (16, 16, 3), 5))
NOTHING, MOST = [0] * 6, [3] * 6  # zeros everywhere, 3x3 convolutions everywhere


@pytest.mark.parametrize("runtime", ["xla", "onnx"])
def test_a_network_of_convolutions_is_slower_than_one_of_zeros(runtime):
    pytest.importorskip("onnxruntime" if runtime == "onnx" else "jax", reason="the extra 'onnx' is not installed")
    found = measure_networks(SPACE, rows=np.asarray([NOTHING, MOST], np.int32), runtime=runtime, **QUICK)
    nothing, most = found.latency_ms
    # eighteen convolutions of 147 thousand multiply-accumulates, beside stem, two residual blocks and head
    assert 0 < nothing < most
    stamp = found.stamp
    assert (stamp.quantity, stamp.unit, stamp.batch, stamp.dtype) == ("latency", "ms", 1, "float32")
    assert stamp.macro["width"] == 8 and "threads" in stamp.device and "whole networks" in stamp.source
    assert stamp.runtime.startswith({"xla": "xla-", "onnx": "onnxruntime "}[runtime])


def test_onnx_runtime_times_blocks_too():
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    cost = measure(SPACE, runtime="onnx", networks=0, **QUICK)
    none, conv = cost(np.asarray([NOTHING, MOST]))
    assert 0 < none < conv and cost.stamp.runtime.startswith("onnxruntime ")


def test_more_networks_are_the_same_ones_and_others(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    options = {"runtime": "onnx", "path": tmp_path / "samples.json", **QUICK}
    few = measure_networks(SPACE, networks=3, **options)
    more = measure_networks(SPACE, networks=5, **options)
    np.testing.assert_array_equal(more.rows[:3], few.rows)
    np.testing.assert_array_equal(more.ms[:3], few.ms)  # taken from the file, not timed again
    assert more.rows.shape == (5, 6) and more.ms.shape == (5, 3) and len({tuple(r) for r in more.rows.tolist()}) == 5
    before = json.loads(options["path"].read_text())
    with pytest.raises(BadInput, match="measured with batch 1, not 2"):
        measure_networks(SPACE, networks=5, **options, batch=2)
    assert json.loads(options["path"].read_text()) == before


def test_networks_that_are_cut_off_are_not_sampled():
    cut = [[2, 1, 3, 0, 0, 0], [0, 3, 3, 0, 3, 0], [0, 0, 2, 0, 4, 0]]  # every path to the last node has a zero
    assert not any(connected(SPACE.layers(row)) for row in cut)
    assert connected(SPACE.layers([0, 0, 0, 1, 0, 0])) and connected(SPACE.layers(MOST))
    rows = sample_connected(SPACE, 200, seed=0)
    paths = lambda e: e[3] or (e[0] and e[4]) or (e[1] and e[5]) or (e[0] and e[2] and e[5])  # noqa: E731
    assert len(rows) == 200 and all(paths(row) for row in rows.tolist())


def steady(networks=20, rounds=15, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(1, 5, (networks, 1)) * rng.uniform(0.99, 1.01, (networks, rounds))


def test_a_steady_measuring_says_nothing():
    assert quality(steady()) == () == quality(steady(), load=0.1)


def test_drift_outliers_unsteady_networks_and_a_busy_machine_are_said():
    slowing = steady() * np.linspace(1, 1.2, 15)
    assert any(note.startswith("drift: the last third of the rounds was +1") for note in quality(slowing))
    assert any("-1" in note for note in quality(slowing[:, ::-1]) if note.startswith("drift"))
    disturbed = steady()
    disturbed[::2, 7] *= 3  # half of one round
    assert quality(disturbed) == ("outliers: 3% of the samples are more than 20% above their median",)
    shaking = steady()
    shaking[:4] *= np.random.default_rng(1).uniform(0.8, 1.19, (4, 15))
    assert any(note.startswith("unsteady: 20% of the networks") for note in quality(shaking))
    assert any(note.startswith("busy: 99.0 other processes") for note in quality(steady(), load=99.0))


def test_disturbed_rounds_do_not_move_the_figure():
    ms = steady()
    disturbed = ms.copy()
    disturbed[:, ::3] *= 2  # every third round beside another process
    clean, busy = (Measured(np.zeros((20, 1)), m, None, "") for m in (ms, disturbed))
    np.testing.assert_allclose(busy.latency_ms, clean.latency_ms, rtol=0.01)
    assert (busy.spread > 10 * clean.spread).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"runtime": "tflite"}, "no runtime 'tflite'"),
        ({"runtime": "onnx", "dtype": "bfloat16"}, "written in float32, not bfloat16"),
        ({"dtype": "float8"}, "no dtype 'float8'"),
        ({"networks": 0}, "networks is 0"),
        ({"rounds": 2}, "rounds is 2; it must be a whole number of at least 3"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        measure_networks(SPACE, **{**QUICK, **options})


def test_more_threads_than_cores_are_refused():
    with pytest.raises(BadInput, match="threads on"):
        pin(10_000)
