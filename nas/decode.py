"""Encoded images to arrays, with a progress bar, and a cache so that it happens once."""

import hashlib
import io
import json
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import Progress

from nas.errors import BadInput

Pair = tuple[np.ndarray, np.ndarray]
# what numpy and zipfile raise for a file that is missing, cut short or no archive at all
# RuntimeError: zip's encryption and unknown methods; MemoryError: a header that promises more than there can be
NPZ_ERRORS = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError)
# part of every cache key: raise it when decoding changes
_FORMAT = 1


def line(error: BaseException) -> str:
    """An exception's text on one line, at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def cache_dir() -> Path:
    """Folder for what can be recomputed: NAS_CACHE, else nas under XDG_CACHE_HOME, else ~/.cache/nas."""
    if chosen := os.environ.get("NAS_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas"


def cached(files: list[Path], columns: list[str], make: Callable[[], Pair]) -> Pair:
    """`make()`, kept as an uncompressed npz in the cache and read from there while the files stay as they are.

    The key is the columns and each file's path, size and time of change. Without files, or where the cache cannot be
    written, it is `make()` alone.
    """
    if not files:
        return make()
    stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    key = hashlib.sha256(json.dumps([_FORMAT, columns, stamps]).encode()).hexdigest()[:32]
    path = cache_dir() / "decoded" / f"{key}.npz"
    try:
        # numpy given a path leaves the file open when the archive is broken
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return archive["images"], archive["labels"]
    except NPZ_ERRORS:
        images, labels = make()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as handle:
            temporary = Path(handle.name)
            np.savez(handle, images=images, labels=labels)
        os.replace(temporary, path)
    except OSError:
        # a read-only home or a full disk costs time at the next load, not this run
        pass
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return images, labels


def decode(rows: Iterable[tuple[bytes | None, int | None]], count: int, where: str) -> Pair:
    """Decode `count` rows of (encoded image, label).

    Returns:
        uint8 [N, H, W, C] and int64 [N]; C is 1 where every image is grey, otherwise 3 (transparency is dropped).

    Raises:
        BadInput: an image or label is missing, cannot be decoded, or differs in size from the first.
    """
    images, labels = np.zeros((0, 1, 1, 1), np.uint8), np.zeros(count, np.int64)
    for i, (data, label) in enumerate(_progress(rows, count, f"decoding {Path(where).name}")):
        if data is None or label is None:
            raise BadInput(f"{where}, row {i}: no {'image bytes' if data is None else 'label'}; drop or fill the row")
        try:
            labels[i], pixels = label, _pixels(data)
        except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
            raise BadInput(f"{where}, row {i} cannot be decoded: {line(error)}") from None
        if i == 0:
            images = np.zeros((count, *pixels.shape), np.uint8)
        if pixels.shape[:2] != images.shape[1:3]:
            first, this = ("x".join(map(str, s)) for s in (images.shape[1:3], pixels.shape[:2]))
            raise BadInput(f"{where}: images of different sizes, row 0 is {first} and row {i} is {this}; resize to one")
        if pixels.shape[2] > images.shape[3]:
            images = np.repeat(images, 3, axis=3)
        images[i] = pixels
    return images, labels


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        # photographs carry their rotation beside the pixels; the hub's own loader turns them too
        upright = ImageOps.exif_transpose(image) if image.format == "JPEG" else image
        if upright.mode == "F" or upright.mode.startswith("I"):
            raise ValueError(f"mode {upright.mode} has more than 8 bits a channel; convert the images to 8 bits")
        if upright.mode in ("1", "L", "LA", "La"):
            return np.asarray(upright.convert("L"))[..., None]
        return np.asarray(upright.convert("RGB"))


def _progress(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Pass items through, with a bar and the time left on standard error once it has taken two seconds."""
    begin, shown = time.monotonic(), False
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    try:
        for done, item in enumerate(items, 1):
            yield item
            if done % 100 == 0:
                bar.update(task, completed=done)
                if not shown and time.monotonic() - begin > 2:
                    bar.start()
                    shown = True
    finally:
        if shown:
            bar.stop()
