"""Configurations: JSON, changes by name, and sentences for what cannot be used."""

import dataclasses
import json

import pytest
from absl.testing import flagsaver
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.options import CLASS_WEIGHTS
from trainer import config as config_lib
from trainer import config_flags
from trainer.config import PRESETS, Config, ConfigError

FRACTION = st.floats(0, 0.99)
POSITIVE = st.floats(1e-9, 1e9)
COUNT = st.integers(1, 10**9)
FIELDS = {
    "initial_model": st.text(),
    "seed": st.integers(0, 2**32 - 1),
    "steps": COUNT,
    "batch_size": COUNT,
    "accumulation_steps": st.just(1),  # others must divide the batch
    "precision": st.sampled_from(config_lib.PRECISIONS),
    "jit_compile": st.booleans(),
    "ema_decay": FRACTION,
    "early_stopping": st.integers(0, 10**9),
    "log_every": COUNT,
    "evaluate_every": st.integers(0, 10**9),
    "evaluation_batch_size": COUNT,
    "pictures": st.integers(0, 100),
    "train_split": st.text(),
    "validation_split": st.text(),
    "data.crop_size": st.integers(8, 10**6),
    "data.min_scale": st.floats(0.01, 1),
    "data.max_scale": st.floats(1, 100),
    "data.flip": st.booleans(),
    "data.color_strength": FRACTION,
    "data.paste_rate": st.floats(0, 1),
    "model.name": st.text(),
    "model.input_upsampling": st.lists(st.integers(1, 9)),
    "model.backbone": st.text(),
    "model.backbone_weights": st.text(),
    "model.output_stride": st.integers(),
    "model.width_multiplier": POSITIVE,
    "model.deep_stem": st.booleans(),
    "model.first_block_dilation": st.text(),
    "model.normalization": st.text(),
    "model.align_corners": st.booleans(),
    "model.auxiliary_channels": st.integers(),
    "model.bins": st.lists(st.integers(1, 99)),
    "model.atrous_rates": st.lists(st.integers()),
    "model.head_channels": st.integers(),
    "model.dropout": FRACTION,
    "model.freeze_batch_norm": st.booleans(),
    "loss.auxiliary_weight": FRACTION,
    "loss.class_weights": st.sampled_from(CLASS_WEIGHTS),
    "loss.label_smoothing": FRACTION,
    "loss.ohem_threshold": FRACTION,
    "loss.ohem_min_kept": FRACTION,
    "optimizer.name": st.sampled_from(config_lib.OPTIMIZERS),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.head_rate_factor": POSITIVE,
    "optimizer.warmup_steps": st.integers(0, 10**6),
    "optimizer.power": POSITIVE,
    "optimizer.momentum": FRACTION,
    "optimizer.weight_decay": FRACTION,
    "optimizer.clip_norm": POSITIVE,
}
HARMLESS = {"evaluation_batch_size", "log_every", "pictures"}
CHANGES = st.fixed_dictionaries({}, optional=FIELDS)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def as_field(value):
    return tuple(value) if isinstance(value, list) else value


