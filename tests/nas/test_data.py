"""What a user relies on: right images, right labels, fixed splits, seeded order, one line for bad input."""

import io
import json
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas import decode
from nas.data import batches, gather, load, on_device
from nas.errors import BadInput

SHARED = Path(os.environ.get("NAS_DATA") or "../shared/data").resolve()


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_DATA", raising=False)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("decoded")


def toy(n=60, classes=3, shape=(6, 5, 3), seed=0):
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (n, *shape)).astype(np.uint8)
    images.reshape(n, -1)[:, 0] = np.arange(n)  # the first pixel tells images apart
    return images, np.arange(n) % classes


def png(pixels, format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def write_parquet(path, cells, labels, *, image="image", label="label", names=None):
    """`cells` are encoded images; the file is laid out as the hub does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array([{"bytes": c, "path": None} for c in cells], struct), label: labels})
    if names:
        features = {"features": {label: {"names": names, "_type": "ClassLabel"}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    pq.write_table(table, path)
    return path


def ids(split):
    return set(split.images.reshape(len(split.labels), -1)[:, 0].tolist())


def refusal(source, **options):
    with pytest.raises(BadInput) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


# real data


def test_digits_are_the_embedded_ones_in_three_stratified_parts():
    data = load("digits")
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [1257, 270, 270]
    assert data.input_shape == (8, 8, 1) and data.num_classes == 10 and data.classes == tuple("0123456789")
    assert data.train.images.dtype == np.float32 and data.train.labels.dtype == np.int32
    from sklearn.datasets import load_digits

    whole = load_digits()
    parts = [data.train, data.validation, data.test]
    seen = {(image.tobytes(), int(label)) for s in parts for image, label in zip(s.images, s.labels, strict=True)}
    want = {((x / 16).astype(np.float32).tobytes(), int(y)) for x, y in zip(whole.images, whole.target, strict=True)}
    assert seen == want
    for part in (data.validation, data.test):
        exact = np.bincount(whole.target) * 0.15
        assert np.abs(np.bincount(part.labels) - exact).max() < 1
    assert np.allclose(data.mean, data.train.images.mean((0, 1, 2))) and np.allclose(data.std, data.train.images.std())


@pytest.mark.parametrize(
    ("name", "column", "shape"), [("cifar10", "img", (32, 32, 3)), ("mnist", "image", (28, 28, 1))]
)
@pytest.mark.parametrize("by", ["NAS_DATA", "working directory"])
def test_shared_image_sets_are_found_by_name(name, column, shape, by, shared_cache, monkeypatch, tmp_path):
    if not (SHARED / name / "train.parquet").is_file():
        pytest.skip(f"{SHARED / name} is not on this machine")
    monkeypatch.setenv("NAS_CACHE", str(shared_cache))
    if by == "NAS_DATA":
        monkeypatch.setenv("NAS_DATA", str(SHARED))
    else:
        # "../shared/data" is relative to where the run starts
        (tmp_path / "repository").mkdir()
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "data").symlink_to(SHARED)
        monkeypatch.chdir(tmp_path / "repository")
    data = load(name)
    stored = pq.read_table(SHARED / name / "test.parquet")
    assert data.input_shape == shape and data.num_classes == 10
    assert np.array_equal(data.test.labels, stored["label"].to_numpy())
    for row in (0, 4321, len(stored) - 1):
        pixels = np.asarray(Image.open(io.BytesIO(stored[column][row]["bytes"].as_py())))
        assert np.array_equal(data.test.images[row].squeeze(), pixels)
    whole = len(data.train.labels) + len(data.validation.labels)
    assert whole == pq.read_metadata(SHARED / name / "train.parquet").num_rows
    assert len(data.validation.labels) == round(0.15 * whole)
    if name == "cifar10":
        assert data.classes[:3] == ("airplane", "automobile", "bird")
        assert np.allclose(data.mean, (0.4914, 0.4822, 0.4465), atol=1e-3)  # as every paper has it
        assert np.allclose(data.std, (0.2470, 0.2435, 0.2616), atol=3e-3)
    assert load(name, limit=1000).num_classes == 10


# splits


def test_cuts_are_stratified_disjoint_complete_and_repeat():
    images, _ = toy(200)
    labels = np.repeat([0, 1, 2], [120, 60, 20])
    a, b = load((images, labels)), load((images, labels))
    parts = [a.train, a.validation, a.test]
    assert [np.bincount(s.labels).tolist() for s in parts] == [[84, 42, 14], [18, 9, 3], [18, 9, 3]]
    assert sum(len(ids(s)) for s in parts) == 200 and set.union(*map(ids, parts)) == set(range(200))
    assert a.fingerprint == b.fingerprint and np.array_equal(a.validation.images, b.validation.images)
    for part in parts:
        assert np.array_equal(part.labels, labels[part.images.reshape(len(part.labels), -1)[:, 0]])


def test_split_seed_moves_the_cut_and_the_fingerprint_and_the_cut_stays_as_released():
    a, b = load(toy()), load(toy(), seed=1)
    assert ids(a.validation) != ids(b.validation) and a.fingerprint != b.fingerprint
    # written down, not computed: a change here changes everybody's published numbers
    assert sorted(ids(a.validation)) == [0, 7, 8, 9, 20, 30, 43, 52, 56]


def test_given_splits_are_kept_and_only_the_missing_one_is_cut():
    train, test, validation = toy(60), toy(20, seed=1), toy(30, seed=2)
    data = load({"train": train, "test": test})
    assert np.array_equal(data.test.images, test[0]) and np.array_equal(data.test.labels, test[1])
    assert len(data.validation.labels) == 9 and not ids(data.validation) & ids(data.train)
    data = load({"train": train, "val": validation, "test": test})
    assert np.array_equal(data.train.images, train[0]) and np.array_equal(data.validation.images, validation[0])
    data = load({"train": train, "dev": validation}, test_fraction=0.2)
    assert len(data.test.labels) == 12 and len(data.train.labels) == 48


def test_limit_shortens_training_alone_and_keeps_proportions():
    images, _ = toy(200)
    source = (images, np.repeat([0, 1, 2], [120, 60, 20]))
    whole, short = load(source), load(source, limit=20)
    assert np.bincount(short.train.labels).tolist() == [12, 6, 2] and ids(short.train) < ids(whole.train)
    assert np.array_equal(whole.validation.images, short.validation.images)
    assert np.array_equal(whole.test.images, short.test.images)
    assert np.bincount(load(source, limit=3).train.labels).tolist() == [1, 1, 1]
    assert load(source, limit=10_000).fingerprint == whole.fingerprint


def test_rare_classes_reach_every_split():
    images, _ = toy(103)
    data = load((images, np.repeat([0, 1], [100, 3])))
    assert [np.bincount(s.labels)[1] for s in (data.train, data.validation, data.test)] == [1, 1, 1]


def test_loaded_arrays_are_frozen_and_apart_from_the_callers():
    images, labels = toy()
    data = load({"train": (images, labels), "val": (images, labels), "test": (images, labels)})
    images[:] = 0
    assert data.train.images.any()
    with pytest.raises(ValueError, match="read-only"):
        data.test.labels[0] = 1


# arrays


def test_grey_gets_a_channel_and_moments_are_per_channel_of_training():
    images, labels = toy(shape=(6, 5))
    data = load((images.tolist(), labels.tolist()))  # integers 0..255 of any width are pixels
    assert data.input_shape == (6, 5, 1) and data.train.images.dtype == np.uint8
    images, labels = toy()
    images[..., 1] = 9
    data = load((images, labels[:, None]))
    pixels = data.train.images.astype(np.float64) / 255
    assert np.allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(data.std, [pixels[..., 0].std(), 1, pixels[..., 2].std()])
    floats = load(((images / 255).astype(np.float64), labels))
    assert floats.train.images.dtype == np.float32 and np.allclose(floats.mean, data.mean)
    assert np.allclose(floats.std, data.std, rtol=1e-4)


X, Y = toy()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ((X, Y - 1), r"arrays train: label -1 at row 0: wants 0\.\.K-1"),
        ((X, Y + 1), r"no image of class 0: .* without gaps; subtract 1"),
        ((X, np.where(Y == 1, 5, Y)), r"no image of class 1, 3, 4: labels must be 0\.\.K-1 without gaps"),
        ((X, np.where(Y == 1, 2**40, Y)), r"label 1099511627776 at row 1"),
        ((X, np.where(Y == 1, 10**9, Y)), r"no image of class 1, 3, 4, 5, 6 and more"),
        ((X, Y * 0), "every label is 0, a single class: wants two or more"),
        ((X, Y.astype(float)), r"labels are float64\[60\]: wants integers"),
        ((X, Y.astype(str)), "labels are <U21"),
        ((X, np.eye(3, dtype=int)[Y]), "take the argmax"),
        ((X, Y[:-1]), "60 images and 59 labels"),
        ((X[0], Y), "6 images and 60 labels"),
        ((X[:, :, 0, 0], Y), r"shape \[60, 6\]: wants \[N, H, W\]"),
        ((X[:0], Y[:0]), "empty split"),
        ({"train": (X, Y), "test": (X[:0], Y[:0])}, "arrays test: .* empty split"),
        ((np.where(Y == 1, np.nan, 1.0)[:, None, None, None] * X, Y), "image 1 holds NaN or infinite"),
        ((np.where(X > 0, 1e300, 0.0), Y), "image 0 holds NaN or infinite"),
        ((X.astype(int) * 2, Y), r"integer pixels span 0\.\.510: wants 0\.\.255"),
        ((X.astype(object), Y), "images are of type object"),
        (([X[0], X[1, :3]], [0, 1]), "images of different sizes"),
        ((np.zeros((60, 3, 8, 8)), Y), "channels-first"),
        ((X[:7], np.array([0, 0, 0, 0, 0, 1, 1])), r"class 1 \(1\) has 2 image\(s\): wants at least 3"),
        ((X, Y, Y), "wants a pair"),
        ({"train": (X, Y), "tests": (X, Y)}, "unknown split 'tests': did you mean 'test'"),
        ({"train": (X, Y), "val": (X, Y), "dev": (X, Y)}, "given twice"),
        ({"test": (X, Y)}, "no train split: there is test"),
        ({}, "no train split: there is nothing"),
        ({"train": (X, Y), "test": (X[:, :4], Y)}, r"train images are uint8\[6, 5, 3\] and test images"),
        ({"train": (X, Y), "test": (X / 255, Y)}, "make them alike"),
        ({"train": (X, Y), "test": (X, Y + 1)}, "arrays test: label 3, but there are 3 classes in train"),
        (X, "data of type ndarray"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(source, says):
    assert re.search(says, refusal(source))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation_fraction": 0}, "validation_fraction=0: wants more than 0"),
        ({"test_fraction": 0.9}, "less than 1"),
        ({"seed": -1}, "seed=-1"),
        ({"limit": 2}, "limit=2: wants at least one training image for each of 3 classes"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, says):
    assert says in refusal(toy(), **options)


# files


def test_parquet_folders_in_the_layouts_of_the_hub(tmp_path):
    images, labels = toy(shape=(6, 5))
    cells = [png(image) for image in images]
    write_parquet(tmp_path / "plain" / "train.parquet", cells, labels)
    for i in range(2):
        rows = slice(i * 30, i * 30 + 30)
        for path in ("train-{}", "data/train-{}"):
            file = tmp_path / ("nested" if "/" in path else "flat") / (path.format(f"0000{i}-of-00002") + ".parquet")
            write_parquet(file, cells[rows], labels[rows])
    write_parquet(tmp_path / "full" / "data" / "train-00000-of-00001.parquet", cells, labels, image="img")
    write_parquet(tmp_path / "full" / "data" / "validation-00000-of-00001.parquet", cells[:9], labels[:9])
    write_parquet(tmp_path / "full" / "data" / "test-00000-of-00001.parquet", cells[9:30], labels[9:30])
    reference = load((images, labels))
    for name in ("plain", "flat", "nested"):
        data = load(tmp_path / name)
        assert data.fingerprint == reference.fingerprint and data.name == name
    assert load(str(tmp_path / "plain" / "train.parquet")).fingerprint == reference.fingerprint
    full = load(tmp_path / "full")
    assert [len(s.labels) for s in (full.train, full.validation, full.test)] == [60, 9, 21]
    (tmp_path / "flat" / "train-00001-of-00002.parquet").unlink()
    assert "train has 1 of 2 parquet files" in refusal(tmp_path / "flat")


def test_columns_and_class_names(tmp_path):
    images, labels = toy()
    cells, names = [png(image) for image in images], ["ant", "bee", "cat"]
    path = write_parquet(tmp_path / "a.parquet", cells, labels, image="photo", label="kind", names=names)
    assert "no column img or image: columns are photo, kind; set image_column" in refusal(path)
    assert "no column label or fine_label" in refusal(path, image_column="photo")
    assert "no column foto: columns are photo, kind" in refusal(path, image_column="foto")
    data = load(path, image_column="photo", label_column="kind")
    assert data.classes == ("ant", "bee", "cat") and np.array_equal(np.unique(data.train.labels), [0, 1, 2])
    fine = write_parquet(tmp_path / "b.parquet", cells, labels, label="fine_label")
    assert load(fine).classes == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["jpeg", "palette", "transparent", "mixed", "rotated"])
def test_every_usual_encoding_decodes_as_pillow_does(tmp_path, kind):
    images, labels = toy(9, shape=(16, 12, 3))
    grey = kind == "mixed"
    cells = []
    for i, image in enumerate(images):
        picture, buffer = Image.fromarray(image), io.BytesIO()
        if kind == "palette":
            picture = picture.quantize(8)
        elif kind == "transparent":
            picture.putalpha(120)
        elif grey and i < 4:
            picture = picture.convert("L")
        exif = Image.Exif()
        if kind == "rotated":
            exif[0x0112] = 6
        picture.save(buffer, "JPEG" if kind in ("jpeg", "rotated") else "PNG", exif=exif)
        cells.append(buffer.getvalue())
    path = write_parquet(tmp_path / "a.parquet", cells, labels)
    split, _ = decode.decode(zip(cells, labels.tolist(), strict=True), 9, "test")
    expected = [np.asarray(Image.open(io.BytesIO(cell)).convert("RGB")) for cell in cells]
    if kind == "rotated":
        expected = [np.rot90(image, -1) for image in expected]
    assert np.array_equal(split, np.stack(expected))
    assert load(path).input_shape == ((12, 16, 3) if kind == "rotated" else (16, 12, 3))


def test_wrong_parquet_files_are_refused_in_one_line(tmp_path):
    images, labels = toy()
    cells = [png(image) for image in images]

    def says(cells, labels, **options):
        return refusal(write_parquet(tmp_path / "a" / "train.parquet", cells, labels, **options))

    names = ["ant", "bee"]
    assert "train.parquet train: label 2, but there are 2 class names" in says(cells, labels, names=names)
    assert "no image of class 3 (dog)" in says(cells, labels, names=["ant", "bee", "cat", "dog"])
    assert "label -1 at row 0" in says(cells, labels - 1)
    assert "holds string: labels must be integers" in says(cells, [str(v) for v in labels])
    assert "row 2: no label" in says(cells, [0, 1, None] * 20)
    assert "row 0: no image bytes" in says([None, *cells[1:]], labels)
    assert "row 7 cannot be decoded" in says([*cells[:7], b"no image", *cells[8:]], labels)
    assert "row 7 cannot be decoded" in says([*cells[:7], cells[7][:60], *cells[8:]], labels)
    assert "mode I;16 has more than 8 bits" in says([png(i[..., 0].astype(np.uint16)) for i in images], labels)
    different = "row 0 is 6x5 and row 1 is 4x5; resize to one"
    assert different in says([cells[0], png(images[1, :4]), *cells[2:]], labels)
    assert "empty split" in says([], np.zeros(0, np.int64))
    table = pa.table({"image": images.reshape(60, -1).tolist(), "label": labels})
    pq.write_table(table, tmp_path / "a" / "train.parquet")
    assert "wants struct<bytes, path>" in refusal(tmp_path / "a")
    file = write_parquet(tmp_path / "a" / "train.parquet", cells, labels, names=["a", "b", "c"])
    write_parquet(tmp_path / "a" / "test.parquet", cells, labels, names=["b", "a", "c"])
    assert "class names differ" in refusal(tmp_path / "a")
    (tmp_path / "a" / "test.parquet").unlink()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "not a readable parquet file" in refusal(tmp_path / "a")
    file.write_bytes(whole[:100] + b"\xff" * 3000 + whole[3100:])
    assert str(file) in refusal(tmp_path / "a") or "cannot be decoded" in refusal(tmp_path / "a")
    file.rename(tmp_path / "a" / "other.parquet")
    assert "holds no train.parquet" in refusal(tmp_path / "a") and "other.parquet" in refusal(tmp_path / "a")


@pytest.mark.parametrize("keys", ["x_{}/y_{}", "{}_images/{}_labels"])
def test_npz_of_keras_and_of_medmnist(tmp_path, keys):
    train, test = toy(60), toy(21, seed=1)
    (x, y), path = keys.split("/"), tmp_path / "a.npz"
    np.savez(path, **{x.format("train"): train[0], y.format("train"): train[1][:, None]}, meta=np.zeros(3))
    assert load(path).fingerprint == load(train).fingerprint
    pairs = {"train": train, "val": test, "test": test}
    np.savez_compressed(path, **{k.format(s): v for s, p in pairs.items() for k, v in zip((x, y), p, strict=True)})
    assert load(path).fingerprint == load(pairs).fingerprint


def test_npz_of_images_and_labels_and_wrong_ones(tmp_path):
    (images, labels), path = toy(), tmp_path / "a.npz"
    np.savez(path, images=images, labels=labels)
    assert load(path).fingerprint == load((images, labels)).fingerprint
    whole = path.read_bytes()
    for broken in (whole[:-50], whole[: len(whole) // 2], b"", b"text", whole[:300] + b"\xff" * 50 + whole[350:]):
        path.write_bytes(broken)
        assert f"{path} is not a readable npz" in refusal(path)
    np.savez(path, data=images)
    assert "has keys data: wants images and labels" in refusal(path)
    np.savez(path, x_train=images)
    assert "key x_train stands alone: wants x_train and y_train" in refusal(path)
    np.savez(path, images=images, labels=labels, x_train=images, y_train=labels)
    assert "both give train images" in refusal(path)
    np.savez(path, images=np.array([print, 1], object), labels=labels)
    assert "holds Python objects, which are never unpickled" in refusal(path)


def test_unknown_names_list_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_DATA", str(tmp_path))
    write_parquet(tmp_path / "flowers" / "train.parquet", [png(i) for i in X], Y)
    np.savez(tmp_path / "shapes.npz", images=X, labels=Y)
    (tmp_path / "tables").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    message = refusal("flower")
    assert "did you mean 'flowers'? known: digits, flowers, shapes" in message and str(tmp_path) in message
    assert "known: digits" in refusal("") and "known: digits" in refusal("x" * 100)
    assert "folder" in refusal("tables") and "there is nothing" in refusal("tables")
    assert "no file or folder ./absent.npz" in refusal("./absent.npz")
    assert "is not an image set" in refusal(tmp_path / "notes.txt")
    assert load("flowers").fingerprint == load("shapes").fingerprint == load((X, Y)).fingerprint


def test_user_cache_is_the_last_place_for_names(tmp_path, monkeypatch):
    monkeypatch.delenv("NAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "xdg" / "nas" / "data"
    folder.mkdir(parents=True)
    np.savez(folder / "shapes.npz", images=X, labels=Y)
    assert load("shapes").num_classes == 3


# cache


def test_decoding_happens_once_until_the_file_changes(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [png(i) for i in X], Y)
    first = load(path)
    [entry] = (tmp_path / "cache" / "decoded").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr("nas.decode._pixels", lambda data: pytest.fail("decoded again"))
        assert load(path).fingerprint == first.fingerprint
    entry.write_bytes(entry.read_bytes()[:-100])  # a cache that was cut short is made again
    assert load(path).fingerprint == first.fingerprint
    write_parquet(path, [png(255 - i) for i in X], Y)
    assert load(path).fingerprint != first.fingerprint
    assert not list((tmp_path / "cache" / "decoded").glob("*.tmp"))


@pytest.mark.parametrize("failure", ["a file in the way", "disk full"])
def test_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, failure):
    path = write_parquet(tmp_path / "a.parquet", [png(i) for i in X], Y)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if failure == "disk full":
        monkeypatch.setattr("nas.decode.np.savez", full)
    else:
        (tmp_path / "cache").write_text("")
    assert load(path).fingerprint == load((X, Y)).fingerprint
    if failure == "disk full":
        assert not list((tmp_path / "cache" / "decoded").iterdir())


def test_long_decoding_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    clock = iter(range(10_000))
    monkeypatch.setattr("nas.decode.time.monotonic", lambda: next(clock))
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = write_parquet(tmp_path / "flowers.parquet", [png(i) for i in np.tile(X, (10, 1, 1, 1))], np.tile(Y, 10))
    load(path)
    assert "decoding flowers.parquet train" in capsys.readouterr().err


# hub


def test_hub_ids_need_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal("hf:owner/name").endswith("needs the datasets package: pip install 'nas-jax[datasets]'")


def test_hub_ids_through_the_real_package(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    for i, (image, label) in enumerate(zip(*toy(), strict=True)):
        folder = tmp_path / "set" / "train" / f"kind{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(png(image))
    data = load(f"hf:{tmp_path / 'set'}")
    assert data.classes == ("kind0", "kind1", "kind2") and data.input_shape == (6, 5, 3)
    seen = {image[0, 0, 0].item(): int(y) for image, y in zip(data.train.images, data.train.labels, strict=True)}
    assert all(number % 3 == label for number, label in seen.items()) and len(seen) == 42
    assert load(f"hf:{tmp_path / 'set'}").fingerprint == data.fingerprint
    assert "cannot be loaded" in refusal(f"hf:{tmp_path / 'absent'}")
    assert "set image_column" in refusal(f"hf:{tmp_path / 'set'}", image_column="photo")


# feeding


def test_an_epoch_visits_each_image_at_most_once_and_differs_from_the_next():
    order = np.asarray(batches(103, 10, seed=0, epoch=0))
    assert order.shape == (10, 10) and order.dtype == np.int32
    assert len(set(order.ravel().tolist())) == 100 and order.min() >= 0 and order.max() < 103
    assert not np.array_equal(order, batches(103, 10, seed=0, epoch=1))
    assert not np.array_equal(order, batches(103, 10, seed=1, epoch=0))
    left_out = {n for e in range(60) for n in set(range(103)) - set(np.asarray(batches(103, 10, seed=0, epoch=e)).flat)}
    assert len(left_out) > 60  # nobody is dropped for good
    assert batches(10, 10, seed=0, epoch=0).shape == (1, 10)


def test_resumed_run_sees_the_same_order_jitted_or_not():
    through = [np.asarray(batches(57, 8, seed=3, epoch=e)) for e in range(5)]
    jitted = jax.jit(lambda seed, epoch: batches(57, 8, seed=seed, epoch=epoch))
    assert np.array_equal(through[4], jitted(3, 4))
    assert np.array_equal(through[4], batches(57, 8, seed=jax.random.key(3), epoch=jnp.int32(4)))


@pytest.mark.parametrize("batch", [0, -1, 11])
def test_batch_that_does_not_fit_is_refused(batch):
    with pytest.raises(BadInput, match=r"batch .*: wants 1\.\.10, the number of images"):
        batches(10, batch, seed=0, epoch=0)


def test_seeds_that_jax_would_fold_into_one_are_refused():
    for seed in (-1, 2**32):
        with pytest.raises(BadInput, match="wants 0"):
            batches(10, 5, seed=seed, epoch=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_gather_normalises_on_device_and_on_the_host(dtype, budget):
    images, labels = toy()
    data = load((images if dtype == np.uint8 else (images / 255).astype(dtype), labels))
    split = on_device(data.train, data.mean, data.std, budget_bytes=budget)
    assert isinstance(split.images, jax.Array if budget else np.ndarray) and split.images.dtype == dtype
    index = batches(len(data.train.labels), 8, seed=0, epoch=0)[1]
    x, y = (jax.jit(gather) if budget else gather)(split, index)
    picked = data.train.images[np.asarray(index)].astype(np.float64) / (255 if dtype == np.uint8 else 1)
    assert x.dtype == jnp.float32 and np.allclose(x, (picked - data.mean) / data.std, atol=1e-5)
    assert np.array_equal(y, data.train.labels[np.asarray(index)])
    whole, _ = gather(split, jnp.arange(len(data.train.labels)))
    assert np.allclose(whole.mean((0, 1, 2)), 0, atol=1e-4) and np.allclose(whole.std((0, 1, 2)), 1, atol=1e-4)


def test_traced_index_into_host_images_says_so():
    data = load(toy())
    split = on_device(data.train, data.mean, data.std, budget_bytes=0)
    with pytest.raises(TypeError, match="call gather outside jit"):
        jax.jit(lambda index: gather(split, index))(jnp.arange(3))
