"""Every reader of a file from outside, with a small honest file for each: what `experiments.fuzz` mutates."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments import hat
from experiments.arch_rows import table_rows
from experiments.fit_command import read_values
from experiments.options import parse_named, parse_sets, parse_shape, parse_time
from experiments.own_table import from_csv
from experiments.run_search import reopened
from experiments.tables import read_csv
from hw_models.block_table import load_blocks
from hw_models.bundle import read_results
from hw_models.conv_table import Kind, read_profile
from hw_models.grid_table import grid_cost
from hw_models.readers import FORMATS, import_blocks
from hw_models.samples import SCHEMA as SAMPLES
from hw_models.samples import open_samples
from nas import config, data
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.cost import Cost, Stamp, count_costs, load_cost, sample_rows
from nas.driver import Driver
from nas.evaluate import CandidateFailed, Rung
from nas.handover import Results
from nas.journal import RunFolder
from nas.model import Model, load_model, save_model
from nas.network import Network
from nas.objective import pareto, parse_quantity
from nas.plan import describe_space
from nas.result import trial_rows
from nas.search import search
from nas.space import Macro
from search_spaces import SPACES, darts, hat_format, nasbench201
from search_spaces.genotype import parse, space_of, to_row
from search_spaces.mobile_named import named
from search_spaces.nasbench201 import from_string, to_string
from strategies import regularized_evolution

SMALL = Macro(4, 1, (8, 8, 1), 3)
SPACE = nasbench201().at(SMALL)
GENOTYPE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 2)], "
    "normal_concat=[2, 3], reduce=[('max_pool_3x3', 0), ('avg_pool_3x3', 1), ('skip_connect', 2), "
    "('sep_conv_5x5', 1)], reduce_concat=range(2, 4))"
)
TRANSLATOR = """encoder-embed-dim-subtransformer: 640
decoder-embed-dim-subtransformer: 512
encoder-layer-num-subtransformer: 6  # always
decoder-layer-num-subtransformer: 2
encoder-ffn-embed-dim-all-subtransformer: [1024, 3072, 3072, 2048, 512, 2048]
decoder-ffn-embed-dim-all-subtransformer: [3072, 512]
encoder-self-attention-heads-all-subtransformer: [4, 8, 4, 2, 4, 8]
decoder-self-attention-heads-all-subtransformer: [8, 2]
decoder-ende-attention-heads-all-subtransformer: [8, 4]
decoder-arbitrary-ende-attn-all-subtransformer: [-1, 2]
"""
STAMP = Stamp("latency", "ms", "a phone", "made up", 1, "float32", config.macro_to_json(SMALL), "made up")
ROW = np.asarray([3, 1, 2, 4, 0, 3], np.int32)


class Reader(NamedTuple):
    """Something that reads a file.

    Attributes:
        name: for people.
        path: of the file that is mutated; an honest one lies there.
        read: reads it, with whatever lies beside it.
        share: of all inputs, in proportion; slow readers get less.
    """

    name: str
    path: Path
    read: Callable[[], Any]
    share: int = 10


def readers(folder: Path) -> list[Reader]:
    """All of them; each has a folder of its own below `folder`."""
    found: list[Reader] = []
    for make in (_configs, _texts, _tables, _published, _columns, _runs, _trained, _bundles):
        place = folder / make.__name__
        place.mkdir()
        found += make(place)
    return found


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _text(name: str, folder: Path, content: str, read: Callable[[str], Any]) -> Reader:
    path = _written(folder / f"{name.replace(' ', '_')}.txt", content)
    return Reader(name, path, lambda: read(path.read_text(errors="replace")[:100_000]))


# ---- architectures -----------------------------------------------------------------------------------------------
def _configs(folder: Path) -> list[Reader]:
    found = []
    cells, mobile = darts(nodes=2), named("mobilenet_v3_small")
    cell = to_row(parse(GENOTYPE), cells), Macro(4, 3, (8, 8, 1), 3)
    for space, row, macro in ((SPACE, ROW, SMALL), (cells, *cell), (*mobile, mobile[0].macro)):
        path = folder / f"{space.name}.json"
        costs = ({"name": "phone", "value": 0.5, "how": "estimated", "stamp": asdict(STAMP)},)
        config.Architecture(space, row, macro, macro, metrics={"accuracy": 0.5}, costs=costs).save(path)
        found.append(Reader(f"config {space.name}", path, lambda path=path: config.load(path, SPACES)))
    return found


def _texts(folder: Path) -> list[Reader]:
    def cell(text):
        found = parse(text)
        return to_row(found, space_of(found))

    def words(text):
        setting, time, shape, limit, quantity, *_ = [*text.split(" "), "", "", "", "", ""]
        parse_sets([setting])
        parse_time(time)
        parse_shape(shape)
        parse_named([limit], "--limit")
        parse_quantity(quantity, "latency", "--limit")

    return [
        _text("genotype", folder, GENOTYPE, cell),
        _text("hat's network", folder, TRANSLATOR, lambda text: hat_format.from_text(text, "wmt14ende")),
        _text("nb201 string", folder, to_string(ROW), from_string),
        _text("options", folder, "epochs=20 2h 32x32x3 phone=20ms 0.5s", words),
    ]


# ---- costs -------------------------------------------------------------------------------------------------------
def _tables(folder: Path) -> list[Reader]:
    cost, blocks, samples = (folder / f"{name}.json" for name in ("cost", "blocks", "samples"))
    params = count_costs(SPACE)["params"]
    Cost(STAMP, params.base, params.factors, None, SPACE.fingerprint).save(cost)
    import_blocks("proxylessnas", _written(folder / "mobile.yaml", PUBLISHED["proxylessnas"][1]))[0].save(blocks)
    about = {"device": "here", "batch": 1}
    content = {"schema": SAMPLES, "about": about, "samples": {"block": [[0.5, 0.1], [0.4, 0.1]]}}
    _written(samples, json.dumps(content))
    return [
        Reader("cost table", cost, lambda: load_cost(cost, SPACE)(ROW[None])),
        Reader("block table", blocks, lambda: load_blocks(blocks)),
        Reader("samples", samples, lambda: open_samples(samples, about)),
    ]


_BLOCK = "-input:56x56x24-output:28x28x40-expand:{}-kernel:5-stride:2-idskip:0"
_STEM = "Conv-input:224x224x3-output:112x112x24"
_YAML = "{}:\n  {{count: 10, mean: 0.5, std: 0.1}}\n{}:\n  count: 10\n  mean: 1.25\n  std: 0.01\n"
# format -> file, content, column
PUBLISHED: dict[str, tuple[str, str, str | None]] = {
    "ofa": ("160_lookup_table.yaml", _YAML.format(_STEM, f"expanded_conv{_BLOCK.format(144)}-se:1-hs:0"), None),
    "proxylessnas": ("mobile.yaml", _YAML.format(_STEM, f"expanded_conv{_BLOCK.format(6)}"), None),
    "big_little": ("b.csv", f"block,gpu_ms\n{_STEM},0.5\nexpanded_conv{_BLOCK.format(6)},1.25\n", "gpu_ms"),
    "tfnas": (
        "t.csv",
        "hw,in_ch,se_ch,out_ch,kernel,stride,act,mid_ch,latency_ms\n0,0,0,0,0,0,base,0,3.5\n"
        "112,16,0,24,3,2,relu,48,0.5\n56,24,24,40,5,2,swish,96,1.5\n",
        None,
    ),
    "nnmeter_phones": (
        "p.csv",
        "block,pixel4_ms\nfirstconv_224_3_16_2_3,0.4\nconv_112_16_24_3_2_relu_3_nose,0.9\n"
        "conv_56_24_40_4_2_hswish_5_se,1.1\n",
        "pixel4_ms",
    ),
    "nnmeter_onnx": (
        "o.csv",
        "block,latency_ms\nFirstConvBlock_224_3_16_3__2_hswish,0.4\nMobileNetV3ResBlock_56_24_40_5_4_2_relu,0.9\n",
        "latency_ms",
    ),
}
_CONVS = (
    "precision,conv_type,batch,in_ch,in_h,in_w,out_ch,kernel,stride,elmt_fused,latency_ms\n"
    "fp16,Regular,1,16,32,32,24,3,1,0,0.01\nfp16,Depthwise,1,16,32,32,16,3,2,0,0.02\nfp16,Regular,1,32,28,28,24,3,1,0,0.03\n"
)


def _translators(path: Path) -> Path:
    """120 networks in the columns of HAT's latency files."""
    rng, lines = np.random.default_rng(0), []
    for _ in range(120):
        wide, narrow, depth = (int(rng.choice(options)) for options in ((512, 640), (512, 640), range(1, 7)))
        encoder = [float(rng.choice(options, 6).mean()) for _, options, _ in hat.OF_ENCODER]
        decoder = [float(rng.choice(options, depth).mean()) for _, options, _ in hat.OF_DECODER]
        taken = [9 + float(rng.random()), 50 + 20 * depth + float(rng.random())]
        lines.append([wide, 6, *encoder, narrow, depth, *decoder, *taken])
    names = [
        f"{side}_{name}"
        for side, features in (("encoder", hat.OF_ENCODER), ("decoder", hat.OF_DECODER))
        for name in ("embed_dim", "layer_num", *(f"{name}_avg" for name, _, _ in features))
    ]
    text = [",".join(map(str, line)) for line in ([*names, *hat.PARTS["sum"]], *lines)]
    return _written(path, "\n".join(text) + "\n")


