import dataclasses
import io
import itertools
import math
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from nas.ablation import one_change
from nas.cost import Cost, Factor, Stamp, count_costs
from nas.diagram import network_nodes, network_units
from nas.draw import draw_cell, draw_network
from nas.evaluate import CandidateFailed, function
from nas.objective import Limit, pareto
from nas.plots import pareto_plot, search_curve
from nas.report import render, write_report
from nas.search import search
from nas.space import Decision, Macro, SearchSpace
from nas.summary import baselines, expected_best, finished, front_volume, spearman, table
from nas.training_plots import gates_over_time
from nas.wording import cost_text, number
from search_spaces.nasbench201 import from_string, nasbench201
from strategies.random_search import random_search

HOSTILE = "<script>alert('x')</script> & \"quotes\""


def mbconv(net, x, features, kernel, expand):
    with net.block(f"mbconv_k{kernel}_e{expand}"):
        wide = net.shape(x)[-1] * expand
        x = net.activation(net.conv(x, wide, 1, name="expand"), "relu6", name="act_1")
        x = net.activation(net.conv(x, wide, kernel, groups=wide, name="depthwise"), "relu6", name="act_2")
        return net.batch_norm(net.conv(x, features, 1, name="project"))


def chain(net, macro):
    x = net.activation(net.batch_norm(net.conv(net.input, macro.width, 3, name="stem")))
    for i in range(macro.depth):
        with net.scope(f"layer_{i}"):
            options = itertools.product((3, 5), (1, 2))
            branches = {f"k{k}e{e}": lambda x=x, k=k, e=e: mbconv(net, x, macro.width, k, e) for k, e in options}
            x = net.choice(f"layer_{i}", branches)
    return net.linear(net.global_avg_pool(x), macro.classes)


CHAIN = SearchSpace(
    name="chain",
    decisions=tuple(Decision(f"layer_{i}", ("k3e1", "k3e2", "k5e1", "k5e2")) for i in range(4)),
    network=chain,
    macro=Macro(width=8, depth=4, input=(16, 16, 3), classes=10),
)

STRATEGY = random_search(CHAIN)  # one for all, so that it compiles once


def score(choices):
    if choices["layer_0"] == "k5e2":
        raise CandidateFailed(HOSTILE)
    return 0.5 + 0.1 * sum(v.startswith("k5") for v in choices.values()) + 0.01 * len(set(choices.values()))


def latency(space):
    stamp = Stamp("latency", "ms", "Pixel <7>", "tflite", 1, "int8", {"width": 8}, "block table", 0.04, "2026-01-05")
    return Cost(stamp, 1.0, tuple(Factor((i,), np.arange(4.0)) for i in range(4)), None, space.fingerprint)


def run(objective=None, trials=24, evaluate=score, **options):
    costs = {"latency": latency(CHAIN)}
    evaluation = function(evaluate, CHAIN)
    return search(CHAIN, STRATEGY, evaluation, objective=objective, costs=costs, trials=trials, **options)


@pytest.fixture(scope="module")
def result():
    return run(pareto("latency", limits=[Limit("latency", 7.0)]))


@pytest.fixture(scope="module")
def nothing():
    return run(trials=3, evaluate=lambda choices: math.nan)


@pytest.fixture(scope="module")
def breaking():
    limits = [Limit("latency", 0.5)]
    return run(pareto("latency", "params", limits=limits), trials=4)


# ---- figures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("outside", [0, 2])
def test_expected_best_is_that_of_every_possible_draw(outside):
    samples = [0.3, 0.9, 0.5, 0.5]
    mean, low, high = expected_best(samples, 4, outside=outside)
    for k in range(1, 5):
        draws = itertools.product([*samples, *[-math.inf] * outside], repeat=k)
        best = np.sort([b for b in map(max, draws) if b > -math.inf])
        assert mean[k - 1] == pytest.approx(best.mean())
        assert low[k - 1] == best[math.ceil(0.1 * len(best)) - 1]
        assert high[k - 1] == best[math.ceil(0.9 * len(best)) - 1]


def test_spearman_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, (2, 15))
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3])) and math.isnan(spearman([1, 2], [1, 2]))


def test_baselines_come_from_finished_random_samples(result):
    found = baselines(result)
    done = [t for t in result.trials if t.status == "finished"]
    scores = [float(t.scores[0]) for t in done]
    assert found.random.n == len(done) and found.random.lost == len(result.trials) - len(done) > 0
    assert found.random.mean == pytest.approx(np.mean(scores))
    assert found.random.std == pytest.approx(np.std(scores, ddof=1))
    assert found.random.best == max(float(t.scores[0]) for t in done if t.feasible)
    params = next(s for s in found.sizes if s.column == "params")
    assert params.value == max(t.metrics["params"] for t in done)
    assert found.counts == {"finished": len(done), "failed": found.random.lost}
    assert sum(found.reasons.values()) == found.random.lost


