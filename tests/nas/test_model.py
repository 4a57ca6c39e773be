"""Training a found architecture, and the model that is taken away."""

import json
import subprocess
import sys

import numpy as np
import pytest

import nas
from nas import config
from nas.errors import BadInput
from nas.model import evaluate_model, load_model, save_model, train_model
from nas.space import Macro
from search_spaces import nasbench201


@pytest.fixture(scope="module")
def digits():
    return nas.load_data("digits", limit=300)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    space = nasbench201()
    macro = Macro(8, 1, (8, 8, 1), 10)
    found = config.Architecture(space, np.asarray([3, 1, 2, 3, 0, 3], np.int32), macro, macro)
    seen = []
    model, history = train_model(
        found, digits, nas.Recipe(epochs=6, batch=50), seed=1, progress=lambda epoch, metrics: seen.append(epoch)
    )
    assert seen == [1, 2, 3, 4, 5, 6]
    folder = tmp_path_factory.mktemp("model") / "m"
    save_model(model, folder, history)
    return model, folder


def test_it_learns_and_keeps_the_best_epoch_by_validation(trained):
    model, folder = trained
    history = json.loads((folder / "history.json").read_text())["epochs"]
    best = max(history, key=lambda m: m["accuracy"])
    assert model.metrics["validation_accuracy"] == best["accuracy"] > 0.85
    assert model.metrics["epoch"] == best["epochs"]


def test_loaded_model_gives_the_same_logits(trained, digits):
    model, folder = trained
    again = load_model(folder)
    images = digits.test.images[:7]
    np.testing.assert_array_equal(again.logits(images), model.logits(images))
    assert again.config == json.loads((folder / "architecture.json").read_text())


def test_the_flax_network_measures_what_the_training_program_measured(trained, digits):
    """Two programs: the one that trained, with our kernels, and Flax's own layers."""
    model, folder = trained
    found = evaluate_model(load_model(folder), digits)
    assert found["accuracy"] == pytest.approx(model.metrics["test_accuracy"], abs=1e-6)
    assert found["loss"] == pytest.approx(model.metrics["test_loss"], rel=1e-3)


def test_predictions(trained, digits):
    model, _ = trained
    images = digits.test.images[:5]
    probabilities = model(images)
    assert probabilities.shape == (5, 10)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert model.predict(images) == [digits.classes[i] for i in probabilities.argmax(-1)]
    np.testing.assert_array_equal(model(images[..., 0]), probabilities)


def test_it_loads_without_any_search_space(trained):
    code = f"""
import sys, nas, numpy
model = nas.load({str(trained[1])!r})
print(model(numpy.zeros((2, 8, 8, 1), "float32")).shape, [m for m in ("search_spaces", "ray") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 10) []", done.stderr[-1000:]


@pytest.mark.parametrize("shape", [(2, 9, 8, 1), (8, 8), (2, 8, 8, 3)])
def test_images_of_another_shape(trained, shape):
    with pytest.raises(BadInput, match="this model takes"):
        trained[0](np.zeros(shape, np.float32))


def test_data_of_another_kind(trained):
    images = np.zeros((60, 8, 8, 1), np.float32) + np.arange(60)[:, None, None, None] / 60
    other = nas.load_data((images, np.arange(60) % 3))
    with pytest.raises(BadInput, match="3 classes"):
        evaluate_model(trained[0], other)


@pytest.mark.parametrize("damage", ["weights.safetensors", "model.json", "architecture.json"])
def test_broken_files(trained, tmp_path, damage):
    import shutil

    folder = tmp_path / "m"
    shutil.copytree(trained[1], folder)
    target = folder / damage
    for content in (target.read_bytes()[:-40], b"", None):
        if content is None:
            target.unlink()
        else:
            target.write_bytes(content)
        with pytest.raises(BadInput) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


def test_weights_of_another_architecture(trained, tmp_path, digits):
    import shutil

    folder = tmp_path / "m"
    shutil.copytree(trained[1], folder)
    space = nasbench201()
    macro = Macro(4, 1, (8, 8, 1), 10)
    config.Architecture(space, np.asarray([3, 1, 2, 3, 0, 3], np.int32), macro, macro).save(
        folder / "architecture.json"
    )
    with pytest.raises(BadInput, match="do not fit"):
        load_model(folder)


def test_diverging_training_says_what_to_do(digits):
    space = nasbench201()
    macro = Macro(4, 1, (8, 8, 1), 10)
    found = config.Architecture(space, np.asarray([3, 1, 2, 3, 0, 3], np.int32), macro, macro)
    recipe = nas.Recipe(epochs=3, batch=50, learning_rate=999.0, gradient_clip=0)
    with pytest.raises(BadInput, match="lower the learning rate"):
        train_model(found, digits, recipe)