def _published(folder: Path) -> list[Reader]:
    found = []
    for form in FORMATS:
        name, content, column = PUBLISHED[form]
        place = folder / form
        place.mkdir()
        path = _written(place / name, content)
        source = place if form == "ofa" else path
        read = lambda form=form, source=source, column=column: import_blocks(form, source, column=column)  # noqa: E731
        found.append(Reader(f"import {form}", path, read))
    convs = _written(folder / "convs.csv", _CONVS)
    grid = _written(folder / "grid.txt", "# ms\n" + "0.5 1 0 2.5e-3 4\n" * SPACE.length)
    profile = lambda: read_profile(read_csv(convs), "convs.csv", "fp16", 1, "a card")  # noqa: E731
    measured = dict(quantity="latency", factor=1.0, device="a board")
    translators = _translators(folder / "wmt14ende_cpu_xeon_all.csv")
    return [
        *found,
        Reader("import tensorrt", convs, lambda: profile().conv(Kind(False, 3, 1), (16, 24, 28))),
        Reader("import hat", translators, lambda: hat.cost(translators), 4),
        Reader("import grid", grid, lambda: grid_cost(grid, SPACE, SMALL, **measured)(ROW[None])),
    ]


def _columns(folder: Path) -> list[Reader]:
    rng = np.random.default_rng(0)
    rows = sample_rows(SPACE, 12)
    values = rng.uniform(1, 90, (12, 3)).round(3).tolist()
    lines = [",".join([to_string(row), *map(str, three)]) for row, three in zip(rows, values, strict=True)]
    own = _written(folder / "own.csv", "arch,v12,v200,t200\n" + "\n".join(lines) + "\n")
    numbered = _written(folder / "n.csv", "index,ms\n" + "\n".join(f"{i},{i + 1}.5" for i in range(12)) + "\n")
    lines = [f"{i},{to_string(row)}" for i, row in enumerate(rows)]
    explained = _written(folder / "e.csv", "index,arch_str\n" + "\n".join(lines) + "\n")

    def figures():
        columns, _ = table_rows(SPACE, numbered, "index", explained)
        return read_values(columns, "ms", "n.csv")

    return [
        Reader("csv of replay", own, lambda: from_csv(own, SPACE, "arch", ["12:v12", "200:v200"], "t200"), 4),
        Reader("csv of fit", numbered, figures, 4),
        Reader("csv of numbers", explained, figures, 4),
    ]


