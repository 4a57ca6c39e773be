"""Image sets as they lie on disk or on the hub: found by name, decoded exactly, refused in one line."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas import decode
from nas.data import load
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


def refusal(source, **options):
    with pytest.raises(BadInput) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


X, Y = toy()


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
    (tmp_path / "notes.csv").write_text("x")
    message = refusal("flower")
    assert "did you mean 'flowers'? known: digits, flowers, shapes" in message and str(tmp_path) in message
    assert "known: digits" in refusal("") and "known: digits" in refusal("x" * 100)
    assert "folder" in refusal("tables") and "there is nothing" in refusal("tables")
    assert "no file or folder ./absent.npz" in refusal("./absent.npz")
    assert "is not an image set" in refusal(tmp_path / "notes.csv")
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