def test_the_hypervolume_of_the_front_is_its_staircase_above_the_worst_of_each_axis(result):
    volume, reference = front_volume(result)
    done = np.asarray([t.scores for t in finished(result)])
    assert list(reference) == ["accuracy", "latency"]
    assert np.allclose(list(reference.values()), done.min(0))
    grid = np.stack(np.meshgrid(*[np.linspace(*np.unique(done[:, a])[[0, -1]], 801) for a in (0, 1)]), -1)
    feasible = np.asarray([t.scores for t in finished(result) if t.feasible])
    share = (feasible[:, None, None] >= grid[None]).all(-1).any(0).mean()
    assert np.isclose(volume, share * np.prod(np.ptp(done, axis=0)), rtol=0.02)
    assert f"Its hypervolume is {number(volume)} " in page(result)


def test_one_change_neighbours_are_those_of_the_best_and_their_differences(result):
    changes = one_change(result)
    assert changes
    for change in changes:
        expected = result.best.row.copy()
        place = [d.name for d in CHAIN.decisions].index(change.decision)
        expected[place] = CHAIN.decisions[place].options.index(change.to)
        assert (change.trial.row == expected).all()
        assert change.of == CHAIN.decode(result.best.row)[change.decision] != change.to
        assert np.allclose(change.scores, change.trial.scores - result.best.scores)
        gained = change.trial.metrics["params"] - result.best.metrics["params"]
        assert change.costs["params"] == gained
    near = [t for t in finished(result) if (t.row != result.best.row).sum() == 1]
    assert {t.row.tobytes() for t in near} == {c.trial.row.tobytes() for c in changes}
    assert "One change from the found network" in page(result)


def test_table_names_choices_units_and_n(result):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(result))
    text = console.export_text()
    for expected in ("layer_3", " ms", "random samples", "device-hours", HOSTILE):
        assert expected in text
    assert str(baselines(result).random.n) in text


def test_costs_have_units():
    assert cost_text("phone_latency_ms", 3.21) == "3.21 ms"
    assert cost_text("params", 1_073_466) == "1.07 M"
    assert cost_text("memory_bytes", 262_144) == "262 kB"


# ---- drawings ------------------------------------------------------------------------------------------------------
CELLS = {
    "dense": "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "skips": "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|none~1|skip_connect~2|",
    "nothing": "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|none~0|none~1|none~2|",
    "passing": "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    "empty": "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
}


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def networks():
    space = nasbench201(4, 2)
    rows = [from_string(text) for text in CELLS.values()] + list(np.asarray(space.sample(jax.random.key(0), 5)))
    return [space.layers(row) for row in rows] + [CHAIN.layers(np.asarray([0, 1, 1, 3]))]


@pytest.mark.parametrize("layers", networks())
def test_every_block_is_drawn_once_and_every_layer_is_in_one_box(layers):
    nodes = network_nodes(layers)
    assert sorted(i for n in nodes for i in n.layers) == list(range(len(layers)))
    blocks = [layers[n.layers[0]].scope for n in nodes if layers[n.layers[0]].block]
    assert sorted(blocks) == sorted({x.scope for x in layers if x.block})
    assert sorted(i for u in network_units(nodes) for i in u.nodes) == list(range(len(nodes)))
    box = {i: k for k, n in enumerate(nodes) for i in n.layers}
    edges = {(box[i], box[at]) for at, x in enumerate(layers) for i in x.inputs if box[i] != box[at]}
    assert {(j, k) for k, n in enumerate(nodes) for j in n.inputs} == edges


@pytest.mark.parametrize("layers", networks())
def test_boxes_and_labels_do_not_overlap(layers):
    figure = draw_network(layers)
    renderer = drawn(figure)
    frame = figure.bbox
    texts = [t.get_window_extent(renderer) for t in figure.axes[0].texts]
    assert texts and all(frame.x0 <= t.x0 and t.x1 <= frame.x1 and frame.y0 <= t.y0 and t.y1 <= frame.y1 for t in texts)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))


def test_repeated_cells_are_one_structure_and_draw_alone():
    layers = nasbench201(4, 2).layers(from_string(CELLS["dense"]))
    units = network_units(network_nodes(layers))
    assert len({u.structure for u in units if len(u.nodes) > 1}) == 1
    assert sum(len(u.nodes) > 1 for u in units) == 6
    labels = [t.get_text() for t in draw_cell(layers, "cells.0").axes[0].texts]
    assert labels.count("nor_conv_3x3") == 3 and labels.count("+") == 2


def test_an_operand_added_twice_is_two_edges():
    nodes = network_nodes(nasbench201(4, 1).layers(from_string(CELLS["skips"])))
    assert any(len(n.inputs) > len(set(n.inputs)) for n in nodes if n.kind == "add")


def test_what_the_output_does_not_need_is_marked():
    nodes = network_nodes(nasbench201(4, 1).layers(from_string(CELLS["passing"])))
    assert {n.name.partition(".edge")[0] for n in nodes if not n.alive} == {"cells.0", "cells.2", "cells.4"}


def test_pictures_of_a_search_draw_without_warnings(result, nothing, breaking):
    for each in (result, nothing, breaking):
        drawn(search_curve(each))
        drawn(pareto_plot(each))