# ---- what searches and trainings leave ---------------------------------------------------------------------------
def _trial():
    def evaluate(job):
        if job.id == 3:
            raise CandidateFailed("it is the third")
        yield Rung({"accuracy": float(job.row[0]) / 5, "epochs": 1})
        yield {"accuracy": float(job.row[1]) / 5, "epochs": 3}

    return evaluate


def _runs(folder: Path) -> list[Reader]:
    run, objective = folder / "run", pareto("params")
    strategy = regularized_evolution(SPACE, population=4, tournament=2, objectives=2)
    search(SPACE, strategy, _trial, objective=objective, trials=8, eta=2, out=run)
    _written(run / "training.json", json.dumps({"schema": "nas.training/1", "runs": [{"seed": 0, "epochs": []}]}))
    left = Results(folder / "results")
    left.write(4, {"accuracy": 0.5, "epochs": 3.0, "seconds": 0.1})

    def driver_of(held):
        given = dict(objective=objective, costs={}, seed=0, trials=8, seconds=None, eta=2)
        return Driver(SPACE, strategy, folder=held, **given)

    def shown():
        result = reopened(run, None)
        trial_rows(result)
        if result.best is not None:
            config.from_result(result).to_dict()

    def replayed():
        return driver_of(RunFolder.reader(run))

    def adopted():
        driver = driver_of(RunFolder(None, {}))
        for _ in range(5):
            driver.next()
        driver.adopt(left.read())

    return [
        Reader("search.json", run / "search.json", shown, 5),
        Reader("journal, shown", run / "journal.jsonl", shown, 5),
        Reader("journal, resumed", run / "journal.jsonl", replayed, 5),
        Reader("training.json", run / "training.json", shown, 2),
        Reader("a worker's result", folder / "results" / "4.json", adopted, 4),
    ]


