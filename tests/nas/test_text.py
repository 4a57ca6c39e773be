"""Texts as data sets: how they are cut and numbered, and what is refused."""

import numpy as np
import pytest

from nas.data import batches, gather, load, on_device
from nas.errors import BadInput
from nas.text import END, UNKNOWN, decode, encode

LINES = [f"the {word} of number {i}" for i, word in enumerate(["cat", "dog", "cow"] * 40)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def whole(part):
    """The text of a part again: its tokens, and the label of the last."""
    return [*part.images.ravel().tolist(), int(part.labels[-1, -1])]


def test_a_text_is_cut_in_its_order_and_every_label_is_the_next_token(file):
    data, text = load(file, sequence=10), file.read_text()
    assert data.is_text and data.level == "characters" and data.input_shape == (10,)
    assert data.num_classes == len(set(text)) + 1 and data.classes[0] == UNKNOWN
    ends = [round(0.9 * len(text)), round(0.95 * len(text)), len(text)]
    for part, first, last in zip((data.train, data.validation, data.test), [0, *ends], ends, strict=False):
        assert part.images.dtype == part.labels.dtype == np.int32 and part.images.shape == part.labels.shape
        assert len(part.images) == (last - first - 1) // 10 or abs(len(part.images) - (last - first - 1) // 10) <= 1
        found = decode(whole(part), data.classes, data.level)
        assert abs(text.index(found, max(0, first - 2)) - first) <= 1
        assert np.array_equal(part.images.ravel()[1:], part.labels.ravel()[:-1])
    assert "first 90% to train on, then 5% for validation and 5% for test" in data.note
    assert load(file, sequence=10).fingerprint == data.fingerprint


def test_words_end_their_lines_and_rare_ones_are_unknown(file):
    data = load(file, sequence=6, level="words", vocabulary=7)
    assert data.classes == (UNKNOWN, END, "number", "of", "the", "cat", "cow")
    first = decode(whole(data.train)[:11], data.classes, data.level)
    assert first == f"the cat of number {UNKNOWN}\nthe {UNKNOWN} of number {UNKNOWN}"
    assert np.array_equal(encode("the cat of\n", data.classes, "words"), [4, 5, 3, 1])
    assert load(file, sequence=6, level="words").num_classes == 8 + 108, "numbers of lines after the cut are not known"


def test_the_vocabulary_is_that_of_the_training_part(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("ab" * 500 + "z" * 60)
    data = load(path, sequence=5)
    assert data.classes == (UNKNOWN, "a", "b")
    assert not data.test.images.any(), "z is not in it"
    again = load(path, sequence=5, classes=("x", "z", "a"))
    assert (again.test.images == 1).all() and again.classes == ("x", "z", "a")


@pytest.mark.parametrize(
    ("files", "says", "words"),
    [
        ({"ptb.train.txt": 500, "ptb.valid.txt": 80, "ptb.test.txt": 90}, "train: ptb.train.txt", (500, 80, 90)),
        (
            {"ptb.valid.txt": 800, "ptb.test.txt": 90},
            "no training part here; from ptb.valid.txt, the test",
            (720, 80, 90),
        ),
        ({"a.txt": 600, "b.txt": 399}, "2 files of", (900, 50, 50)),
        ({"test.txt": 1000}, "from test.txt", (900, 50, 50)),
    ],
)
def test_a_folder_is_parts_by_their_names(tmp_path, files, says, words):
    for name, count in files.items():
        (tmp_path / name).write_text("<unk> cat dog\n" * ((count + 3) // 4))
    data = load(tmp_path, sequence=3)
    assert data.level == "words" and says in data.note
    for part, count in zip((data.train, data.validation, data.test), words, strict=True):
        assert abs(3 * len(part.images) - count) <= 8


def test_a_limit_takes_the_first_sequences(file):
    data, cut = load(file, sequence=10), load(file, sequence=10, limit=7)
    np.testing.assert_array_equal(cut.train.images, data.train.images[:7])
    assert len(cut.test.images) == len(data.test.images)


def test_tokens_reach_a_step_as_they_are(file):
    data = load(file, sequence=10)
    split = on_device(data.train, data.mean, data.std)
    order = batches(len(data.train.labels), 4, seed=0, epoch=0)[0]
    x, labels = gather(split, order)
    np.testing.assert_array_equal(x, data.train.images[order])
    np.testing.assert_array_equal(labels, data.train.labels[order])


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"abc", {}, "the next one; give more text"),
        (
            b"ab" * 300,
            {"sequence": 40},
            "validation has 30 tokens, fewer than a sequence of 40 and the next one; set sequence=29",
        ),
        (b"a" * 300, {}, "1 different tokens; wants two or more"),
        (b"ab\xff" * 100, {}, "no UTF-8 text at byte 2"),
        (b"ab" * 300, {"sequence": 0}, "sequence=0: wants a whole number from 1"),
        (b"ab" * 300, {"vocabulary": "many"}, "vocabulary='many': wants a whole number from 3"),
        (b"ab" * 300, {"level": "bytes"}, "level='bytes': wants characters or words"),
        (b"ab" * 300, {"sequence": 5, "limit": 0}, "limit=0: wants at least one"),
        (b"ab" * 300, {"validation_fraction": 1.0}, "validation_fraction=1.0: wants more than 0"),
    ],
)
def test_bad_texts_are_refused_in_one_line(tmp_path, content, options, says):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        load(path, **options)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_settings_of_a_text_are_refused_for_images():
    with pytest.raises(BadInput, match="sequence: it is for a text"):
        load("digits", sequence=5)


def test_two_files_of_one_part_are_refused(tmp_path):
    for name in ("a.train.txt", "b.train.txt"):
        (tmp_path / name).write_text("ab" * 500)
    with pytest.raises(BadInput, match=r"a\.train\.txt and b\.train\.txt are both of one part"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "level", "tokens"),
    [
        ("ptb", "words", (73_760, 82_430)),
        ("wikitext2", "words", (217_646, 245_569)),
        ("tinyshakespeare", "characters", (1_115_394,)),
    ],
)
def test_published_texts_have_their_published_numbers_of_tokens(published, name, level, tokens):
    data = load(published(name))
    assert data.level == level
    counts = [part.labels.size for part in (data.train, data.validation, data.test)]
    found = (sum(counts[:2]), counts[2]) if len(tokens) == 2 else (sum(counts),)
    for count, wanted in zip(found, tokens, strict=True):
        # what does not fill a sequence of 35 is left out, of each part
        assert 0 <= wanted - count <= 35 * 3
    if name == "tinyshakespeare":
        assert data.num_classes == 66