def test_curve_ends_at_the_best_and_shows_every_trial(result):
    axes = search_curve(result).axes[0]
    best = next(line for line in axes.lines if line.get_label().startswith("best so far"))
    assert best.get_ydata()[-1] == pytest.approx(float(result.best.scores[0]))
    assert sum(len(c.get_offsets()) for c in axes.collections if "percentile" not in c.get_label()) == 24


# ---- the page ------------------------------------------------------------------------------------------------------
class Checker(HTMLParser):
    """Balanced tags, no scripts, no reference outside of the page, unique ids."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "iframe")
        if tag not in self.VOID:
            self.open.append(tag)
        self.attributes(attributes)

    def handle_startendtag(self, tag, attributes):
        self.attributes(attributes)

    def attributes(self, attributes):
        for name, value in attributes:
            assert name != "src" and not name.startswith("on")
            assert name != "href" or value.startswith("#")
            self.ids += [value] if name == "id" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page(result, **options):
    costs = {**count_costs(CHAIN), "latency": latency(CHAIN)}
    return render(result, **{"config": None, "search": None, "costs": costs, **options})


def test_page_is_one_sound_file_that_escapes_what_people_wrote(result, tmp_path):
    config = {"choices": {"note": HOSTILE}, "macro": {"width": 8, "depth": 4, "input": [16, 16, 3], "classes": 10}}
    described = {"evaluation": {"split": "validation", "data": HOSTILE, "recipe": {"epochs": 3}}, "seed": 7}
    trained = {"accuracy": 0.75, "split": "test"}
    costs = {**count_costs(CHAIN), "latency": latency(CHAIN)}
    path = write_report(result, tmp_path, config=config, search=described, costs=costs, trained=trained)
    text = path.read_text()
    found = Checker(text)
    for forbidden in ("http", "src=", "@import", "<script", "url(p"):
        assert forbidden not in text
    shown = "".join(found.text)
    for expected in (HOSTILE, "Pixel <7>", "int8", "2026-01-05", "at most 7 ms", "validation split after 3 epochs"):
        assert expected in shown
    for expected in ("0.75", "device-hours", "nas train", "--resume" if result.out else "best.json"):
        assert expected in shown
    assert f"own {baselines(result).random.n} random samples" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_page_of_a_search_that_found_nothing(nothing):
    text = page(nothing)
    shown = "".join(Checker(text).text)
    assert "Found nothing: none of 3 trials finished" in shown
    assert "no finite value of accuracy" in shown and "nothing to estimate it from" in shown
    assert "<svg" not in text


def test_page_says_what_has_no_stamp_and_when_all_breaks_a_limit(breaking):
    text = page(breaking, costs={})
    shown = "".join(Checker(text).text)
    assert "every finished trial breaks a limit; the nearest is trial" in shown and ", limit 0.5 ms" in shown
    assert "no stamp was handed to the report" in shown


def test_a_random_search_run_in_full_is_shown_as_such(result, nothing):
    shown = "".join(Checker(page(result, baseline=result)).text)
    assert "random search, run in full" in shown and "one seed" in shown
    assert "random search, run in full" in "".join(Checker(page(result, baseline=nothing)).text)
    assert "run in full" not in "".join(Checker(page(result)).text)


def test_folder_appears_quoted_in_how_to_go_on(tmp_path):
    folder = tmp_path / "my run"
    shown = "".join(Checker(page(run(trials=2, out=folder))).text)
    assert f"--out '{folder}' --resume" in shown


TRAINING = {
    "schema": "nas.training/1",
    "runs": [
        {
            "seed": 3,
            "finished": True,
            "epochs": [
                {
                    "epoch": e,
                    "metrics": {"loss": 1 / e},
                    "events": [{"event": "guard", "guard": "skip", "why": HOSTILE}] if e == 2 else [],
                    "gates": [[e / 4, 1 - e / 4], [0.5, 0.5]],
                    "seconds": e,
                }
                for e in (1, 2, 3)
            ],
        }
    ],
    "edges": ["a", "b"],
    "options": [["x", "y"], ["x", "y"]],
}


def test_gates_are_drawn_as_shares_of_one():
    figure = gates_over_time([e["gates"] for e in TRAINING["runs"][0]["epochs"]], ["a", "b"], [["x", "y"]] * 2)
    first, second = [axes for axes in figure.axes if axes.get_title() in ("a", "b")]
    lowest = first.collections[0].get_paths()[0].vertices
    assert {(1.0, 0.25), (2.0, 0.5), (3.0, 0.75)} <= {tuple(map(float, v)) for v in lowest}
    assert {(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)} <= {
        tuple(map(float, v)) for v in second.collections[0].get_paths()[0].vertices
    }


def test_the_report_tells_of_the_training_of_shared_weights(result):
    page = render(dataclasses.replace(result, training=TRAINING), config=None, search=None, costs={})
    assert "The shared weights" in page and "Gates over time" in page
    assert "skip" in page and HOSTILE not in page
    assert "The shared weights" not in render(result, config=None, search=None, costs={})
