"""Published benchmark tables by name: where search spaces and other people's measurements meet."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.arch_rows import option_rows, parse_archs
from experiments.tables import column, numbers, read_csv
from nas.errors import BadInput, suggest
from nas.image_sets import roots
from nas.replay import Benchmark, benchmark
from nas.space import Decision, Macro, SearchSpace
from search_spaces import SPACES

ONE_RESULT = "the table has one result for each network: it is chosen by what is reported"
ONE_EPOCH = "the table does not say how long its networks were trained: a training counts as one epoch"
# steps of training that one score costs; a forward pass is a third of a step
STEPS = {"params": 0.0, "naswot": 1 / 3, "ntk": 1.0, "nasi": 1.0}


def nasbench201(dataset: str, features: Sequence[str]) -> Benchmark:
    """NAS-Bench-201's 15,625 cells at 12 and 200 epochs (Dong and Yang, ICLR 2020); per cent.

    Features are parameters and the scores of MONET, one minibatch each.
    """
    known, where = tuple(STEPS), "nasbench201"
    unknown = next((name for name in features if name not in known), None)
    if unknown is not None:
        raise BadInput(f"--features: no '{unknown}' for {where}; {suggest(unknown, known)}")
    columns = read_csv(find("nasbench201/accuracy.csv"))
    values, notes = None, []
    if features:
        values = _scores(columns, read_csv(find("nasbench201/zero_cost_monet.csv.gz")), dataset, features)
        # 12 epochs on half of CIFAR-10 or all of CIFAR-100, in batches of 256
        steps = {"cifar10": 98, "cifar100": 196}[dataset]
        cost = sum(STEPS[name] for name in features) * len(values) / steps
        notes = [
            f"features {', '.join(features)} are not in the budget: a minibatch for each of {len(values):,} networks "
            f"costs about {cost:.0f} epochs of training (a forward pass counts as a third of a step)"
        ]
    return benchmark(
        f"nasbench201 {dataset}",
        SPACES["nasbench201"](),
        (12, 200),
        parse_archs(SPACES["nasbench201"](), column(columns, "arch_str", where), where),
        numbers(columns, [f"{dataset}_val_e12", f"{dataset}_val_e200"], where),
        numbers(columns, [f"{dataset}_test_e200"], where)[0],
        features=values,
        feature_names=tuple(features),
        notes=tuple(notes),
    )


def _scores(columns, monet, dataset, features):
    """float32[N, F]; a score that does not exist counts as the lowest there is."""
    if columns["index"] != monet["index"]:
        raise BadInput("nasbench201/zero_cost_monet.csv.gz: its rows are not those of accuracy.csv")
    names = {"params": f"{dataset}_params", "ntk": f"{dataset}_ntk_score"}
    found = []
    for feature in features:
        texts = column(
            columns if feature == "params" else monet, names.get(feature, f"{dataset}_{feature}"), "features"
        )
        values = np.asarray([float(text or "nan") for text in texts], np.float32)
        known = np.isfinite(values)
        found.append(np.where(known, values, values[known].min()))
    return np.stack(found, 1)


def nats_size(dataset: str, features: Sequence[str]) -> Benchmark:
    """NATS-Bench's 32,768 widths at 90 epochs (Dong et al., TPAMI 2021); per cent."""
    columns, space, where = read_csv(find("nats_sss/nats_sss.csv.gz")), SPACES["nats_size"](), "nats_size"
    rows = option_rows(space, columns, [f"c{i}" for i in range(5)], where)
    accuracy = numbers(columns, [f"{dataset}_acc"], where)
    return benchmark(f"nats_size {dataset}", space, (90,), rows, accuracy, accuracy[0], notes=(ONE_RESULT,))


