"""The ``nas`` command: thin over the Python API, one verb an owner. `docs/cli.md` lists them."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.errors import BadInput

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Neural architecture search on JAX: an architecture is data, not code.",
)
importer = typer.Typer(no_args_is_help=True, help="Read what others wrote.")
app.add_typer(importer, name="import")

Data = Annotated[
    str, typer.Option(help="digits, a name under NAS_DATA, a folder or file (.txt: a text), hf:owner/name")
]
Out = Annotated[Path | None, typer.Option(help="where to write")]
Set = Annotated[list[str], typer.Option("--set", help="key=value for strategy, space or recipe; repeatable")]
CostOption = Annotated[list[str], typer.Option("--cost", help="NAME=FILE or NAME=measure; repeatable")]
Seed = Annotated[int, typer.Option(help="of everything random", min=0, max=2**31 - 1)]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Own = Annotated[str | None, typer.Option("--space", help="package.module:factory of your own space")]
Width = Annotated[int | None, typer.Option(help="channels after the stem", min=1)]
Depth = Annotated[int | None, typer.Option("--depth", "--cells", help="cells (a stage in nasbench201)", min=1)]
Classes = Annotated[int | None, typer.Option(help="outputs of the head", min=1)]
Queries = Annotated[int, typer.Option(help="budget, in trainings at the lowest fidelity", min=1, max=10**6)]
Runs = Annotated[int, typer.Option(help="seeds", min=1, max=10**6)]
Limit = Annotated[int | None, typer.Option(help="use at most so many training images (stratified)")]


def _version(asked: bool):
    if asked:
        from importlib import metadata

        print(f"nas {metadata.version('nas-jax')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
):
    """Neural architecture search on JAX: an architecture is data, not code."""


@app.command()
def search(
    space: Annotated[str, typer.Option(help="name, or package.module:factory of your own")] = "nasbench201",
    strategy: Annotated[str, typer.Option(help="see docs/cli.md")] = "regularized_evolution",
    data: Data = "digits",
    trials: Annotated[int | None, typer.Option(help="candidates to evaluate")] = None,
    time: Annotated[str | None, typer.Option(help="such as 90s, 2h: no candidate starts after it")] = None,
    objective: Annotated[
        str | None, typer.Option(help="accuracy (the default), perplexity (of a text), mnasnet, mnasnet-hard or pareto")
    ] = None,
    cost: CostOption = [],  # noqa: B006
    limit: Annotated[list[str], typer.Option("--limit", help="NAME=20ms: a constraint; repeatable")] = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    width: Width = None,
    depth: Depth = None,
    search_width: Annotated[int | None, typer.Option(help="width while searching", min=1)] = None,
    search_depth: Annotated[int | None, typer.Option(help="depth while searching", min=1)] = None,
    data_limit: Limit = None,
    start_from: Annotated[Path | None, typer.Option(help="architecture config that is evaluated first")] = None,
    edits: Annotated[
        int | None, typer.Option(help="only architectures so many changes from --start-from", min=1)
    ] = None,
    warm_start: Annotated[str | None, typer.Option(help="PROXY+PROXY:N, first the best of N random ones")] = None,
    rungs: Annotated[str | None, typer.Option(help="epochs such as 1,3: stop weak candidates there")] = None,
    eta: Annotated[int, typer.Option(help="at a rung the best 1/eta go on", min=2)] = 3,
    executor: Annotated[str, typer.Option(help="ray, or local for this process alone")] = "ray",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster")] = None,
    workers: Annotated[int | None, typer.Option(help="candidates at once; default all cores")] = None,
    cpus: Annotated[
        float | None, typer.Option(help="cores of each worker; default 1, or all where weights are shared", min=0)
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs, or a share of one, of each worker", min=0)] = 0,
    trial_time: Annotated[str | None, typer.Option(help="such as 10m: a candidate that takes longer fails")] = None,
    baseline: Annotated[str | None, typer.Option(help="random: also run random search with the same budget")] = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(help="weight-sharing: so many trainings, each with its own seed", min=1)] = 1,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the search in --out")] = False,
    json_: Json = False,
):
    """Search a space for the best architecture."""
    from experiments import run_search

    run_search.main(run_search.Options(**{k.rstrip("_"): v for k, v in locals().items() if k != "run_search"}))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="architecture config, such as runs/a/best.json")],
    data: Data = "digits",
    out: Out = None,
    set_: Set = [],  # noqa: B006
    width: Width = None,
    depth: Depth = None,
    data_limit: Limit = None,
    seed: Seed = 0,
    space: Own = None,
    json_: Json = False,
):
    """Train a found architecture and write the model people take away."""
    from experiments import model_commands

    model_commands.train(
        config, data, out or config.parent / "model", set_, width, depth, data_limit, seed, space, json_
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="folder that nas train wrote")],
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    json_: Json = False,
):
    """Measure a trained model on a split."""
    from experiments import model_commands

    model_commands.evaluate(model, data, split, json_)


@app.command()
def describe(
    config: Annotated[Path, typer.Argument(help="architecture config")],
    cost: CostOption = [],  # noqa: B006
    proxies: Annotated[str | None, typer.Option(help="zero-cost proxies to compute, such as synflow,naswot")] = None,
    data: Annotated[str, typer.Option(help="images for the proxies")] = "digits",
    roofline: Annotated[str | None, typer.Option(help="peak GFLOP/s and GB/s of a device, such as 350,20")] = None,
    width: Width = None,
    depth: Depth = None,
    space: Own = None,
    json_: Json = False,
):
    """Say what an architecture is and costs."""
    from experiments import model_commands

    model_commands.describe(config, cost, proxies, data, roofline, width, depth, space, json_)


@app.command()
def replay(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="nasbench201 and others, or a .csv; see docs/cli.md")],
    strategy: Annotated[str, typer.Option(help="see docs/cli.md")] = "regularized_evolution",
    dataset: Annotated[str | None, typer.Option(help="of the benchmark, such as cifar10")] = None,
    queries: Queries = 100,
    runs: Runs = 500,
    set_: Set = [],  # noqa: B006
    features: Annotated[str | None, typer.Option(help="columns known without training, such as naswot,ntk")] = None,
    space: Annotated[str | None, typer.Option(help="of a file: name, or package.module:factory")] = None,
    arch_column: Annotated[str | None, typer.Option(help="of a file: holds the architecture")] = None,
    arch_table: Annotated[Path | None, typer.Option(help="table that explains the numbers in --arch-column")] = None,
    validation_column: Annotated[list[str], typer.Option(help="COLUMN, or EPOCHS:COLUMN; repeatable")] = [],  # noqa: B006
    test_column: Annotated[str | None, typer.Option(help="of a file: what is reported")] = None,
    seed: Seed = 0,
    json_: Json = False,
):
    """Run a strategy on a table of trained networks, many seeds at once."""
    from experiments import replay_command

    chosen = tuple(features.split(",")) if features else ()
    columns = (space, arch_column, arch_table, tuple(validation_column), test_column)
    source = replay_command.Source(table, dataset, *columns, chosen)
    replay_command.main(source, strategy, queries, runs, seed, set_, json_)


@app.command()
def fit(
    csv: Annotated[Path | None, typer.Option(help="measurements, .csv or .csv.gz: a row for each network")] = None,
    value_column: Annotated[str | None, typer.Option(help="the figures")] = None,
    results: Annotated[Path | None, typer.Option(help="instead: a bundle (nas measure --bundle) that was run")] = None,
    space: Annotated[str, typer.Option(help="name, or package.module:factory of your own")] = "nasbench201",
    arch_column: Annotated[str, typer.Option(help="the architecture, or its number in --arch-table")] = "arch",
    arch_table: Annotated[Path | None, typer.Option(help="a table that says which architecture a number is")] = None,
    unit: Annotated[str | None, typer.Option(help="of the figures, such as ms; never guessed")] = None,
    quantity: Annotated[str, typer.Option(help="latency, energy or memory")] = "latency",
    samples: Annotated[int | None, typer.Option(help="fit on so many only and test on the rest", min=1)] = None,
    seeds: Annotated[int, typer.Option(help="draws of --samples", min=1)] = 1,
    transfer: Annotated[bool, typer.Option("--transfer", help="learn from other devices: ten networks do")] = False,
    known: Annotated[Path | None, typer.Option(help="for --transfer: a CSV of other devices on the space")] = None,
    seed: Seed = 0,
    device: Annotated[str | None, typer.Option(help="for the stamp; default the column's name")] = None,
    runtime: Annotated[str, typer.Option(help="for the stamp")] = "not stated",
    batch: Annotated[int | None, typer.Option(help="for the stamp; images a call", min=1)] = None,
    dtype: Annotated[str, typer.Option(help="for the stamp")] = "not stated",
    width: Width = None,
    depth: Depth = None,
    out: Out = None,
    json_: Json = False,
):
    """Fit a table to measurements of whole networks."""
    from experiments import fit_command

    fit_command.main(fit_command.Options(**{k.rstrip("_"): v for k, v in locals().items() if k != "fit_command"}))


@app.command()
def compare(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="benchmarks by name, or the word all")],
    dataset: Annotated[str | None, typer.Option(help="of the benchmark, such as cifar10")] = None,
    strategies: Annotated[str | None, typer.Option(help="names joined by commas; default all")] = None,
    queries: Queries = 100,
    runs: Runs = 100,
    features: Annotated[str | None, typer.Option(help="columns known without training, such as naswot,ntk")] = None,
    seed: Seed = 0,
    out: Out = None,
    json_: Json = False,
):
    """Compare strategies on tables of trained networks, with a picture."""
    from experiments import compare as comparing

    chosen = tuple(features.split(",")) if features else ()
    comparing.main(tables, dataset, strategies, queries, runs, chosen, seed, out, json_)


@app.command()
def measure(
    space: Annotated[str, typer.Option(help="name, or package.module:factory of your own")] = "nasbench201",
    runtime: Annotated[str, typer.Option(help="xla, or onnx: ONNX Runtime on the CPU")] = "xla",
    networks: Annotated[int, typer.Option(help="whole networks to fit a table to; 0: blocks alone", min=0)] = 0,
    set_: Set = [],  # noqa: B006
    width: Width = None,
    depth: Depth = None,
    input_: Annotated[str | None, typer.Option("--input", help="HxWxC, default the space's")] = None,
    classes: Classes = None,
    batch: Annotated[int, typer.Option(help="images a call", min=1)] = 1,
    dtype: Annotated[str, typer.Option(help="float32 or, with xla, bfloat16")] = "float32",
    rounds: Annotated[int, typer.Option(help="samples of each, in rounds of shuffled order", min=3)] = 15,
    threads: Annotated[int | None, typer.Option(help="cores to use; default all", min=1)] = None,
    seed: Seed = 0,
    out: Out = None,
    bundle: Annotated[Path | None, typer.Option(help="write models for another machine into this folder")] = None,
    json_: Json = False,
):
    """Make a latency table of this machine, or a bundle of models that another one measures."""
    from experiments import measure_commands

    measure_commands.main(
        measure_commands.Options(**{k.rstrip("_"): v for k, v in locals().items() if k != "measure_commands"})
    )


@app.command()
def specialize(
    space: Annotated[str | None, typer.Option(help="ofa_mbv3, or that of --accuracy-run")] = None,
    accuracy_predictor: Annotated[Path | None, typer.Option(help="once-for-all's published predictor, .npz")] = None,
    accuracy_csv: Annotated[Path | None, typer.Option(help="measured networks, as docs/cli.md says")] = None,
    accuracy_run: Annotated[Path | None, typer.Option(help="run folder of a search: the networks it measured")] = None,
    cost: CostOption = [],  # noqa: B006
    limit: Annotated[list[str], typer.Option("--limit", help="NAME=20ms; each is a target of its own")] = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="independent runs for each limit, the best counts", min=1, max=1000)] = 1,
    seed: Seed = 0,
    out: Out = None,
    json_: Json = False,
):
    """Find the most accurate network within each limit, for many devices at once."""
    from experiments import specialize_command

    given = {k.rstrip("_"): v for k, v in locals().items() if k != "specialize_command"}
    specialize_command.main(specialize_command.Options(**given))


@importer.command("arch")
def import_arch(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="nb201, genotype, named or hat")],
    source: Annotated[str, typer.Argument(help="the string, or a file that holds it; or a network's name")],
    width: Width = None,
    depth: Depth = None,
    classes: Classes = None,
    input_: Annotated[str | None, typer.Option("--input", help="HxWxC, default the space's")] = None,
    out: Out = None,
):
    """Turn an architecture in a published format into a config."""
    from experiments import model_commands

    model_commands.import_arch(form, source, width, depth, classes, input_, out)


@importer.command("table")
def import_table(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="such as ofa or proxylessnas; see docs/cli.md")],
    source: Annotated[Path, typer.Argument(help="file or folder of the published table")],
    out: Annotated[Path, typer.Option(help="where to write")],
    column: Annotated[str | None, typer.Option(help="device or precision, where the table has several")] = None,
    unit: Annotated[str | None, typer.Option(help="where the figures are not in the published unit")] = None,
    device: Annotated[str | None, typer.Option(help="for the stamp")] = None,
    quantity: Annotated[str, typer.Option(help="of a grid or hwgpt: latency, energy, memory")] = "latency",
    batch: Annotated[int, typer.Option(help="images a call, of tensorrt and grid", min=1)] = 1,
    space: Annotated[str | None, typer.Option(help="of tensorrt and grid: whose networks")] = None,
    set: Set = [],  # noqa: B006
    width: Annotated[int | None, typer.Option(help="the space's frame; default its own")] = None,
    depth: Annotated[int | None, typer.Option(help="the same")] = None,
    input: Annotated[str | None, typer.Option(help="the same, HxWxC")] = None,
    classes: Annotated[int | None, typer.Option(help="the same")] = None,
):
    """Turn a published table of latencies into one that --cost takes."""
    from experiments import import_table_command as command

    command.main(
        command.Options(
            form, source, out, column, unit, device, quantity, batch, space, set, width, depth, input, classes
        )
    )


@app.command()
def export(
    config: Annotated[Path, typer.Argument(help="architecture config; for onnx also a folder that nas train wrote")],
    to: Annotated[str, typer.Option(help="nb201, genotype, hat or onnx")],
    space: Own = None,
    out: Out = None,
):
    """Write an architecture in a published format, or a trained model as ONNX."""
    from experiments import model_commands

    model_commands.export(config, to, space, out)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="run folder")],
    space: Own = None,
):
    """Make report.html of a run folder again, finished or not."""
    from experiments import run_search

    run_search.report(folder, space)


def main() -> None:
    """Runs a command; bad input is one line on stderr and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's C++ log is no answer to a person's command
    try:
        code = app(standalone_mode=False)
    except BadInput as error:
        code = fail(str(error))
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = fail("stopped", 130)
    except MemoryError as error:
        code = fail(f"not enough memory ({error}); ask for less")
    except OSError as error:
        code = fail(f"{error.filename or 'file'}: {error.strerror or error}; choose another place")
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's errors of usage
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help, many lines of it
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        code = fail(error.format_message())
    sys.exit(code or 0)


def fail(message: str, code: int = 2) -> int:
    """One line on stderr."""
    line = " ".join(message.split())
    # whatever a file holds, the terminal gets no escape codes
    print(f"nas: {''.join(c if c.isprintable() else '?' for c in line)}", file=sys.stderr)
    return code


def show(value: dict) -> None:
    """One JSON object on stdout."""
    from nas.files import to_json

    print(to_json(json.loads(to_json(value))))


if __name__ == "__main__":
    main()