def test_fields_are_all_here():
    groups = {"data", "model", "loss", "optimizer"}
    names = {field.name for field in dataclasses.fields(Config)} - groups
    for group in groups:
        fields = dataclasses.fields(getattr(Config(), group))
        names |= {f"{group}.{field.name}" for field in fields}
    assert names == FIELDS.keys() | {"preset"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = config_lib.preset(name)
    assert config.preset == name
    assert Config.from_json(config.to_json(), "here") == config


@given(changes=CHANGES)
def test_changes_are_made_and_survive_json(changes):
    config = config_lib.override_all(Config(), list(changes.items()))
    for name in FIELDS:
        expected = as_field(changes[name]) if name in changes else value_of(Config(), name)
        assert value_of(config, name) == expected
        assert type(value_of(config, name)) is type(value_of(Config(), name))
    assert Config.from_json(config.to_json(), "here") == config


@given(changes=CHANGES)
def test_differences_name_what_was_changed(changes):
    changed = config_lib.override_all(Config(), list(changes.items()))
    really = {  # what does not change what is computed is no difference
        name: value for name, value in changes.items()
        if as_field(value) != value_of(Config(), name) and name not in HARMLESS
    }  # fmt: skip
    lines = config_lib.differences(Config(), changed)
    assert {line.partition(":")[0] for line in lines} == really.keys()
    for name, value in really.items():
        assert f"{name}: {value_of(Config(), name)}, {as_field(value)}" in lines
    assert config_lib.differences(changed, changed) == []


@example(name="data.color_strength", value=2**53 + 1)
@example(name="optimizer.learning_rate", value=2**53 + 1)
@given(name=st.sampled_from(sorted(FIELDS)), value=JSON_VALUES)
def test_any_json_value_is_taken_as_it_is_or_refused_by_name(name, value):
    before = config_lib.preset("demo")
    try:
        config = config_lib.override(before, name, value)
    except ConfigError as error:
        assert f"{name}={value!r}" in str(error)
    else:
        kind = type(value_of(before, name))
        assert value_of(config, name) == kind(value)
        assert type(value_of(config, name)) is kind
        assert not config_lib.differences(config_lib.override(before, name, value), config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model.dropout", 0, 0.0),
        ("steps", 7, 7),
        ("data.flip", False, False),
        ("model.bins", [1, 4], (1, 4)),
        ("model.bins", (2,), (2,)),
        ("optimizer.name", "sgd", "sgd"),
    ],
)
def test_types(name, value, expected):
    found = value_of(config_lib.override(Config(), name, value), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("steps", 7.0, "whole number"),
        ("steps", True, "whole number"),
        ("steps", "many", "whole number"),
        ("steps", None, "whole number"),
        ("data.flip", 1, "true or false"),
        ("data.flip", "yes", "true or false"),
        ("model.dropout", True, "a number"),
        ("model.dropout", "0.1", "a number"),
        ("model.dropout", float("nan"), "finite"),
        ("optimizer.learning_rate", float("inf"), "finite"),
        ("optimizer.learning_rate", 10**400, "too large"),
        ("model.bins", 6, "list of whole numbers"),
        ("model.bins", [1, 2.0], "list of whole numbers"),
        ("model.bins", [1, True], "list of whole numbers"),
        ("model.bins", "1,2", "list of whole numbers"),
        ("model.name", 18, "a text"),
        ("steps", 0, "positive"),
        ("steps", -3, "positive"),
        ("batch_size", 0, "positive"),
        ("evaluation_batch_size", 0, "positive"),
        ("evaluate_every", -1, "not be negative"),
        ("pictures", -1, "not be negative"),
        ("seed", -1, "2**32"),
        ("seed", 2**32, "2**32"),
        ("data.crop_size", 0, "at least 8"),
        ("data.min_scale", 3.0, "min_scale <= max_scale"),
        ("data.min_scale", 0, "0 < min_scale"),
        ("data.color_strength", 1.0, "[0, 1)"),
        ("data.paste_rate", 1.1, "[0, 1]"),
        ("optimizer.name", "adam", "sgd, adamw, muon"),
        ("optimizer.learning_rate", 0, "positive"),
        ("optimizer.head_rate_factor", 0, "positive"),
        ("optimizer.momentum", 1, "[0, 1)"),
        ("optimizer.warmup_steps", -1, "not be negative"),
        ("optimizer.power", -0.9, "not be negative"),
        ("optimizer.weight_decay", -1e-4, "not be negative"),
        ("optimizer.clip_norm", -1, "not be negative"),
    ],
)
def test_what_cannot_be_used_is_named(name, value, reason):
    with pytest.raises(ConfigError) as caught:
        config_lib.override(Config(), name, value, "somebody")
    message = str(caught.value)
    typed = float(value) if name.startswith(("data.m", "optimizer")) and value in (0, 1) else value
    assert message.startswith("somebody: ")
    assert f"{name}={typed!r}" in message or f"{name}={value!r}" in message
    assert reason in message
    assert message.endswith(".") and not message.endswith("..")


@pytest.mark.parametrize(
    "name",
    ["", "stpes", "model", "data", "optimizer", "model.", ".backbone", "model.bakcbone", "steps.x",
     "model.bins.x", "to_json.x", "__class__.x", "model.name.x", "bins"],
)  # fmt: skip
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"there is no {name!r}") as caught:
        config_lib.override(Config(), name, 1)
    for known in FIELDS:
        assert known in str(caught.value)


def test_values_that_only_fit_together_are_taken_in_any_order():
    scales = [("data.min_scale", 3.0), ("data.max_scale", 4.0)]
    first = config_lib.override_all(Config(), scales)
    assert (first.data.min_scale, first.data.max_scale) == (3.0, 4.0)
    assert config_lib.override_all(Config(), scales[::-1]) == first
    assert Config.from_json(first.to_json(), "here") == first