def nas_bench_macro(dataset: str, features: Sequence[str]) -> Benchmark:
    """NAS-Bench-Macro's 6,561 networks of eight blocks at 50 epochs (Su et al., CVPR 2021); per cent.

    The first of the three runs is what a strategy is told, the mean of the others what is reported.
    """
    path = find("nas_bench_macro/nas-bench-macro_cifar10.json")
    found = json.loads(path.read_text())
    space = SPACES["nas_bench_macro"]()
    runs = np.asarray([entry["test_acc"] for entry in found.values()])
    rows = np.asarray([[int(digit) for digit in text] for text in found])
    space = SPACES["nas_bench_macro"]()
    note = "a strategy is told the test accuracy of one run; the mean of the two others is reported"
    return benchmark("nas_bench_macro cifar10", space, (50,), rows, runs[:, :1].T, runs[:, 1:].mean(1), notes=(note,))


# ---- NAS-Bench-Graph ---------------------------------------------------------------------------------------------
LINKS = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
LAYERS = ("arma", "cheb", "fc", "gat", "gcn", "gin", "graph", "sage", "skip")


def nas_bench_graph(dataset: str, features: Sequence[str]) -> Benchmark:
    """NAS-Bench-Graph's networks of four nodes (Qin et al., NeurIPS 2022); fractions.

    The table holds each network once; rows that are the same up to the order of nodes and to skips share its entry.
    """
    columns, where = read_csv(find("nas_bench_graph/nas_bench_graph.csv.gz")), "nas_bench_graph"
    here = [i for i, name in enumerate(column(columns, "dataset", where)) if name == dataset]
    columns = {name: [values[i] for i in here] for name, values in columns.items()}
    operations = zip(*(column(columns, f"op{i}", where) for i in range(1, 5)), strict=True)
    links = (link.zfill(4) for link in column(columns, "link", where))
    place = {_graph(link, ops): i for i, (link, ops) in enumerate(zip(links, operations, strict=True))}
    space = table_only("nas_bench_graph", [("link", LINKS), *((f"op_{i}", LAYERS) for i in range(1, 5))])
    rows, at = [], []
    for row in product(range(9), repeat=5):
        entry = place.get(_graph(LINKS[row[0]], [LAYERS[i] for i in row[1:]]))
        if entry is not None:
            rows.append(row)
            at.append(entry)
    values = numbers(columns, ["valid", "test"], where)[:, at]
    return benchmark(
        f"nas_bench_graph {dataset}", space, (1,), np.asarray(rows), values[:1], values[1], notes=(ONE_EPOCH,)
    )


def _graph(link: str, operations: Sequence[str]) -> str:
    """A name that rows share when they are one network: a tree without order, in which skips pass their source on."""
    real, children, ends = {0: 0}, defaultdict(list), Counter()
    for node, (source, operation) in enumerate(zip(map(int, link), operations, strict=True), 1):
        real[node] = real[source] if operation == "skip" else node
        if operation != "skip":
            children[real[source]].append(node)
        elif str(node) not in link:
            ends[real[source]] += 1  # what it passes on is an output of the network

    def name(node: int) -> str:
        inner = ",".join(sorted(map(name, children[node])))
        return f"{operations[node - 1] if node else ''}{'*' * ends[node]}({inner})"

    return name(0)


# ---- TransNAS-Bench-101 ------------------------------------------------------------------------------------------
TASKS = ("class_object", "class_scene", "autoencoder", "normal", "jigsaw", "room_layout", "segmentsemantic")


def transnas_micro(dataset: str, features: Sequence[str]) -> Benchmark:
    """711 of the 4,096 cells of TransNAS-Bench-101 (Duan et al., CVPR 2021), in the unit of each task."""
    edges = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    options = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
    return _transnas("micro", dataset, table_only("transnas_micro", [(f"edge_{a}_{b}", options) for a, b in edges]))


