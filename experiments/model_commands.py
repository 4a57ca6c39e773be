"""The verbs on one architecture: train, evaluate, describe, import, export."""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import jax

from experiments.cli import show
from experiments.options import (
    RECIPE_SETTINGS,
    TEXT_SETTINGS,
    defaults_for,
    frame,
    known_spaces,
    parse_sets,
    parse_shape,
    read_costs,
    split_sets,
    tell_parts,
)
from hw_models.roofline import roofline
from nas import config as configs
from nas.cost import count_costs
from nas.data import load
from nas.errors import BadInput, suggest
from nas.evaluate import fit_macro, own_program
from nas.files import check_out, write_atomic
from nas.language_model import LanguageModel
from nas.model import evaluate_model, load_model, save_model, train_model
from nas.network import init_layers
from nas.proxies import draw_batch, scorer
from nas.recipe import check_recipe
from nas.space import Macro
from nas.streams import STREAMS
from nas.supernet import network_supernet
from nas.text import text_of
from search_spaces import SPACES, hat_format
from search_spaces.genotype import from_row, parse, space_of, to_row
from search_spaces.hat import TASKS
from search_spaces.mobile_named import named
from search_spaces.nasbench201 import from_string, nasbench201, to_string


def _load(path, own, width=None, depth=None):
    architecture = configs.load(path, known_spaces(own, SPACES))
    macro = architecture.macro
    return replace(architecture, macro=replace(macro, width=width or macro.width, depth=depth or macro.depth))


def train(path, data_name, out, sets, width, depth, limit, seed, own, as_json):
    """`nas train`."""
    architecture = _load(path, own, width, depth)
    settings = split_sets(parse_sets(sets), {"recipe": list(RECIPE_SETTINGS), "data": list(TEXT_SETTINGS)})
    numbering = (_numbering(architecture) if text_of(data_name) else {}) | settings["data"]
    data = load(data_name, **({} if limit is None else {"limit": limit}), **numbering)
    tell_parts(data)
    base = architecture.recipe or defaults_for(data.input_shape).train
    recipe = base.replace(**settings["recipe"])
    macro = fit_macro(architecture.macro, data)  # a text for images says so, whatever the recipe
    check_recipe(recipe, data.input_shape)
    # compiles nothing yet, and says at once what does not fit
    own_program(architecture.space, architecture.row, macro, recipe)
    _check_out(Path(out))
    with _bar(recipe.epochs, "training") as step:
        model, history = train_model(architecture, data, recipe, seed=seed, progress=step)
    save_model(model, out, history)
    found = {**model.metrics, "model": str(out)}
    if as_json:
        return show(found)
    if data.is_text:
        return print(
            f"test perplexity {found['test_perplexity']:.4g}, accuracy of the next token {found['test_accuracy']:.4f}; "
            f"validation perplexity {found['validation_perplexity']:.4g}; the state carried over the text in {STREAMS} "
            f"streams (epoch {found['epoch']} of {found['epochs']}, seed {seed}); written to {out}"
        )
    print(
        f"test accuracy {found['test_accuracy']:.4f}, validation {found['validation_accuracy']:.4f} "
        f"(epoch {found['epoch']} of {found['epochs']}, seed {seed}); written to {out}"
    )


def _numbering(architecture):
    """How a search read its text: a cell of words is trained on words, without being told again."""
    searched = architecture.provenance.get("evaluation", {})
    held = searched.get("data_options", {}) if isinstance(searched, dict) else {}
    return {name: held[name] for name in TEXT_SETTINGS if isinstance(held, dict) and name in held}