def test_a_commands_own_flags_and_set_are_applied_at_once(tmp_path):
    path = tmp_path / "config.json"
    changes = [("batch_size", 4), ("accumulation_steps", 4)]
    path.write_text(config_lib.override_all(Config(), changes).to_json())
    with flagsaver.as_parsed(config=str(path), set=["accumulation_steps=3"]):
        config = config_flags.configuration({"batch_size": 6, "steps": None})
        assert (config.batch_size, config.accumulation_steps) == (6, 3)
        with pytest.raises(ConfigError, match=r"^--batch_size, --set: batch_size=8, accumulation"):
            config_flags.configuration({"batch_size": 8})
        with pytest.raises(ConfigError, match=r"^--set: accumulation_steps=3 cannot be used: "):
            config_flags.configuration()


@given(name=st.sampled_from(sorted(FIELDS)), value=JSON_VALUES)
def test_assignments_hold_json(name, value):
    found_name, found = config_lib.parse_assignment(f"{name}={json.dumps(value)}")
    assert found_name == name
    assert json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.name=sgd", ("optimizer.name", "sgd")),
        ("a=b=c", ("a", "b=c")),
        ("train_split=", ("train_split", "")),
        ("model.bins=[1,2]", ("model.bins", [1, 2])),
        ("steps=1e3", ("steps", 1000.0)),
        ("steps=" + "1" * 5000, ("steps", "1" * 5000)),
    ],
)
def test_assignments(text, expected):
    assert config_lib.parse_assignment(text) == expected


def test_an_assignment_needs_a_value():
    with pytest.raises(ConfigError, match=r"name=value.*'model\.dropout'"):
        config_lib.parse_assignment("model.dropout")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ("7", "JSON object"),
        ('{"preset": "pspnet"}', "no preset 'pspnet'"),
        ('{"preset": {"name": "demo"}}', "no preset {'name': 'demo'}"),
        ('{"model": 5}', "there is no 'model'"),
        ('{"model": {"deep": 5}}', "there is no 'model.deep'"),
        ('{"model": {"backbone": {"x": 5}}}', "there is no 'model.backbone.x'"),
        ('{"steps": "5"}', "steps='5'"),
        ('{"data": {"crop_size": 0}}', "data.crop_size=0"),
        ('{"data": {"min_scale": 2.0, "max_scale": 1.0}}', "min_scale=2.0, data.max_scale=1.0"),
        ('{"optimizer": {"learning_rate": NaN}}', "learning_rate=nan"),
    ],
)
def test_json_that_is_no_configuration(text, reason):
    with pytest.raises(ConfigError) as caught:
        Config.from_json(text, "FOLDER/config.json")
    assert "FOLDER/config.json" in str(caught.value) or "preset" in str(caught.value)
    assert reason in str(caught.value)


def test_json_may_leave_out_what_is_as_usual():
    assert Config.from_json("{}", "here") == Config()
    assert (
        Config.from_json('{"model": {"backbone": "resnet50"}}', "here").model.backbone == "resnet50"
    )


def test_a_preset_is_what_one_starts_from_and_not_a_value_to_set():
    with pytest.raises(ConfigError, match=r"chosen with --preset\. Received: 'demo'"):
        config_lib.override(Config(), "preset", "demo")
    assert Config.from_json('{"preset": "demo"}', "here") == config_lib.preset("demo")
    changed = Config.from_json('{"steps": 7, "preset": "demo"}', "here")
    assert changed == config_lib.override(config_lib.preset("demo"), "steps", 7)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=", ".join(PRESETS)):
        config_lib.preset("pspnet")


@pytest.mark.parametrize(("steps", "every", "interval"), [(95, 0, 10), (5, 0, 1), (95, 40, 40)])
def test_evaluation_interval(steps, every, interval):
    assert Config(steps=steps, evaluate_every=every).evaluation_interval == interval


@pytest.mark.parametrize("order", [1, -1])
def test_values_that_only_fit_together_are_set_at_once_in_any_order(order):
    accumulating = config_lib.override(Config(), "accumulation_steps", 2)
    changes = [("loss.ohem_threshold", 0.7), ("accumulation_steps", 1)][::order]
    changed = config_lib.override_all(accumulating, changes)
    assert (changed.accumulation_steps, changed.loss.ohem_threshold) == (1, 0.7)
