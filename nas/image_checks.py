"""What is refused about labelled images, each in one line that says where and what would be right."""

import itertools

import numpy as np

from nas.decode import Pair
from nas.errors import BadInput


def checked(images: np.ndarray, labels: np.ndarray, where: str) -> Pair:
    """Images as uint8 or float32 [N, H, W, C] and labels as int32 [N], or `BadInput`."""
    if not images.size:
        raise BadInput(f"{where}: images have shape {list(images.shape)}, an empty split: wants at least one image")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        hint = "; take the argmax of one-hot labels" if labels.ndim == 2 else ""
        raise BadInput(f"{where}: labels are {labels.dtype}{list(labels.shape)}: wants integers 0..K-1 [N]{hint}")
    if images.dtype.kind not in "iuf":
        raise BadInput(f"{where}: images are of type {images.dtype}: wants uint8 0..255 or float")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise BadInput(f"{where}: images have shape {list(images.shape)}: wants [N, H, W] or [N, H, W, C]")
    if len(images) != len(labels):
        raise BadInput(f"{where}: {len(images)} images and {len(labels)} labels: wants as many of each")
    _, rows, columns, channels = images.shape
    if rows in (1, 3, 4) and columns == channels > 4:
        raise BadInput(f"{where}: images {list(images.shape)} look channels-first: transpose them to [N, H, W, C]")
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):
            images = images.astype(np.float32, copy=False)
        if not (finite := np.isfinite(images).all((1, 2, 3))).all():
            raise BadInput(f"{where}: image {np.argmin(finite)} holds NaN or infinite pixels: wants finite numbers")
    elif images.dtype != np.uint8:
        if images.min() < 0 or images.max() > 255:
            raise BadInput(f"{where}: integer pixels span {images.min()}..{images.max()}: wants 0..255, or float")
        images = images.astype(np.uint8)
    if labels.min() < 0:
        raise BadInput(
            f"{where}: label {labels.min()} at row {np.argmin(labels)}: wants 0..K-1; drop unlabelled images"
        )
    if labels.max() >= 2**31 - 1:
        raise BadInput(f"{where}: label {labels.max()} at row {np.argmax(labels)}: wants 0..K-1")
    return images, labels.astype(np.int32)


def check_classes(labels: np.ndarray, names: tuple[str, ...] | None, top: int, where: str, split: str) -> None:
    """Refuse labels int32 [N] above the names, or above `top` - 1 without names, and gaps in train."""
    # a stray label can be in the billions: nothing here may grow with the largest one
    present, number = np.unique(labels).tolist(), len(names) if names else top
    if present[-1] >= number:
        source = "class names" if names else "classes in train"
        raise BadInput(f"{where} {split}: label {present[-1]}, but there are {number} {source}: wants 0..K-1")
    if split != "train":
        return
    if len(present) < 2:
        raise BadInput(f"{where} train: every label is {present[0]}, a single class: wants two or more")
    if len(present) < number:
        there = set(present)
        missing = list(itertools.islice((c for c in range(number) if c not in there), 5))
        some = ", ".join(f"{c} ({names[c]})" if names else str(c) for c in missing)
        more = " and more" if number - len(present) > 5 else ""
        hint = "; subtract 1 from every label?" if missing == [0] and not names else ""
        raise BadInput(f"{where} train: no image of class {some}{more}: labels must be 0..K-1 without gaps{hint}")
