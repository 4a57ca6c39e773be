"""Reading labelled images from where people keep them, before any of it is checked or split.

`read` returns a `Raw`: arrays as they were stored, by split. Names and paths, the parquet layout of
Hugging Face, npz archives and the optional hub live here; `nas.data` owns every check on the arrays.
"""

import functools
import importlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nas.decode import NPZ_ERRORS, Pair, cache_dir, cached, decode, line
from nas.errors import BadInput, suggest

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LAYOUTS = ("{}.parquet", "{}-*.parquet", "data/{}.parquet", "data/{}-*.parquet", "{}/*.parquet")
_GUESSES = {"image": ("img", "image"), "label": ("label", "fine_label")}


class Raw(NamedTuple):
    """What a source holds: (images, labels) by split, unchecked, and class names where it has them.

    `name` is for reports, `where` for messages: the path where there is one.
    """

    name: str
    where: str
    splits: dict[str, Pair]
    classes: tuple[str, ...] | None


def roots() -> tuple[Path, ...]:
    """Folders in which plain names are looked up, first one first: NAS_DATA alone when it is set."""
    if chosen := os.environ.get("NAS_DATA"):
        return (Path(chosen).expanduser(),)
    return Path("../shared/data"), cache_dir() / "data"


def names() -> tuple[str, ...]:
    """Names that can be loaded here: digits, and every image set or text in `roots()`."""
    found = {"digits"}
    for entry in (entry for root in roots() if root.is_dir() for entry in root.iterdir()):
        if entry.suffix in (".npz", ".parquet", ".txt"):
            found.add(entry.stem)
        elif entry.is_dir() and (_shards(entry, "train") or any(entry.glob("*.txt"))):
            found.add(entry.name)
    return tuple(sorted(found))


def find(name: str) -> Path:
    """Folder or file of a data set, by plain name or by path. `BadInput` lists the names there are when none fits."""
    path = Path(name).expanduser()
    # a plain name is looked up first, so that a stray folder beside the run cannot shadow "cifar10"
    plain = [root / (name + suffix) for root in roots() for suffix in ("", ".npz", ".parquet", ".txt")]
    for place in [path] if os.sep in name else [*plain, path]:
        # not place.exists(), which raises for a name too long for the file system
        if name and os.path.exists(place):
            return place
    if os.sep in name or path.suffix in (".npz", ".parquet"):
        kinds = "a folder with train.parquet, a .parquet or an .npz file, or a text (.txt, or a folder of them)"
        raise BadInput(f"no file or folder {name}: wants {kinds}")
    looked = " and ".join(map(str, roots()))
    raise BadInput(f"unknown data set {name!r}: {suggest(name, names())}; looked in {looked} (set NAS_DATA to change)")


def read(source: Any, image_column: str | None = None, label_column: str | None = None) -> Raw:
    """Read any source that `nas.data.load` documents. `BadInput` when it is unknown, corrupt or incomplete."""
    if isinstance(source, dict):
        return _arrays(source)
    if isinstance(source, tuple):
        return _arrays({"train": source})
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise BadInput(f"data of type {kind}: wants a name, a path, a tuple (images, labels) or a dict of such tuples")
    source = os.fspath(source)
    if source == "digits":
        return _digits()
    if source.startswith("hf:"):
        return _hub(source, image_column, label_column)
    path = find(source)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix == ".parquet":
        return _parquet(path, {"train": [path]}, image_column, label_column)
    if not path.is_dir():
        raise BadInput(f"{path} is not an image set: wants a folder with train.parquet, a .parquet or an .npz file")
    shards = {split: files for split in SPLITS if (files := _shards(path, split))}
    if "train" not in shards:
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise BadInput(f"folder {path} holds no train.parquet and no train-*.parquet; there is {there}")
    for split, files in shards.items():
        numbered = re.search(r"-of-(\d+)\.parquet$", files[0].name)
        if numbered and len(files) != int(numbered[1]):
            raise BadInput(f"{path}: {split} has {len(files)} of {int(numbered[1])} parquet files; fetch the others")
    return _parquet(path, shards, image_column, label_column)