def _check_out(out):
    """Before the training, not after it."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: it is a file; choose a folder")
    if (out / "model.json").exists():
        print(f"nas: {out} holds a model already; it will be replaced", file=sys.stderr)
    elif out.exists() and any(out.iterdir()):
        raise BadInput(f"--out {out}: it holds other files; choose a new or empty folder, such as {out}/model")
    out.mkdir(parents=True, exist_ok=True)


def _bar(total, what):
    """A progress line with time left, on stderr."""
    import contextlib

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    @contextlib.contextmanager
    def shown():
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
        with Progress(*columns, *times, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(f"{what} (compiling)", total=total)
            if not sys.stderr.isatty():
                print(f"nas: {what} for {total} epochs; compiling first", file=sys.stderr)
            said = time.monotonic()

            def step(epoch, metrics):
                nonlocal said
                shown = f"perplexity {metrics['perplexity']:.4g}" if "perplexity" in metrics else None
                text = f"{what}, validation {shown or format(metrics['accuracy'], '.4f')}"
                progress.update(task, completed=epoch, description=text)
                if not sys.stderr.isatty() and time.monotonic() - said > 10:
                    said = time.monotonic()
                    print(f"epoch {epoch} of {total}: {text}", file=sys.stderr)

            yield step

    return shown()


def evaluate(folder, data_name, split, as_json):
    """`nas evaluate`."""
    if split not in ("train", "validation", "test"):
        raise BadInput(f"--split: no split '{split}'; {suggest(split, ('train', 'validation', 'test'))}")
    model = load_model(folder)
    text = isinstance(model, LanguageModel)
    numbered = dict(level=model.level, sequence=model.sequence, classes=model.classes) if text else {}
    data = load(data_name, **(numbered if text_of(data_name) else {}))
    found = evaluate_model(model, data, split) | {"split": split}
    if as_json:
        return show(found)
    if text:
        figures = f"{split} perplexity {found['perplexity']:.4g}, accuracy of the next token {found['accuracy']:.4f}"
        return print(f"{figures}, {found['tokens']:,} {data.level}, the state carried over in {STREAMS} streams")
    print(f"{split} accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}, {found['images']} images")


def describe(path, costs, proxies, data_name, peaks, width, depth, own, as_json):
    """`nas describe`."""
    architecture = _load(path, own, width, depth)
    measured = read_costs(costs, architecture.space.at(architecture.macro), None)
    prices = configs.price({**count_costs(architecture.space, architecture.macro), **measured}, architecture.row)
    by_name = {p["name"]: p for p in prices}
    found = {
        "space": architecture.space.name,
        "choices": architecture.space.decode(architecture.row),
        "macro": configs.macro_to_json(architecture.macro),
        "params": int(by_name["params"]["value"]),
        "macs": int(by_name["macs"]["value"]),
        "memory_bytes": int(by_name["memory"]["value"]),
        "cost": [by_name[name] for name in measured],
        "metrics": dict(architecture.metrics),
        "layers": len(architecture.layers),
    }
    if proxies is not None:
        found["proxies"] = _proxies(architecture, proxies.split(","), data_name)
    if peaks is not None:
        found["roofline"] = _roofline(architecture.layers, peaks)
    if as_json:
        return show(found)
    print(f"{found['space']} at {frame(found['macro'])}, {found['layers']} layers")
    for name, value in found["choices"].items():
        print(f"  {name}: {value}")
    print(f"params {found['params']:,}   macs {found['macs']:,}   memory {found['memory_bytes']:,} bytes")
    for price in found["cost"]:
        stamp = price["stamp"]
        error = "" if stamp["error"] is None else f", held-out error {stamp['error']:.1%}"
        where = f"{stamp['device']} ({stamp['runtime']}, batch {stamp['batch']}{error})"
        print(f"{price['name']} {price['value']:.4g} {stamp['unit']} on {where}")
    for name, value in found.get("proxies", {}).items():
        print(f"{name} {value:.6g} (untrained, a batch of {data_name})")
    if peaks is not None:
        _print_roofline(found["roofline"])


def _roofline(layers, peaks):
    """Each layer's bound at batch 1 in float32, with the peaks it is for."""
    try:
        gflops, gbytes = map(float, peaks.split(","))
    except ValueError:
        raise BadInput(f"--roofline {peaks}: write peak GFLOP/s and GB/s, for example --roofline 350,20") from None
    bounds = roofline(layers, gflops=gflops, gbytes=gbytes)
    return {"gflops": gflops, "gbytes": gbytes, "batch": 1, "dtype": "float32", "layers": [asdict(b) for b in bounds]}


def _print_roofline(found):
    from rich.console import Console
    from rich.table import Table

    title = f"roofline of {found['gflops']:g} GFLOP/s and {found['gbytes']:g} GB/s, batch 1, float32"
    table = Table("layer", "macs", "bytes", "FLOP/byte", "bound by", "at least, ms", title=title, title_justify="left")
    for b in found["layers"]:
        bound = "memory" if b["memory_bound"] else "arithmetic"
        figures = f"{b['macs']:,}", f"{b['bytes']:,}", f"{b['intensity']:.1f}", bound, f"{b['least_ms']:.2g}"
        table.add_row(b["name"], *figures)
    Console(width=140).print(table)


