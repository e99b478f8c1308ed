"""Runs that start from other runs: what is carried over, what is told, what cannot be."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from model.heads import is_of_classes
from pipeline import dataset_info, job
from pipeline.palette import CITYSCAPES
from trainer import config as config_lib
from trainer import distribution, initial_model, run_folder, training
from trainer.config import ConfigError
from trainer.initial_model import InitialModelError
from trainer.training import TrainingError

DROPPED = ["wall", "terrain"]
NEW = ["bridge", "tunnel", "parking"]


@pytest.fixture(scope="module")
def other_records(pairs_dir, tmp_path_factory):
    """The same pairs with other classes: in the reverse order, some left out, some new."""
    names = [*NEW, *(name for name in CITYSCAPES.class_names[::-1] if name not in DROPPED)]
    palette = CITYSCAPES.to_dict()
    for entry in palette["classes"]:
        entry["train_id"] = names.index(entry["name"]) if entry["name"] in names else 255
    folder = tmp_path_factory.mktemp("other")
    (folder / "palette.json").write_text(json.dumps(palette))
    options = job.JobOptions(
        str(pairs_dir), str(folder / "records"), num_shards=2, palette=str(folder / "palette.json")
    )
    assert job.run(options).palette.class_names == names
    return folder / "records"


def train(config, data_dir, model_dir, strategy=None):
    strategy = strategy or distribution.create_strategy("one")
    return training.train(config, strategy, str(data_dir), str(model_dir))


def starting_from(source, config, *changes):
    """A configuration of two steps that starts from `source`."""
    return config_lib.override_all(
        config, [("initial_model", str(source)), ("steps", 2), ("evaluate_every", 1),
                 ("pictures", 0), ("seed", 7), *changes],
    )  # fmt: skip


def best(run):
    network = run_folder.build_network(*run_folder.load(str(run)))
    run_folder.restore_model(network.model, str(run), "best")
    return network


def floats(network):
    return {v.path: v.numpy() for v in network.model.variables if v.dtype == "float32"}


def checkpoint(path):
    """The arrays of a checkpoint by the names that `tf.train.Checkpoint` gives them."""
    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if "/.ATTRIBUTES" in name]
    return {name.partition("/.ATTRIBUTES")[0]: reader.get_tensor(name) for name in names}


@pytest.fixture
def filled(averaged_run, tiny_config, other_records, capsys):
    """A network of `other_records`, what it was before it was filled, and what was told."""
    info = dataset_info.load_info(str(other_records))
    config = starting_from(averaged_run, tiny_config)
    network = run_folder.build_network(config, info)
    before = floats(network)
    initial = initial_model.read(str(averaged_run))
    capsys.readouterr()
    initial_model.fill(network, config, info.palette.class_names, initial)
    return network, before, capsys.readouterr().err.splitlines(), info.palette.class_names


def test_classes_of_the_same_name_have_the_same_logits(filled, averaged_run):
    network, _, _, class_names = filled
    source = best(averaged_run)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 65, 97, 3)).astype(np.float32)
    found = network.model(pixels, training=False)
    expected = source.model(pixels, training=False)
    shared = [name for name in class_names if name in CITYSCAPES.class_names]
    assert len(shared) == 17
    for output in ("logits", "auxiliary_logits"):
        for name in shared:
            np.testing.assert_array_equal(
                found[output][..., class_names.index(name)],
                expected[output][..., CITYSCAPES.class_names.index(name)],
            )


def test_new_classes_stay_as_they_were_and_all_is_told(filled, averaged_run):
    network, before, told, class_names = filled
    after = floats(network)
    new = [class_names.index(name) for name in NEW]
    for path in filter(is_of_classes, after):
        np.testing.assert_array_equal(after[path][..., new], before[path][..., new])
    count = len(after)
    assert told == [
        f"Initial model: {count} of {count} variables set from {averaged_run}.",
        "3 classes are new, and stay random in the classifiers: bridge, tunnel, parking",
        "2 classes of the initial model are not in the records' palette: wall, terrain",
    ]


def test_a_saved_model_is_the_checkpoint_it_was_made_of(averaged_run):
    (version,) = (averaged_run / "export").iterdir()
    from_run = initial_model.read(str(averaged_run))
    from_export = initial_model.read(str(version))
    assert from_export.config == from_run.config
    assert from_export.class_names == from_run.class_names == CITYSCAPES.class_names
    left_out = from_run.weights.keys() - from_export.weights.keys()
    assert left_out == {path for path in from_run.weights if path.startswith("auxiliary_")}
    assert left_out
    for path, value in from_export.weights.items():
        np.testing.assert_array_equal(value, from_run.weights[path])


def test_of_a_run_that_keeps_an_average_it_is_the_average(averaged_run):
    weights = initial_model.read(str(averaged_run)).weights
    arrays = checkpoint(run_folder.last_checkpoint(str(averaged_run), "best"))
    for index, value in enumerate(weights.values()):
        np.testing.assert_array_equal(value, arrays[f"average/{index}"])
    own = [value for name, value in arrays.items() if name.startswith("model/")]
    kernel = weights["stem_conv/kernel"]
    (moved,) = (value for value in own if value.shape == kernel.shape)
    assert np.abs(moved - kernel).max() > 1e-6


def test_a_saved_model_leaves_the_auxiliary_head_random(averaged_run, tiny_config, records_dir,
                                                        capsys):  # fmt: skip
    (version,) = (averaged_run / "export").iterdir()
    info = dataset_info.load_info(str(records_dir))
    config = starting_from(version, tiny_config, ("model.output_stride", 8))
    network = run_folder.build_network(config, info)
    before = floats(network)
    initial = initial_model.read(str(version))
    capsys.readouterr()
    initial_model.fill(network, config, info.palette.class_names, initial)
    for path, value in floats(network).items():
        expected = before if path.startswith("auxiliary_") else initial.weights
        np.testing.assert_array_equal(value, expected[path])
    _, missing, otherwise = capsys.readouterr().err.splitlines()
    assert missing == (
        "3 layers stay random, as the initial model lacks them: auxiliary_conv, "
        "auxiliary_conv_bn, auxiliary_classes"
    )
    assert otherwise.endswith("when the initial model was trained: model.output_stride=16")


def test_another_decoder_keeps_the_backbone(averaged_run, tiny_config, records_dir, capsys):
    info = dataset_info.load_info(str(records_dir))
    config = starting_from(
        averaged_run, tiny_config, ("model.name", "deeplabv3"), ("model.bins", [1, 2, 3, 6]),
        ("model.head_channels", 24),
    )  # fmt: skip
    network = run_folder.build_network(config, info)
    initial = initial_model.read(str(averaged_run))
    capsys.readouterr()
    initial_model.fill(network, config, info.palette.class_names, initial)
    for variable in network.backbone.variables:
        np.testing.assert_array_equal(variable.numpy(), initial.weights[variable.path])
    told = capsys.readouterr().err
    assert "layers stay random, as the initial model lacks them: aspp" in told
    assert "layers of the initial model have no place here: pyramid1_conv, " in told
    assert "another shape in the initial model, and stay random: head_c" in told


@pytest.fixture(scope="module")
def started_run(averaged_run, tiny_config, other_records, tmp_path_factory):
    """A run of one step, whose start has been deleted since; not to be changed."""
    root = tmp_path_factory.mktemp("started")
    source = shutil.copytree(averaged_run, root / "source")
    config = starting_from(source, tiny_config, ("steps", 1), ("ema_decay", 0.99))
    train(config, other_records, root / "run")
    shutil.rmtree(source)
    return root / "run"


def test_before_its_first_step_a_run_is_its_start(started_run, averaged_run, scalars):
    config, info = run_folder.load(str(started_run))
    network = run_folder.build_network(config, info)
    initial = initial_model.read(str(averaged_run))
    initial_model.fill(network, config, info.palette.class_names, initial)
    start = checkpoint(started_run / "checkpoints" / "ckpt-0")
    variables = list(enumerate(network.model.variables))
    numbers = [(index, v) for index, v in variables if v.dtype == "float32"]
    for place, (index, variable) in enumerate(numbers):
        np.testing.assert_array_equal(start[f"model/{index}"], variable.numpy())
        np.testing.assert_array_equal(start[f"average/{place}"], variable.numpy())
    # It has been measured, and is the best until a step beats it.
    mean_iou = scalars(started_run / "validation", "mean_iou")[0]
    assert start["best_mean_iou"] == pytest.approx(mean_iou)
    assert start["best_step"] == 0


def test_a_run_goes_on_without_its_start(
    started_run, other_records, tmp_path, stop_at, assert_same_state, capsys
):
    run = shutil.copytree(started_run, tmp_path / "run")
    stop_at(run, 0)
    config, _ = run_folder.load(str(run))
    train(config, other_records, run)
    told = capsys.readouterr().err
    assert "Going on from step 0." in told
    assert "Initial model" not in told
    assert_same_state(started_run, run)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_frozen_normalisations_stay_while_all_else_moves(
    averaged_run, tiny_config, records_dir, mirrored_strategy, tmp_path, replicas
):
    strategy = mirrored_strategy if replicas == 2 else distribution.create_strategy("one")
    config = starting_from(
        averaged_run, tiny_config, ("model.freeze_batch_norm", True), ("ema_decay", 0.5),
        ("optimizer.warmup_steps", 0), ("optimizer.weight_decay", 0.1),
    )  # fmt: skip
    run = tmp_path / "run"
    train(config, records_dir, run, strategy)
    source = floats(best(averaged_run))
    network = run_folder.build_network(*run_folder.load(str(run)))
    frozen = {v.path for layer in network.backbone.layers if not layer.trainable
              for v in layer.variables}  # fmt: skip
    assert len(frozen) == 4 * 20
    assert {path.partition("/")[2] for path in frozen} == {
        "gamma", "beta", "moving_mean", "moving_variance",
    }  # fmt: skip
    arrays = checkpoint(run_folder.last_checkpoint(str(run), "latest"))
    assert arrays["step"] > 0
    for index, variable in enumerate(network.model.variables):
        if variable.dtype == "float32":
            value = arrays[f"model/{index}"]
            same = np.array_equal(value, source[variable.path])
            assert same == (variable.path in frozen), variable.path
    # What is evaluated and exported is the average, in which they have not moved either.
    run_folder.restore_model(network.model, str(run), "latest")
    for path in frozen:
        np.testing.assert_array_equal(floats(network)[path], source[path])


@pytest.fixture(scope="module")
def damaged(averaged_run, tmp_path_factory):
    """Folders that cannot be started from, by what is wrong with them."""
    root = tmp_path_factory.mktemp("damaged")

    def halve(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    for name in ("run_data", "run_info", "run_config", "no_best", "no_info"):
        shutil.copytree(averaged_run, root / name)
    (data,) = (root / "run_data" / "best").glob("*.data-*")
    halve(data)
    halve(root / "run_info" / "records_info.json")
    halve(root / "run_config" / "config.json")
    shutil.rmtree(root / "no_best" / "best")
    (root / "no_info" / "records_info.json").unlink()

    (version,) = (averaged_run / "export").iterdir()
    for name in ("saved_graph", "saved_data", "saved_palette", "saved_list", "no_assets"):
        shutil.copytree(version, root / name)
    halve(root / "saved_graph" / "saved_model.pb")
    halve(root / "saved_data" / "variables" / "variables.data-00000-of-00001")
    (root / "saved_palette" / "assets" / "palette.json").write_text("{}")
    (root / "saved_list" / "assets" / "config.json").write_text("[]")
    shutil.rmtree(root / "no_assets" / "assets")
    foreign = tf.Module()
    foreign.weight = tf.Variable([1.0])
    tf.saved_model.save(foreign, root / "foreign")
    shutil.copytree(version / "assets", root / "foreign" / "assets", dirs_exist_ok=True)
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "neither a run's folder, with config.json and records_info.json, nor a Saved"),
        ("empty", "neither a run's folder"),
        ("no_info", "neither a run's folder"),
        ("no_best", "holds no best checkpoint yet"),
        ("run_data", "is damaged or of another network"),
        ("run_info", "records_info.json"),
        ("run_config", "config.json is not JSON"),
        ("saved_graph", "is damaged, or no SavedModel of trainer.export"),
        ("saved_data", "is damaged, or no SavedModel of trainer.export"),
        ("saved_palette", "A palette is"),
        ("saved_list", "must hold a JSON object"),
        ("no_assets", "is damaged, or no SavedModel of trainer.export"),
        ("foreign", "is damaged, or no SavedModel of trainer.export"),
    ],
)
def test_what_is_no_model_of_ours(damaged, tiny_config, records_dir, tmp_path, name, reason):
    config = starting_from(damaged / name, tiny_config)
    with pytest.raises(InitialModelError) as caught:
        train(config, records_dir, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"--initial_model {str(damaged / name)!r} ")
    assert reason in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ([("model.width_multiplier", 0.25), ("model.head_channels", 24),
          ("model.auxiliary_channels", 24)],
         InitialModelError, "is of another network than the configuration's, 'pspnet'"),
        ([("model.backbone", "resnet34"), ("model.freeze_batch_norm", True)],
         InitialModelError, r"keeps 16 layers' statistics .* not have: stage1_block3_conv1_bn"),
        ([("model.backbone_weights", "imagenet")],
         TrainingError, "both fill the backbone; .*Received: '.*' and 'imagenet'"),
        ([("initial_model", ""), ("model.freeze_batch_norm", True)],
         TrainingError, "would keep statistics that a random network does not have"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    averaged_run, tiny_config, records_dir, tmp_path, changes, error, reason
):
    config = starting_from(averaged_run, tiny_config, *changes)
    with pytest.raises(error, match=reason):
        train(config, records_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_without_a_backbone_cannot_be_frozen(averaged_run, records_dir, tmp_path):
    config = config_lib.override_all(
        config_lib.preset("article"),
        [("initial_model", str(averaged_run)), ("model.freeze_batch_norm", True)],
    )
    with pytest.raises(ConfigError, match=r"freeze_batch_norm=True has no effect .* 'article'"):
        train(config, records_dir, tmp_path / "run")
