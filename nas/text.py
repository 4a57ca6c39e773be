"""Texts as data: read, cut into parts in their order, and numbered token by token.

A text data set is a set of sequences. Tokens are characters or words; the label of each token is the one after it.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nas.errors import BadInput
from nas.image_sets import SPLITS, find

SUFFIXES = (".txt", ".text", ".tokens", ".md")
LARGEST = 100 << 20  # bytes of one text
SEQUENCE = 35  # tokens; Liu et al., "DARTS", ICLR 2019, and most before
VOCABULARY = 10_000  # of words; that of the Penn Treebank
UNKNOWN, END = "<unk>", "<eos>"
LEVELS = ("characters", "words")


class Text(NamedTuple):
    """A text in parts.

    Attributes:
        name: for reports.
        parts: split -> (tokens int32[N, T], the next ones int32[N, T]); sequences follow one another in the text.
        classes: the vocabulary; `UNKNOWN` is the first.
        level: ``characters`` or ``words``.
        note: where the parts come from, for people.
    """

    name: str
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    level: str
    note: str


def text_of(source: Any) -> Path | None:
    """The file or folder of a text; None for any other data.

    A folder is one of a text if it holds a file that ends in `SUFFIXES` and none of parquet.
    """
    if not isinstance(source, str | os.PathLike) or os.fspath(source) == "digits":
        return None
    if os.fspath(source).startswith("hf:"):
        return None
    path = find(os.fspath(source))
    if path.is_file():
        return path if path.suffix in SUFFIXES else None
    return path if path.is_dir() and _files(path) and not any(path.rglob("*.parquet")) else None


def _files(folder):
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.suffix in SUFFIXES)


def read_text(
    path: Path,
    *,
    sequence: int | None = None,
    level: str | None = None,
    vocabulary: int | None = None,
    classes: tuple[str, ...] | None = None,
    fractions: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> Text:
    """Reads a text and cuts it, the same on every machine.

    A part is a file whose name says ``train``, ``valid`` or ``test``. What is missing is cut from the end of the
    training part, in text order: of one text the first 90 % are to train on, then 5 % to validate and 5 % to test. A
    folder without a training part trains on the first 90 % of its validation part, or of its test part.

    Args:
        path: a file, or a folder of files.
        sequence: tokens of a sequence, T; default 35.
        level: ``characters``, or ``words`` between white space with `END` at the end of each line. Default: words
            where the text has ``<unk>`` in it, as tokenised ones do, and else characters.
        vocabulary: at most so many tokens, the most frequent of the training part and `UNKNOWN`; default 10,000.
        classes: a vocabulary to use instead, such as that of a trained model.
        fractions: split -> share of the training part that is cut for it, where it is not there.
        limit: at most so many training sequences, the first ones.

    Raises:
        BadInput: one line on what is wrong with the text, and what would be right.
    """
    sequence, vocabulary = SEQUENCE if sequence is None else sequence, VOCABULARY if vocabulary is None else vocabulary
    for name, value, least in (("sequence", sequence, 1), ("vocabulary", vocabulary, 3)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 65536:
            raise BadInput(f"{name}={value!r}: wants a whole number from {least} to 65,536")
    if level not in (None, *LEVELS):
        raise BadInput(f"level={level!r}: wants {' or '.join(LEVELS)}")
    files, note = _parts(path)
    texts = {split: "\n".join(map(_read, found)) for split, found in files.items()}
    level = level or ("words" if UNKNOWN in texts["train"] else "characters")
    tokens = {split: _tokens(text, level) for split, text in texts.items()}
    wanted = [split for split in ("validation", "test") if split not in tokens]
    shares = {split: (fractions or {}).get(split, 0.1 / len(wanted)) for split in wanted}
    whole, at = tokens["train"], len(tokens["train"])
    for split, share in reversed(shares.items()):
        first = at - round(share * len(whole))
        tokens[split], at = whole[first:at], first
    tokens["train"] = whole[:at]
    if shares:
        cut = " and ".join(f"{share:.0%} for {split}" for split, share in shares.items())
        note += f", in text order the first {1 - sum(shares.values()):.0%} to train on, then {cut}"
    classes = classes or _vocabulary(tokens["train"], vocabulary, str(path))
    numbers = {name: i for i, name in enumerate(classes)}
    parts: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        ids = np.fromiter((numbers.get(t, 0) for t in tokens[split]), np.int32, len(tokens[split]))
        count = (len(ids) - 1) // sequence
        if count < 1:
            most = max(1, min(map(len, tokens.values())) - 1)
            short = f"{split} has {len(ids)} tokens, fewer than a sequence of {sequence} and the next one"
            fix = f"set sequence={most} or less, or give more text" if most > 1 else "give more text"
            raise BadInput(f"{path}: {short}; {fix}")
        if split == "train" and limit is not None:
            if limit < 1:
                raise BadInput(f"limit={limit}: wants at least one training sequence")
            count = min(count, limit)
        parts[split] = tuple(ids[i : i + count * sequence].reshape(count, sequence) for i in (0, 1))
    return Text(path.stem if path.is_file() else path.name, parts, classes, level, note)


def encode(text: str, classes: tuple[str, ...], level: str) -> np.ndarray:
    """int32[T]: a person's text in a vocabulary; what it lacks is `UNKNOWN`, 0. Lines end by their newline alone."""
    numbers = {name: i for i, name in enumerate(classes)}
    tokens = _tokens(text, level)
    if level == "words" and not text.endswith("\n"):
        tokens = tokens[:-1]
    return np.asarray([numbers.get(token, 0) for token in tokens], np.int32)