def _proxies(architecture, names, data_name):
    score = scorer(network_supernet(architecture.layers), names)
    data, macro = load(data_name), architecture.macro
    if (data.input_shape, data.num_classes) != (macro.input, macro.classes):
        images = f"{'x'.join(map(str, data.input_shape))} and {data.num_classes} classes"
        raise BadInput(f"--data {data_name}: {images}; the config is for {frame(configs.macro_to_json(macro))}")
    scores = score(architecture.row, draw_batch(data), jax.random.key(0))
    return {name: float(scores[name]) for name in names}


def import_arch(form, source, width, depth, classes, input_text, out):
    """`nas import arch`."""
    check_out(out, configs.SCHEMA)
    text = Path(source).read_text(errors="replace")[:100_000] if _is_file(source) else source
    if form == "nb201":
        space, row = nasbench201(), from_string(text)
    elif form == "genotype":
        if not _is_file(source) and not source.lstrip().startswith("Genotype"):
            raise BadInput(f"{source}: no such file; give a file that holds Genotype(normal=[...], ...)")
        genotype = parse(text)
        space = space_of(genotype)
        row = to_row(genotype, space)
    elif form == "named":
        space, row = named(source)
    elif form == "hat":
        space, row = _translator(source, text)
    else:
        raise BadInput(f"import arch: no format '{form}'; {suggest(form, ('nb201', 'genotype', 'named', 'hat'))}")
    macro = space.macro
    shape = parse_shape(input_text) if input_text else macro.input
    macro = Macro(width or macro.width, depth or macro.depth, shape, classes or macro.classes)
    source_name = Path(source).name if _is_file(source) else text.strip()
    architecture = configs.Architecture(
        space, row, macro, macro, provenance={"imported": form, "source": source_name[:500], "created": configs.now()}
    )
    if out is None:
        return show(architecture.to_dict())
    architecture.save(out)
    print(f"written to {out}; see it with: nas describe {out}")


def _translator(source, text):
    """One of HAT's files; its name says the task."""
    if not _is_file(source):
        raise BadInput(
            f"{source}: no such file; give a file of HAT, such as HAT_wmt14ende_titanxp@126.0ms_bleu@27.9.yml"
        )
    task = hat_format.task_of(Path(source).name)
    if task is None:
        raise BadInput(f"{source}: its name does not say which task it is of; it must have one of {', '.join(TASKS)}")
    return hat_format.from_text(text, task)


def _is_file(source):
    try:
        return Path(source).is_file()
    except (OSError, ValueError):
        return False


def export(path, to, own, out):
    """`nas export`."""
    check_out(None if str(out).endswith(".onnx") and Path(out).is_file() else out)
    if to == "onnx":
        return _export_onnx(Path(path), own, out)
    architecture = _load(path, own)
    if to == "nb201":
        if architecture.space.name != "nasbench201":
            raise BadInput(f"--to nb201: the config is of space '{architecture.space.name}', not nasbench201")
        text = to_string(architecture.row)
    elif to == "genotype":
        text = str(from_row(architecture.row, architecture.space))
    elif to == "hat":
        if architecture.space.name != "hat":
            raise BadInput(f"--to hat: the config is of space '{architecture.space.name}', not hat")
        text = hat_format.to_text(architecture.space, architecture.row)
    else:
        raise BadInput(f"--to: no format '{to}'; {suggest(to, ('nb201', 'genotype', 'hat', 'onnx'))}")
    if out is None:
        return print(text)
    Path(out).write_text(text + "\n")
    print(f"written to {out}")


def _export_onnx(path, own, out):
    """A trained model's folder with its weights and normalisation, or a config with random weights."""
    from hw_models.onnx_graph import to_onnx

    if out is None:
        raise BadInput("export --to onnx: say where to write it: --out model.onnx")
    if path.is_dir():
        model = load_model(path)
        layers, arrays = model.network.layers, model.network.weights()
        normalised = {"mean": model.mean, "std": model.std}
        about = {"classes": model.classes, "choices": model.config["choices"], "space": model.config["space"]["name"]}
        holds = "trained weights; takes float images, 8-bit ones divided by 255"
    else:
        architecture = _load(path, own)
        layers, normalised = architecture.layers, {}
        arrays = init_layers(layers, jax.random.key(0))
        about = {"choices": architecture.space.decode(architecture.row), "space": architecture.space.name}
        holds = "random weights, good for measuring alone; for a trained network give the folder that nas train wrote"
    written = to_onnx(layers, *arrays, metadata=about, **normalised).SerializeToString()
    write_atomic(out, written)
    print(f"written to {out} ({len(written) / 1e6:.2f} MB): {holds}")