def _arrays(splits: dict[str, Any]) -> Raw:
    known = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
    found: dict[str, Pair] = {}
    for name, pair in splits.items():
        if name not in known:
            raise BadInput(f"arrays: unknown split {name!r}: {suggest(str(name), SPLITS)}")
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadInput(f"arrays, split {name!r}: wants a pair (images, labels)")
        if known[name] in found:
            raise BadInput(f"arrays: split {known[name]!r} is given twice, the second time as {name!r}")
        copies = []
        for what, value in zip(("images", "labels"), pair, strict=True):
            try:
                copies.append(np.array(value))
            except (ValueError, TypeError):
                raise BadInput(f"arrays, split {name!r}: {what} of different sizes; make them one array") from None
        found[known[name]] = (copies[0], copies[1])
    return Raw("arrays", "arrays", found, None)


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Raw(
        "digits", "digits", {"train": ((digits.images / 16).astype(np.float32), digits.target)}, tuple("0123456789")
    )


def _npz(path: Path) -> Raw:
    # numpy takes what is no zip for a pickle, and says so, which helps nobody
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is not a readable npz file, perhaps cut short; write it again with numpy.savez")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            pairs = _npz_pairs(archive.files, path)
            return Raw(path.stem, str(path), {s: (archive[x], archive[y]) for s, (x, y) in pairs.items()}, None)
    except BadInput:
        raise
    except NPZ_ERRORS as error:
        if "allow_pickle" in str(error):
            raise BadInput(f"{path} holds Python objects, which are never unpickled; save plain arrays") from None
        raise BadInput(f"{path} is not a readable npz file, perhaps cut short: {line(error)}") from None


def _npz_pairs(keys: list[str], path: Path) -> dict[str, tuple[str, str]]:
    """Keys of (images, labels) by split: images/labels, x_train/y_train as in Keras, train_images/train_labels."""
    pairs: dict[str, tuple[str, str]] = {}
    for split, aliases in SPLITS.items():
        styles = [(f"x_{a}", f"y_{a}") for a in aliases] + [(f"{a}_images", f"{a}_labels") for a in aliases]
        for pair in styles + [("images", "labels")] * (split == "train"):
            present = [key for key in pair if key in keys]
            if len(present) == 1:
                raise BadInput(f"{path}: key {present[0]} stands alone: wants {pair[0]} and {pair[1]}")
            if present and split in pairs:
                raise BadInput(f"{path}: {pairs[split][0]} and {pair[0]} both give {split} images; keep one")
            if present:
                pairs[split] = pair
    if "train" not in pairs:
        raise BadInput(f"{path} has keys {', '.join(keys) or 'none'}: wants images and labels, or x_train and y_train")
    return pairs


def _shards(folder: Path, split: str) -> list[Path]:
    """Parquet files of one split in the layouts the hub uses, in order; empty when there are none."""
    patterns = (layout.format(alias) for alias in SPLITS[split] for layout in _LAYOUTS)
    return next((files for pattern in patterns if (files := sorted(folder.glob(pattern)))), [])


def _column(what: str, wanted: str | None, there: list[str], where: object) -> str:
    candidates = (wanted,) if wanted else _GUESSES[what]
    if found := [name for name in candidates if name in there]:
        return found[0]
    raise BadInput(
        f"{where} has no column {' or '.join(candidates)}: columns are {', '.join(there)}; set {what}_column"
    )


def _check_image(kind: pa.DataType, name: str, where: object) -> None:
    within = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    encoded = kind.field("bytes").type if within else kind
    if not (pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded)):
        raise BadInput(f"{where}: column {name} holds {kind}: wants struct<bytes, path> of encoded images")


def _check_label(kind: pa.DataType, name: str, where: object) -> None:
    if not pa.types.is_integer(kind):
        raise BadInput(f"{where}: column {name} holds {kind}: labels must be integers 0..K-1")


