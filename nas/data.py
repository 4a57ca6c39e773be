"""Data to classify images or to model a text: checked, split the same way every time, and fed to a compiled step.

`load` gives frozen numpy arrays. `on_device`, `batches` and `gather` turn a split into normalised
batches inside `jax.jit`; `nas.augment` changes them on the way.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.image_checks import check_classes, checked
from nas.image_sets import read
from nas.text import read_text, text_of

FRACTION = 0.15  # of the training images, for validation and for testing


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 or float32 [N, H, W, C] and labels int32 [N], both read-only.

    Of a text, ``images`` are its tokens int32 [N, T], in sequences, and labels int32 [N, T] the token after each.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three splits that share no image by position.

    Attributes:
        name: what it was loaded as.
        train: images to learn from; every class is in it.
        validation: images to choose architectures by.
        test: images to report on, once.
        classes: name of each label.
        mean: per channel over `train`, where uint8 counts as [0, 1] and float32 is taken as it is.
        std: likewise; 1 for a channel that never changes.
        fingerprint: hash of every image, label and class name; equal only for equal data in equal splits.
        level: ``characters`` or ``words`` of a text, whose classes are its vocabulary; empty for images.
        note: where the splits of a text come from, for people; empty for images.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    level: str = ""
    note: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the classes are tokens, and each is to be predicted from those before it."""
        return bool(self.level)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of one image, or (T,), the tokens of a sequence."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.classes)


