"""The architecture config: out, back, and everything that can be wrong with a file."""

import json

import numpy as np
import pytest
from flax import nnx

import nas
from nas import config
from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from search_spaces import SPACES, nasbench201

MACRO = Macro(8, 2, (16, 16, 3), 7)


def architecture(**changes):
    space = nasbench201()
    given = dict(space=space, row=np.asarray([3, 1, 2, 4, 0, 3], np.int32), macro=MACRO, search_macro=space.macro)
    return config.Architecture(**{**given, **changes})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.json"
    architecture(recipe=nas.Recipe(epochs=3, augment=("flip",)), metrics={"accuracy": 0.5}).save(path)
    return path


def test_round_trip(saved):
    back = config.load(saved, SPACES)
    assert back.row.tolist() == [3, 1, 2, 4, 0, 3]
    assert back.macro == MACRO and back.search_macro == nasbench201().macro
    assert back.recipe == nas.Recipe(epochs=3, augment=("flip",))
    back.save(saved.with_name("again.json"))
    assert saved.with_name("again.json").read_bytes() == saved.read_bytes()


def test_same_file_same_network(saved):
    one, two = (config.load(saved, SPACES).space.build([3, 1, 2, 4, 0, 3], MACRO, rngs=nnx.Rngs(0)) for _ in range(2))
    x = np.ones((2, 16, 16, 3), np.float32)
    assert (one(x) == two(x)).all()
    assert nas.counts(one.layers) == nas.counts(architecture().layers)


def test_layers_in_the_file_build_the_network_without_the_space(saved):
    layers = config.layers_from_json(json.loads(saved.read_text())["layers"])
    assert layers == architecture().layers


def own_space():
    """As a person would write it in a script of their own."""

    def network(net, macro):
        with net.block("stem"):
            x = net.batch_norm(net.conv(net.input, macro.width, 3))
        for i in range(2):
            with net.scope(f"layer_{i}"):
                x = net.choice(f"kernel_{i}", {k: lambda k=k, x=x: net.conv(x, macro.width, k) for k in (1, 3)})
        return net.linear(net.global_avg_pool(x), macro.classes)

    decisions = tuple(Decision(f"kernel_{i}", (1, 3)) for i in range(2))
    return SearchSpace("mine", decisions, network, Macro(4, 1, (8, 8, 1), 10))


def test_a_space_of_ones_own(tmp_path):
    space = own_space()
    config.Architecture(space, space.encode({"kernel_0": 3, "kernel_1": 1}), space.macro, space.macro).save(
        tmp_path / "m"
    )
    back = config.load(tmp_path / "m", {"mine": own_space})
    assert back.space.decode(back.row) == {"kernel_0": 3, "kernel_1": 1}
    with pytest.raises(BadInput, match="no space 'mine'"):
        config.load(tmp_path / "m", SPACES)


def change(path, **keys):
    data = json.loads(path.read_text())
    for key, value in keys.items():
        target, parts = data, key.split("__")
        for part in parts[:-1]:
            target = target[part]
        target[parts[-1]] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"schema": "nas.architecture/2"}, "newer version"),
        ({"schema": "pickle"}, "no architecture config"),
        ({"schema": None}, "no architecture config"),
        ({"choices__edge_0_1": "nor_conv_5x5"}, 'options: "none"'),
        ({"choices__edge_0_1": "none"}, "choices and encoding disagree"),
        ({"encoding": [0, 0, 0, 0, 0, 0]}, "choices and encoding disagree"),
        ({"encoding": "abc"}, "encoding"),
        ({"choices": {}}, "is missing"),
        ({"choices__edge_9_9": "none"}, "no decision 'edge_9_9'"),
        ({"space__name": "nasbench202"}, "did you mean 'nasbench201'"),
        ({"space__name": "__import__('os')"}, "no space"),
        ({"space__arguments": {"nodes": 5}}, "nodes"),
        ({"space__fingerprint": "0" * 16}, "fingerprint"),
        ({"macro__width": 0}, "macro.width"),
        ({"macro__depth": 10**9}, "macro.depth"),
        ({"macro__width": 9}, "layers disagree"),
        ({"macro": []}, "macro"),
        ({"recipe": {"epochz": 3}}, "did you mean 'epochs'"),
        ({"layers": []}, "layers disagree"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_can_be_wrong(saved, keys, says):
    change(saved, **keys)
    with pytest.raises(BadInput, match=says) as caught:
        config.load(saved, SPACES)
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_truncated_anywhere(saved):
    text = saved.read_text()
    for cut in range(0, len(text) - 2, max(1, len(text) // 40)):
        saved.write_text(text[:cut])
        with pytest.raises(BadInput) as caught:
            config.load(saved, SPACES)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff\xfe\x00", b"[" * 100_000, b'{"schema": NaN}'])
def test_not_even_json(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        config.load(path, SPACES)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        config.load(tmp_path / "nothing.json", SPACES)


def test_the_schema_describes_the_file(saved):
    jsonschema = pytest.importorskip("jsonschema")
    data = json.loads(saved.read_text())
    jsonschema.validate(data, config.json_schema())
    data["encoding"] = "abc"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, config.json_schema())
