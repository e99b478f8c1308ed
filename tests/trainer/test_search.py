"""What is tried is what was asked for, and its folders' names can be read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from trainer import config as config_lib
from trainer import search
from trainer.search import Range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.learning_rate=1e-3,3e-3", ("optimizer.learning_rate", [0.001, 0.003])),
        ("loss.class_weights=none,sqrt", ("loss.class_weights", ["none", "sqrt"])),
        ("data.flip=true,false", ("data.flip", [True, False])),
        ("model.bins=[1,2],[1,2,3,6]", ("model.bins", [[1, 2], [1, 2, 3, 6]])),
        ("model.backbone_weights=imagenet,1", ("model.backbone_weights", ["imagenet", 1])),
        ("seed=7", ("seed", [7])),
    ],
)
def test_choices_are_read_as_set_reads_them(text, expected):
    assert search.parse_choices(text) == expected


@pytest.mark.parametrize("text", ["seed", "seed=", "=1,2"])
def test_what_is_no_choice_is_refused_with_what_was_received(text):
    with pytest.raises(UserError, match=f"Received: '{text}'"):
        search.parse_choices(text)


@pytest.mark.parametrize(
    "text",
    ["seed", "seed=1", "seed=1:x", "seed=2:1", "seed=1:1", "ema_decay=0:1:log", "seed=1:2:lin",
     "seed=[1]:2", "ema_decay=0:Infinity", "ema_decay=NaN:1"],
)  # fmt: skip
def test_what_is_no_range_is_refused_with_what_was_received(text):
    with pytest.raises(UserError) as caught:
        search.parse_range(text)
    assert f"Received: {text!r}" in str(caught.value)


def test_a_grid_is_every_combination_once():
    found = search.grid({"a": [1, 2, 3], "b": ["x", "y"]})
    assert found[:3] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}]
    assert len(found) == 6
    assert len({tuple(values.items()) for values in found}) == 6


@given(st.integers(0, 2**31), st.integers(1, 40))
def test_draws_stay_in_their_range_and_do_not_depend_on_how_many_there_are(seed, count):
    _, rate = search.parse_range("optimizer.learning_rate=1e-4:1e-2:log")
    _, channels = search.parse_range("model.head_channels=64:512")
    choices, ranges = {"loss.class_weights": ["none", "sqrt"]}, {"rate": rate, "size": channels}
    drawn = search.draw(choices, ranges, count, seed)
    assert len(drawn) == count
    assert drawn == search.draw(choices, ranges, count + 5, seed)[:count]
    for values in drawn:
        assert 1e-4 <= values["rate"] <= 1e-2
        assert isinstance(values["size"], int) and 64 <= values["size"] <= 512
        assert values["loss.class_weights"] in ("none", "sqrt")


def test_the_logarithm_is_drawn_evenly():
    drawn = search.draw({}, {"rate": Range(1e-4, 1e-2, log=True)}, 400, seed=0)
    logs = [math.log10(values["rate"]) for values in drawn]
    thirds = [sum(low <= x < low + 2 / 3 for x in logs) for low in (-4, -4 + 2 / 3, -4 + 4 / 3)]
    assert min(thirds) > 100  # of 133 expected
    even = [v["rate"] for v in search.draw({}, {"rate": Range(1e-4, 1e-2, log=False)}, 400, 0)]
    assert sum(rate < 1e-3 for rate in even) < 80  # of 36 expected


def test_nothing_is_drawn_twice():
    drawn = search.draw({"a": [1, 2], "b": [True, False]}, {}, 10, seed=1)
    assert len(drawn) == 4
    assert all(values in drawn for values in search.grid({"a": [1, 2], "b": [True, False]}))


def test_folders_are_named_by_number_and_values():
    trials = [
        {"optimizer.learning_rate": 0.001, "optimizer.name": "sgd", "model.name": "unet"},
        {"model.backbone_weights": "../w/x.h5", "model.bins": [1, 2]},
    ]
    assert search.folder_names(trials) == [
        "001-learning_rate=0.001,optimizer.name=sgd,model.name=unet",
        "002-backbone_weights=..-w-x.h5,bins=-1,-2-",
    ]
    long = search.folder_names([{"model.backbone_weights": "x" * 500}] * 2)
    assert len(set(long)) == 2 and max(map(len, long)) < 200


def test_a_value_is_written_as_set_reads_it():
    for value in (1, 0.1, True, "none", [1, 2, 3], 1e-05):
        name, read = config_lib.parse_assignment(f"a.b={search.text(value)}")
        assert (name, read) == ("a.b", value)