def _parquet(path: Path, shards: dict[str, list[Path]], image_column: str | None, label_column: str | None) -> Raw:
    splits: dict[str, Pair] = {}
    classes = None
    for split, files in shards.items():
        tables, columns, rows = [], [], 0
        for file in files:
            try:
                table = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(file, error) from None
            schema = table.schema_arrow
            image = _column("image", image_column, schema.names, file)
            label = _column("label", label_column, schema.names, file)
            _check_image(schema.field(image).type, image, file)
            _check_label(schema.field(label).type, label, file)
            given = _class_names(schema, label)
            if given and classes and given != classes:
                raise BadInput(f"{file}: class names differ from the other files': labels would be mixed up")
            classes, rows = classes or given, rows + table.metadata.num_rows
            tables.append((file, table, image, label))
            columns += [image, label]
        splits[split] = cached(files, columns, functools.partial(_decode_parquet, tables, rows, f"{path} {split}"))
    return Raw(path.resolve().stem if path.is_file() else path.resolve().name, str(path), splits, classes)


Table = tuple[Path, pq.ParquetFile, str, str]  # and its columns of images and of labels


def _decode_parquet(tables: list[Table], count: int, where: str) -> Pair:
    return decode(_parquet_rows(tables), count, where)


def _parquet_rows(tables: list[Table]) -> Iterator[tuple[bytes | None, int | None]]:
    for path, table, image, label in tables:
        try:
            for batch in table.iter_batches(500, columns=[image, label]):
                for cell, number in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                    yield cell["bytes"] if isinstance(cell, dict) else cell, number
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is not a readable parquet file, perhaps cut short: {line(error)}")


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Names the hub writes in the schema's metadata: huggingface -> info -> features -> label -> names."""
    try:
        given = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, given)) if isinstance(given, list) and given else None


def _hub(source: str, image_column: str | None, label_column: str | None) -> Raw:
    """Read `hf:owner/name`, or `hf:owner/name:config`, through the optional `datasets` package."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise BadInput(f"{source} needs the datasets package: pip install 'nas-jax[datasets]'") from None
    repository, _, config = source.removeprefix("hf:").partition(":")
    try:
        found = datasets.load_dataset(repository, config or None)
    except Exception as error:
        # the hub's client fails in more ways than can be listed; what was asked for is what a person can change
        raise BadInput(f"{source} cannot be loaded: {type(error).__name__}: {line(error)}") from None
    splits: dict[str, Pair] = {}
    classes = None
    for split, aliases in SPLITS.items():
        part = next((found[alias] for alias in aliases if alias in found), None)
        if part is None:
            continue
        where = f"{source} {split}"
        image = _column("image", image_column, part.column_names, where)
        label = _column("label", label_column, part.column_names, where)
        if not isinstance(part.features[image], datasets.Image):
            raise BadInput(f"{where}: column {image} holds {part.features[image]}: wants the Image feature")
        _check_label(part.features.arrow_schema.field(label).type, label, where)
        classes = classes or tuple(getattr(part.features[label], "names", None) or ()) or None
        files = [Path(entry["filename"]) for entry in part.cache_files]
        part = part.cast_column(image, datasets.Image(decode=False)).select_columns([image, label])
        splits[split] = cached(files, [image, label], _hub_decoder(part, image, label, where))
    if "train" not in splits:
        raise BadInput(f"{source} has no train split: splits are {', '.join(found)}")
    return Raw(repository, source, splits, classes)


def _hub_decoder(part: Any, image: str, label: str, where: str) -> Callable[[], Pair]:
    def rows() -> Iterator[tuple[bytes | None, int | None]]:
        for row in part:
            cell = row[image] or {}
            # image folders come as paths into the package's own cache
            path = Path(cell.get("path") or "")
            yield cell.get("bytes") or (path.read_bytes() if path.is_file() else None), row[label]

    return lambda: decode(rows(), len(part), where)