def decode(tokens: Any, classes: tuple[str, ...], level: str) -> str:
    """The text of token numbers."""
    names = [classes[int(i)] for i in tokens]
    return "".join(names) if level == "characters" else " ".join(names).replace(f" {END} ", "\n")


def _parts(path):
    """(split -> files, where they come from)."""
    if path.is_file():
        return {"train": [path]}, path.name
    found: dict[str, list[Path]] = {}
    for file in _files(path):
        words = re.split(r"[^a-z]+", file.stem.lower())
        split = next((s for s, aliases in SPLITS.items() if any(alias in words for alias in aliases)), None)
        if split is not None:
            found.setdefault(split, []).append(file)
    if not found:  # a folder of texts, one after the other
        return {"train": _files(path)}, f"{len(_files(path))} files of {path.name}"
    twice = next((files for files in found.values() if len(files) > 1), None)
    if twice:
        raise BadInput(f"{path}: {twice[0].name} and {twice[1].name} are both of one part; keep one")
    note = ", ".join(f"{split}: {files[0].name}" for split, files in found.items())
    if "train" not in found:
        from_split = next(s for s in ("validation", "test") if s in found)
        found["train"] = found.pop(from_split)
        note = f"{path.name} has no training part here; from {found['train'][0].name}"
        note += f", the test from {found['test'][0].name}" if "test" in found else ""
    return found, note


def _read(file):
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise BadInput(f"{file}: {size / 2**20:.0f} MiB of text; at most {LARGEST >> 20} MiB are read")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: no UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from None


def _tokens(text, level):
    if level == "characters":
        return list(text)
    return [token for line in text.removesuffix("\n").split("\n") for token in (*line.split(), END)]


def _vocabulary(tokens, most, where):
    """The most frequent first; of equally frequent ones the first in order of code points."""
    counts = Counter(tokens)
    counts.pop(UNKNOWN, None)
    if len(counts) < 2:
        raise BadInput(f"{where}: the training part has {len(counts)} different tokens; wants two or more")
    order = sorted(counts, key=lambda token: (-counts[token], token))
    return (UNKNOWN, *order[: most - 1])