def _trained(folder: Path) -> list[Reader]:
    checkpoint, model, images = folder / "seed_0.safetensors", folder / "model", folder / "images.npz"
    state = {"weights": np.ones((3, 4), np.float32), "step": np.int32(7), "key": jax.random.key(0)}
    save_checkpoint(checkpoint, state, {"epoch": 3, "events": [{"event": "guard"}]})
    layers = SPACE.layers(np.zeros(6, np.int32))
    made = config.Architecture(SPACE, np.zeros(6, np.int32), SMALL, SMALL).to_dict()
    network = Network(layers, rngs=nnx.Rngs(0))
    save_model(Model(network, ("a", "b", "c"), (0.5,), (0.25,), json.loads(json.dumps(made)), {}), model)
    pixels = np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8)
    np.savez(images, images=pixels, labels=np.arange(12) % 3)
    return [
        Reader("checkpoint", checkpoint, lambda: load_checkpoint(checkpoint, state)),
        Reader("weights", model / "weights.safetensors", lambda: load_model(model), 1),
        Reader("model.json", model / "model.json", lambda: load_model(model), 1),
        Reader("model's config", model / "architecture.json", lambda: load_model(model), 1),
        Reader("images npz", images, lambda: data.load(str(images)), 5),
    ]


def _bundles(folder: Path) -> list[Reader]:
    models = [{"name": f"{i:04d}", "file": f"models/{i:04d}.onnx", "row": [i, 1, 2, 3, 4, 0]} for i in range(3)]
    about = {"space": describe_space(SPACE), "macro": asdict(SMALL), "batch": 1, "dtype": "float32"}
    manifest = {"schema": "nas.bundle/1", **about, "models": models}
    lines = [f"{model['name']},{turn},{turn + 1}.5" for turn in range(3) for model in models]
    paths = [
        _written(folder / "manifest.json", json.dumps(manifest)),
        _written(folder / "device.json", json.dumps({"device": "a phone", "runtime": "tool 1", "threads": 4})),
        _written(folder / "results.csv", "\n".join(["model,round,latency_ms", *lines]) + "\n"),
    ]
    return [Reader(f"bundle {path.name}", path, lambda: read_results(folder, SPACES), 5) for path in paths]