def load(
    source: Any,
    *,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    sequence: int | None = None,
    level: str | None = None,
    vocabulary: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> Data:
    """Load an image set or a text and split it; the same call gives the same bytes on every machine.

    Args:
        source: "digits"; a name under NAS_DATA (unset: ../shared/data, then the user cache); a folder of parquet files
            as the Hugging Face hub writes them; one .parquet; an .npz with images/labels, x_train/y_train/... or
            train_images/train_labels/...; arrays (images, labels); a dict of such pairs by split; or
            "hf:owner/name[:config]", which needs the extra `datasets`. A text is a .txt file, or a folder of them, by
            name or path; see `nas.text.read_text`.
        validation_fraction: share of the training images to cut for validation when the source brings none; default
            .15, of a text .05, or .1 where nothing is cut for testing.
        test_fraction: share of the same images to cut for testing when the source brings none; the same.
        seed: of the cuts alone. Leave it when the seed of a search changes, or its numbers do not compare.
        image_column: parquet column of the images; guessed as img or image.
        label_column: parquet column of the labels; guessed as label or fine_label.
        limit: at most that many training images, stratified, or the first so many sequences; validation and test stay
            whole.
        sequence: of a text: tokens of a sequence, default 35.
        level: of a text: ``characters`` or ``words``; default by what is in it.
        vocabulary: of a text: at most so many tokens, default 10,000.
        classes: of a text: the vocabulary to use, such as that of a trained model.

    Images are uint8, or float of any scale; [N, H, W] gets a channel axis. Labels are integers 0..K-1. Cuts are
    stratified by label and take at least one image of each class.

    Raises:
        BadInput: one line on what is wrong with the source, its labels or its pixels, and what would be right.
    """
    asked = {"validation": validation_fraction, "test": test_fraction}
    given = {split: share for split, share in asked.items() if share is not None}
    fractions = {"validation": FRACTION, "test": FRACTION} | given
    for split, share in fractions.items():
        if not 0 < share < 1 or sum(fractions.values()) >= 1:
            raise BadInput(f"{split}_fraction={share}: wants more than 0, and less than 1 for both fractions together")
    path = text_of(source)
    if path is not None:
        numbering: dict[str, Any] = dict(level=level, vocabulary=vocabulary, classes=classes)
        return _of_text(read_text(path, sequence=sequence, limit=limit, fractions=given, **numbering))
    for name, value in (("sequence", sequence), ("level", level), ("vocabulary", vocabulary), ("classes", classes)):
        if value is not None:
            raise BadInput(f"{name}: it is for a text, such as tinyshakespeare or a .txt file; leave it out for images")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise BadInput(f"seed={seed}: the seed of the splits wants 0..{2**32 - 1}")
    raw = read(source, image_column, label_column)
    parts = {split: Split(*checked(*pair, f"{raw.where} {split}")) for split, pair in raw.splits.items()}
    if "train" not in parts:
        raise BadInput(f"{raw.where} has no train split: there is {', '.join(parts) or 'nothing'}")
    top = int(parts["train"].labels.max()) + 1
    for split, part in parts.items():
        check_classes(part.labels, raw.classes, top, raw.where, split)
        if part.images.shape[1:] != parts["train"].images.shape[1:] or part.images.dtype != parts["train"].images.dtype:
            own, other = (f"{p.images.dtype}{list(p.images.shape[1:])}" for p in (parts["train"], part))
            raise BadInput(f"{raw.where}: train images are {own} and {split} images are {other}; make them alike")
    names = raw.classes or tuple(map(str, range(top)))
    cuts = {split: fractions[split] for split in ("test", "validation") if split not in parts}
    parts = _cut(parts, names, cuts, seed, limit, raw.where)
    for array in (a for part in parts.values() for a in (part.images, part.labels)):
        array.setflags(write=False)
    mean, std = _moments(parts["train"].images)
    train, validation, test = (parts[split] for split in ("train", "validation", "test"))
    return Data(raw.name, train, validation, test, names, mean, std, _fingerprint(parts, names))


def _of_text(text):
    parts = {split: Split(*pair) for split, pair in text.parts.items()}
    for array in (a for part in parts.values() for a in (part.images, part.labels)):
        array.setflags(write=False)
    return Data(
        text.name,
        **parts,
        classes=text.classes,
        mean=(),
        std=(),
        fingerprint=_fingerprint(parts, text.classes),
        level=text.level,
        note=text.note,
    )


def _cut(
    parts: dict[str, Split],
    classes: tuple[str, ...],
    fractions: dict[str, float],
    seed: int,
    limit: int | None,
    where: str,
) -> dict[str, Split]:
    """Cut the splits in `fractions` from train, then train to `limit`; stratified, by position, sorted."""
    whole, rest = parts["train"], np.arange(len(parts["train"].labels))
    counts = np.bincount(whole.labels, minlength=len(classes))
    if counts.min() <= len(fractions):
        c = int(counts.argmin())
        wants = f"at least {len(fractions) + 1}, one for train and each of {' and '.join(fractions)}"
        raise BadInput(f"{where} train: class {c} ({classes[c]}) has {counts[c]} image(s): wants {wants}")
    if limit is not None and limit < len(classes):
        raise BadInput(f"limit={limit}: wants at least one training image for each of {len(classes)} classes")
    # numpy promises the stream of RandomState for ever, that of default_rng only within a version
    random = np.random.RandomState(seed)

    def draw(total: int, keep: int) -> np.ndarray:
        labels = whole.labels[rest]
        quota = _allot(np.bincount(labels, minlength=len(classes)), total, keep)
        drawn = [random.permutation(rest[labels == c])[:n] for c, n in enumerate(quota)]
        return np.sort(np.concatenate(drawn))

    for left, (split, fraction) in zip(range(len(fractions), 0, -1), fractions.items(), strict=True):
        index = draw(round(fraction * len(whole.labels)), left)
        parts = parts | {split: Split(whole.images[index], whole.labels[index])}
        rest = np.setdiff1d(rest, index, assume_unique=True)
    if limit is not None and limit < len(rest):
        rest = draw(limit, 0)
    if len(rest) < len(whole.labels):
        parts = parts | {"train": Split(whole.images[rest], whole.labels[rest])}
    return parts


def _allot(counts: np.ndarray, total: int, keep: int) -> np.ndarray:
    """Share `total` over classes by largest remainder, at least 1 a class and leaving `keep` of it. int64 [K]."""
    ideal = counts * (total / counts.sum())
    quota = np.clip(np.floor(ideal), 1, counts - keep).astype(np.int64)
    while quota.sum() < total and (room := quota < counts - keep).any():
        quota[np.argmax(np.where(room, ideal - quota, -np.inf))] += 1
    while quota.sum() > total and (room := quota > 1).any():
        quota[np.argmax(np.where(room, quota - ideal, -np.inf))] -= 1
    return quota


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in float64, where uint8 counts as [0, 1]."""
    channels = images.shape[-1]
    total = squares = np.zeros(images[0].size)
    for start in range(0, len(images), 100):
        # whole rows keep the inner loop long, and few of them at a time stay in the processor's cache
        rows = images[start : start + 100].reshape(-1, total.size).astype(np.float64)
        total, squares = total + rows.sum(0), squares + (rows * rows).sum(0)
    pixels, scale = images.size / channels, 255.0 if images.dtype == np.uint8 else 1.0
    mean = total.reshape(-1, channels).sum(0) / pixels
    variance = np.maximum(squares.reshape(-1, channels).sum(0) / pixels - mean**2, 0)
    # what rounding leaves of a constant channel must not be blown up to unit variance
    std = np.where(variance > 1e-12 * (mean**2 + 1e-30), np.sqrt(variance) / scale, 1.0)
    return tuple((mean / scale).tolist()), tuple(std.tolist())


def _fingerprint(parts: dict[str, Split], classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(classes).encode())
    for split in ("train", "validation", "test"):
        for array in (parts[split].images, parts[split].labels):
            digest.update(f"{split}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# CIFAR-10 takes 0.15 GB and the smallest accelerators in use have 8: this leaves most of them to the network
DEVICE_BUDGET_BYTES = 2 << 30


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DeviceSplit:
    """A split ready for `gather`: images uint8 or float32 [N, H, W, C], labels int32 [N], mean and std float32 [C].

    Of a text, images are tokens int32 [N, T] and labels int32 [N, T].

    The images are jax arrays, or numpy where they were over the budget. A PyTree: pass it to a jitted step.
    """

    images: jax.Array | np.ndarray
    labels: jax.Array
    mean: jax.Array
    std: jax.Array


def on_device(split: Split, mean: Any, std: Any, *, budget_bytes: int = DEVICE_BUDGET_BYTES) -> DeviceSplit:
    """Put a split on the device as it is stored; images of more than `budget_bytes` stay on the host.

    uint8 stays uint8 and is normalised in the step: a quarter of the memory and of the traffic, and XLA fuses the
    arithmetic into the gather.
    """
    images = jnp.asarray(split.images) if split.images.nbytes <= budget_bytes else split.images
    numbers = (jnp.asarray(np.asarray(value, np.float32)) for value in (mean, std))
    return DeviceSplit(images, jnp.asarray(split.labels), *numbers)


def gather(split: DeviceSplit, index: Any) -> tuple[jax.Array, jax.Array]:
    """Normalised images float32 [..., H, W, C] and labels int32 [...] at `index` int32 [...]; tokens as they are.

    Jittable when the images are on the device. Images on the host are picked here and sent: call it outside `jit`,
    once a batch; a traced index raises `TypeError`.
    """
    if isinstance(split.images, np.ndarray):
        if isinstance(index, jax.core.Tracer):
            raise TypeError("images are over budget_bytes and on the host: call gather outside jit, once a batch")
        images = jnp.asarray(split.images[np.asarray(index)])
    else:
        images = split.images[index]
    if images.dtype == jnp.int32:
        return images, split.labels[index]
    scale = 255.0 if images.dtype == jnp.uint8 else 1.0
    return (images.astype(jnp.float32) / scale - split.mean) / split.std, split.labels[index]


def batches(n: int, batch: int, *, seed: Any, epoch: Any) -> jax.Array:
    """Order of one epoch: int32 [n // batch, batch], each of 0..n-1 at most once.

    It depends on `seed` (an integer or a typed key) and `epoch` alone, so a resumed run sees what it would have seen.
    The last short batch is dropped, so that every step has one shape; who is dropped changes by epoch. Jittable in
    `seed` and `epoch`. Raises `BadInput` when a batch is larger than the split or the seed out of range.
    """
    if not 0 < batch <= n:
        raise BadInput(f"batch {batch}: wants 1..{n}, the number of images in the split")
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        # jax keeps the low 32 bits, so two seeds would be one
        raise BadInput(f"seed {seed}: wants 0..{2**32 - 1}")
    typed = isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    key = jax.random.fold_in(seed if typed else jax.random.key(seed), epoch)
    steps = n // batch
    return jax.random.permutation(key, n)[: steps * batch].reshape(steps, batch).astype(jnp.int32)