def transnas_macro(dataset: str, features: Sequence[str]) -> Benchmark:
    """Some 700 of the 3,256 backbones of TransNAS-Bench-101: four to six modules of four kinds.

    A backbone halves the resolution one to four times and doubles the channels one to three times.
    """
    kinds = ("none", "plain", "doubles", "halves", "halves_and_doubles")
    return _transnas("macro", dataset, table_only("transnas_macro", [(f"m{i}", kinds) for i in range(6)], _backbone))


def _backbone(row, i: int):
    halves, doubles = jnp.asarray([0, 0, 0, 1, 1]), jnp.asarray([0, 0, 1, 0, 1])
    before = jnp.where(jnp.arange(6) < i, jnp.asarray(row), 0)
    halved, doubled = halves[before].sum() + halves, doubles[before].sum() + doubles
    fits = (halved <= 4) & (doubled <= 3)
    if i < 4:
        return fits & (jnp.arange(5) > 0)
    # a fifth and a sixth module are needed only where nothing was halved or doubled yet
    ended = (i == 5) & (before[4] == 0)
    enough = (halved >= 1) & (doubled >= 1)
    return jnp.where(ended, jnp.arange(5) == 0, fits & (enough | ((i == 4) & (jnp.arange(5) > 0))))


def _transnas(kind, task, space):
    columns, where = read_csv(find(f"naslib_zc/transbench101_{kind}.csv.gz")), f"transnas_{kind}"
    here = [i for i, name in enumerate(column(columns, "task", where)) if name == task]
    columns = {name: [values[i] for i in here] for name, values in columns.items()}
    values = numbers(columns, ["val_accuracy"], where)
    rows = parse_archs(space, column(columns, "arch", where), where)
    return benchmark(f"{where} {task}", space, (1,), rows, values, values[0], notes=(ONE_RESULT, ONE_EPOCH))


# ---- by name -----------------------------------------------------------------------------------------------------
# name -> reader and the data sets it knows, the first being the default
BENCHMARKS: dict[str, tuple[Callable[[str, Sequence[str]], Benchmark], tuple[str, ...]]] = {
    "nasbench201": (nasbench201, ("cifar10", "cifar100")),
    "nats_size": (nats_size, ("cifar10", "cifar100")),
    "nas_bench_macro": (nas_bench_macro, ("cifar10",)),
    "nas_bench_graph": (nas_bench_graph, ("cora", "pubmed", "cs", "photo", "computers", "arxiv", "proteins")),
    "transnas_micro": (transnas_micro, TASKS),
    "transnas_macro": (transnas_macro, TASKS),
}


def load(name: str, dataset: str | None = None, features: Sequence[str] = ()) -> Benchmark:
    """A published benchmark by name.

    Raises:
        BadInput: unknown name, data set or feature, or a table that is absent or not as it should be.
    """
    if name not in BENCHMARKS:
        raise BadInput(f"no benchmark '{name}'; {suggest(name, BENCHMARKS)}; or a .csv file")
    read, datasets = BENCHMARKS[name]
    if dataset is not None and dataset not in datasets:
        raise BadInput(f"--dataset: {name} has no data set '{dataset}'; {suggest(dataset, datasets)}")
    if features and name != "nasbench201":
        raise BadInput(f"--features: {name} has none; nasbench201 has {', '.join(STEPS)}")
    return read(dataset or datasets[0], features)


def find(name: str) -> Path:
    """A table under NAS_DATA (see `nas.image_sets.roots`)."""
    for root in roots():
        if (root / name).exists():
            return root / name
    raise BadInput(f"no table {name} in {' or '.join(map(str, roots()))}; set NAS_DATA to the folder of tables")


def table_only(name: str, decisions: Sequence[tuple[str, tuple]], allowed_of: Callable | None = None) -> SearchSpace:
    """A space that exists in a table alone: no network of it can be built."""

    def network(net, macro):
        raise BadInput(f"space '{name}' is known from its table alone; there is no network to build")

    made = tuple(Decision(what, options) for what, options in decisions)
    return SearchSpace(name, made, network, Macro(1, 1, (1, 1, 1), 1), allowed_of)
