"""The training step against formulas and on two replicas; runs that stop, go on, or cannot."""

import dataclasses
import fcntl
import functools
import os
import re
import shutil
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import networks
from model.layers import ChannelDropout, ResizeLike, conv_batch_norm
from model.losses import IGNORE_LABEL, CrossEntropy
from model.networks import Network
from pipeline import dataset_info
from trainer import config as config_lib
from trainer import distribution, run_folder, training
from trainer.config import OptimizerConfig
from trainer.optimizer import Optimizer
from trainer.run_folder import RunError
from trainer.step import make_step
from trainer.training import TrainingError
from trainer.whole_file import write_whole

CLASSES, SIZE, BATCH, STEPS = 5, 24, 4, 3
AUXILIARY_WEIGHT = 0.4


def small_network(dropout=0.0):
    """Two convolutions, batch normalisation and two heads: all that a step can go wrong in."""
    pixels = keras.Input([None, None, 3])
    x = conv_batch_norm(keras.layers.Rescaling(1 / 128, -1)(pixels), 6, 3, name="c", stride=2)
    x = ChannelDropout(dropout)(keras.layers.ReLU()(x))
    outputs = {
        name: ResizeLike()([keras.layers.Conv2D(CLASSES, 1, name=name)(x), pixels])
        for name in ("logits", "auxiliary_logits")
    }
    return Network(keras.Model(pixels, outputs), CrossEntropy(AUXILIARY_WEIGHT), None)


def small_pspnet():
    return networks.build(
        "pspnet",
        num_classes=CLASSES,
        class_colors=np.zeros((CLASSES, 3)),
        mean=(120.0, 121.0, 122.0),
        std=(60.0, 61.0, 62.0),
        output_stride=16,
        width_multiplier=0.125,
        bins=(1, 2),
        head_channels=8,
        auxiliary_channels=4,
        dropout=0.0,
        loss={"auxiliary_weight": AUXILIARY_WEIGHT},
    )


def uneven_batches():
    """Void pixels: some on the first replica; nearly all on the second, in the last step all."""
    rng = np.random.default_rng(0)
    batches = []
    for void in (0.9, 0.97, 1.0):
        labels = rng.integers(0, CLASSES, (BATCH, SIZE, SIZE))
        share = np.repeat([0.2, void], BATCH // 2)[:, np.newaxis, np.newaxis]
        labels[rng.uniform(size=labels.shape) < share] = IGNORE_LABEL
        images = rng.uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
        batches.append({"image": images, "label": labels.astype(np.uint8)})
    return batches


class Stepper:
    """A network with its optimizer, trained step by step under a strategy."""

    def __init__(self, strategy, build, options, accumulation_steps=1):
        self._strategy = strategy
        keras.utils.set_random_seed(1)
        with strategy.scope():
            network = build()
            self.model = network.model
            optimizer = Optimizer(options, STEPS + 1, network)
        self._step = make_step(
            strategy, network, optimizer, clip_norm=options.clip_norm,
            accumulation_steps=accumulation_steps,
        )  # fmt: skip

    def __call__(self, batch):
        """Loss and norm of a step on a global batch."""
        replicas = self._strategy.num_replicas_in_sync
        rows = BATCH // replicas

        def part(context):
            first = context.replica_id_in_sync_group * rows
            return {name: tf.constant(v[first : first + rows]) for name, v in batch.items()}

        values = self._strategy.experimental_distribute_values_from_function(part)
        return self._step(values).numpy()

    def state(self):
        return {v.path: v.numpy() for v in self.model.variables if "seed" not in v.path}


def numpy_loss(outputs, labels):
    """The mean over all valid pixels of the batch, by the formula."""
    valid = labels != IGNORE_LABEL
    total = 0.0
    for name, weight in (("logits", 1.0), ("auxiliary_logits", AUXILIARY_WEIGHT)):
        logits = outputs[name].numpy().astype(np.float64)[valid]
        log_sum = np.log(np.exp(logits).sum(axis=1))
        total += weight * (log_sum - logits[np.arange(len(logits)), labels[valid]]).sum()
    return total / valid.sum()


def reference_loss_and_gradients(network, batch):
    """On one device, without `make_step` and our losses."""
    valid = batch["label"] != IGNORE_LABEL
    labels = tf.one_hot(np.where(valid, batch["label"], 0), CLASSES)
    with tf.GradientTape() as tape:
        outputs = network(batch["image"], training=True)
        loss = 0.0
        for name, weight in (("logits", 1.0), ("auxiliary_logits", AUXILIARY_WEIGHT)):
            per_pixel = -tf.reduce_sum(labels * tf.nn.log_softmax(outputs[name]), axis=-1)
            loss += weight * tf.reduce_mean(per_pixel[valid])
    gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
    return numpy_loss(outputs, batch["label"]), [g.numpy() for g in gradients]


STEP_CASES = [
    (build, name, clip_norm, 0.05, 1.0)
    for build, name in ((small_network, "sgd"), (small_network, "adamw"))
    for clip_norm in (0.0, 0.2)
] + [pytest.param(small_pspnet, "sgd", 0.05, 0.0, 5.0, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("build", "name", "clip_norm", "weight_decay", "head_rate_factor"), STEP_CASES
)
def test_two_replicas_are_one_device(
    mirrored_strategy, build, name, clip_norm, weight_decay, head_rate_factor
):
    options = OptimizerConfig(
        name=name,
        learning_rate=0.1 if name == "sgd" else 0.01,
        head_rate_factor=head_rate_factor,
        warmup_steps=2,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    one = Stepper(distribution.create_strategy("one"), build, options)
    two = Stepper(mirrored_strategy, build, options)
    reference = build().model
    start = one.state()
    for batch in uneven_batches():
        reference.set_weights(one.model.get_weights())
        expected_loss, gradients = reference_loss_and_gradients(reference, batch)
        expected_norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
        assert expected_norm > 1.05 * clip_norm  # else clipping would go untested
        for stepper in (one, two):
            loss, norm = stepper(batch)
            assert loss == pytest.approx(expected_loss, rel=1e-5)
            assert norm == pytest.approx(expected_norm, rel=1e-4)
        found = two.state()
        for path, value in one.state().items():
            assert np.abs(found[path] - value).max() < 1e-5, path
    moved = [path for path, value in one.state().items() if not np.array_equal(value, start[path])]
    assert any(path.endswith("kernel") for path in moved)
    assert any(path.endswith("moving_mean") for path in moved)
    assert any(path.endswith("moving_variance") for path in moved)


def test_two_replicas_normalise_the_parts_of_a_batch_as_one_device_does(mirrored_strategy):
    options = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=0)
    one = Stepper(distribution.create_strategy("one"), small_network, options, 2)
    two = Stepper(mirrored_strategy, small_network, options, 2)
    whole = Stepper(distribution.create_strategy("one"), small_network, options)
    for batch in uneven_batches():
        for stepper in (one, two, whole):
            stepper(batch)
    found, of_whole = two.state(), whole.state()
    for path, value in one.state().items():
        assert np.abs(found[path] - value).max() < 1e-5, path
    # The statistics are those of a part.
    assert any(np.abs(of_whole[path] - value).max() > 1e-3 for path, value in found.items())


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_two_replicas_drop_what_one_device_drops(mirrored_strategy, accumulation_steps):
    options = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=0)
    build = functools.partial(small_network, dropout=0.5)
    one = Stepper(distribution.create_strategy("one"), build, options, accumulation_steps)
    two = Stepper(mirrored_strategy, build, options, accumulation_steps)
    none = Stepper(distribution.create_strategy("one"), small_network, options, accumulation_steps)
    for batch in uneven_batches():
        for stepper in (one, two, none):
            stepper(batch)
    found, undropped = two.state(), none.state()
    for path, value in one.state().items():
        assert np.abs(found[path] - value).max() < 1e-5, path
    assert any(np.abs(undropped[path] - value).max() > 1e-3 for path, value in found.items())


def test_two_replicas_are_one_device_where_hard_pixels_alone_train(mirrored_strategy):
    def build():
        network = small_network()
        objective = CrossEntropy(AUXILIARY_WEIGHT, ohem_threshold=0.2, ohem_min_kept=0.25)
        return dataclasses.replace(network, objective=objective)

    options = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=0)
    one = Stepper(distribution.create_strategy("one"), build, options)
    two = Stepper(mirrored_strategy, build, options)
    reference = build()
    for batch in uneven_batches():
        reference.model.set_weights(one.model.get_weights())
        valid = batch["label"] != IGNORE_LABEL
        losses, counts = reference.objective.loss(
            reference.model(batch["image"], training=True), batch["label"]
        )
        # The heads differ in what they keep, and neither keeps all.
        assert counts[0] != counts[1]
        assert (counts.numpy() < valid.sum()).all()
        expected = sum(losses.numpy() / counts.numpy())
        for stepper in (one, two):
            assert stepper(batch)[0] == pytest.approx(expected, rel=1e-5)
        found = two.state()
        for path, value in one.state().items():
            assert np.abs(found[path] - value).max() < 1e-5, path


@pytest.mark.parametrize("clip_norm", [0.0, 0.2])
def test_steps_on_two_replicas_are_the_formula_of_gradient_descent(mirrored_strategy, clip_norm):
    options = OptimizerConfig(
        name="sgd", learning_rate=0.3, warmup_steps=0, power=0.0, weight_decay=0.1, momentum=0.9,
        clip_norm=clip_norm,
    )  # fmt: skip
    stepper = Stepper(mirrored_strategy, small_network, options)
    reference = small_network().model
    variables = stepper.model.trainable_variables
    velocity = [np.zeros(v.shape) for v in variables]
    for batch in uneven_batches():
        reference.set_weights(stepper.model.get_weights())
        _, gradients = reference_loss_and_gradients(reference, batch)
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        factor = min(1, clip_norm / norm) if clip_norm else 1
        before = [v.numpy() for v in variables]
        stepper(batch)
        for i, (variable, weight, gradient) in enumerate(
            zip(variables, before, gradients, strict=True)
        ):
            # Decay is added after clipping, and to kernels alone.
            total = factor * gradient + (0.1 * weight if variable.name == "kernel" else 0)
            velocity[i] = 0.9 * velocity[i] - 0.3 * total
            np.testing.assert_allclose(variable.numpy(), weight + velocity[i], atol=2e-6)
    batch["label"] = np.full_like(batch["label"], IGNORE_LABEL)
    assert stepper(batch).tolist() == [0, 0]


def test_a_small_network_learns(trained_run, scalars):
    loss = scalars(trained_run.folder / "train", "loss")
    mean_iou = scalars(trained_run.folder / "validation", "mean_iou")
    guessing = (1 + AUXILIARY_WEIGHT) * np.log(19)
    assert set(mean_iou) == {0, 10, 20, 30, 40}
    assert loss[10] < guessing
    assert loss[40] < 0.75 * guessing
    assert mean_iou[40] > 3 * mean_iou[0]
    matrix = trained_run.matrix
    assert np.trace(matrix) > 1.2 * matrix.sum(axis=1).max()  # better than one class everywhere


def train(config, data_dir, model_dir):
    strategy = distribution.create_strategy("one")
    return training.train(config, strategy, str(data_dir), str(model_dir))


@pytest.fixture(scope="module")
def short_run(tiny_config, records_dir, tmp_path_factory):
    """A run of six steps with checkpoints of steps 3 and 6; not to be changed."""
    # Another optimizer than in the runs of test_commands.py, one for each part of the network, and
    # one device in place of two.
    config = config_lib.override_all(
        tiny_config,
        [("optimizer.name", "adamw"), ("optimizer.weight_decay", 1e-2), ("steps", 6),
         ("evaluate_every", 3), ("optimizer.learning_rate", 1e-2), ("ema_decay", 0.9),
         ("optimizer.head_rate_factor", 2.0), ("loss.ohem_threshold", 0.7)],
    )  # fmt: skip
    assert config.model.dropout > 0
    folder = tmp_path_factory.mktemp("short") / "run"
    matrix = train(config, records_dir, folder)
    return types.SimpleNamespace(config=config, folder=folder, matrix=matrix)


def test_a_run_gone_on_with_is_the_run_without_a_break(
    short_run, records_dir, tmp_path, stop_at, assert_same_state, capfd, scalars
):
    folder = shutil.copytree(short_run.folder, tmp_path / "run")
    stop_at(folder, 3)
    capfd.readouterr()
    found = train(short_run.config, records_dir, folder)
    assert "Going on from step 3." in capfd.readouterr().err
    np.testing.assert_array_equal(found, short_run.matrix)
    assert_same_state(short_run.folder, folder)
    rates = [scalars(folder / "train", f"learning_rate/{part}") for part in ("backbone", "heads")]
    assert rates[1] == pytest.approx({step: 2 * rate for step, rate in rates[0].items()})


def assert_about_equal(found, expected):
    """Two pixels may tip over, where two classes are equal but for rounding."""
    assert found.sum() == expected.sum()
    assert np.abs(found - expected).sum() <= 4


def test_two_latest_checkpoints_and_one_best_are_kept(trained_run, scalars):
    steps = {path.stem for path in (trained_run.folder / "checkpoints").glob("*.index")}
    assert steps == {"ckpt-30", "ckpt-40"}
    (best,) = (trained_run.folder / "best").glob("*.index")
    mean_iou = scalars(trained_run.folder / "validation", "mean_iou")
    del mean_iou[0]
    assert best.stem == f"ckpt-{max(mean_iou, key=mean_iou.get)}"


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 2), ("model.head_channels", 8), ("data.flip", False)]
)
def test_a_folder_of_another_configuration_is_refused(
    trained_run, tiny_config, records_dir, name, value
):
    config = config_lib.override(tiny_config, name, value)
    with pytest.raises(RunError) as caught:
        train(config, records_dir, trained_run.folder)
    old = tiny_config
    for part in name.split("."):
        old = getattr(old, part)
    assert f"another configuration ({name}: {old}, {value})" in str(caught.value)
    assert str(trained_run.folder) in str(caught.value)


def test_a_folder_that_another_process_trains_in_is_refused(short_run, records_dir):
    with (short_run.folder / "config.json").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"Another process trains in '.*run'\. Wait for it"):
            train(short_run.config, records_dir, short_run.folder)
    train(short_run.config, records_dir, short_run.folder)  # finished: only evaluated


def test_a_diverging_run_on_replicas_names_the_step_and_its_records(
    tiny_config, records_dir, mirrored_strategy, tmp_path
):
    config = config_lib.override_all(
        tiny_config, [("optimizer.learning_rate", 1e30), ("optimizer.warmup_steps", 0)]
    )
    with pytest.raises(TrainingError) as caught:
        training.train(config, mirrored_strategy, str(records_dir), str(tmp_path / "run"))
    keys = re.search(r"at step [23], with the records (.*)\. Checkpoints", str(caught.value))[1]
    assert len(keys.split(", ")) == config.batch_size
    assert "--learning_rate" in str(caught.value)


def test_a_full_disk_leaves_the_checkpoints_before_it(
    short_run, records_dir, tmp_path, stop_at, monkeypatch, assert_same_state
):
    folder = shutil.copytree(short_run.folder, tmp_path / "run")
    stop_at(folder, 3)
    full = tf.errors.ResourceExhaustedError(None, None, "ckpt_temp/part; No space left on device")

    def half_written(manager, *_, **__):
        (Path(manager.directory) / "ckpt-6_temp").mkdir()
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", half_written)
        with pytest.raises(RunError) as caught:
            train(short_run.config, records_dir, folder)
    assert str(caught.value) == (
        "The checkpoint of step 6 could not be written (No space left on device); earlier ones are "
        "kept. Make room on the disk and repeat the command to go on from there."
    )
    assert not list(folder.rglob("*_temp"))
    train(short_run.config, records_dir, folder)
    assert_same_state(short_run.folder, folder)


@pytest.fixture
def other_records(records_dir, tmp_path):
    """Function that writes the records again, with a description that was changed."""

    def write(**changes):
        folder = tmp_path / "other_records"
        shutil.copytree(records_dir, folder, dirs_exist_ok=True)
        info = dataclasses.replace(dataset_info.load_info(str(records_dir)), **changes)
        (folder / dataset_info.INFO_FILE).write_text(info.to_json())
        return folder

    return write


def test_a_folder_of_other_records_is_refused(trained_run, tiny_config, other_records):
    folder = other_records(mean=[1.0, 2.0, 3.0])
    with pytest.raises(RunError, match="other records than those in --data_dir"):
        train(tiny_config, folder, trained_run.folder)


def test_a_finished_run_repeated_changes_nothing(
    trained_run, tiny_config, other_records, tmp_path, assert_same_state
):
    # Nor does it matter that it is one device now, or when the records were written.
    records = other_records(provenance={"written": "on another day"})
    folder = shutil.copytree(trained_run.folder, tmp_path / "run")
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert_about_equal(train(tiny_config, records, folder), trained_run.matrix)
    assert_same_state(trained_run.folder, folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == names


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 255 for byte in data[middle : middle + 64])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (halve, "ckpt-6.data-00000-of-00001"),
        (flip_bits, "ckpt-6.data-00000-of-00001"),
        (os.unlink, "ckpt-6.index"),
        (lambda path: path.write_bytes(b""), "ckpt-6.index"),
    ],
    ids=["halved", "bits flipped", "deleted", "emptied"],
)
def test_the_checkpoint_before_a_damaged_one_is_used(
    short_run, records_dir, tmp_path, name, damage, assert_same_state, capfd
):
    folder = shutil.copytree(short_run.folder, tmp_path / "run")
    damage(folder / "checkpoints" / name)
    train(short_run.config, records_dir, folder)
    damaged, going_on = capfd.readouterr().err.splitlines()[1:3]
    assert f"'{folder / 'checkpoints' / 'ckpt-6'}' is damaged" in damaged
    assert damaged.endswith(" The one before it is used.")
    assert going_on == "Going on from step 3."
    steps = {path.stem for path in (folder / "checkpoints").glob("*.index")}
    assert steps == {"ckpt-3", "ckpt-6"}
    assert_same_state(short_run.folder, folder)


def test_a_checkpoint_that_cannot_be_read_for_now_is_kept(
    short_run, records_dir, tmp_path, monkeypatch
):
    """As of a disk that is away; here root may read anything."""
    folder = shutil.copytree(short_run.folder, tmp_path / "run")

    def refuse(self, path):
        raise tf.errors.UnavailableError(None, None, "Stale file handle")

    before = sorted((folder / "checkpoints").iterdir())
    monkeypatch.setattr(tf.train.Checkpoint, "restore", refuse)
    with pytest.raises(RunError, match=r"checkpoints/ckpt-6' .*Stale file handle"):
        train(short_run.config, records_dir, folder)
    assert sorted((folder / "checkpoints").iterdir()) == before


def test_a_folder_that_is_not_local_is_refused(tiny_config, records_dir):
    with pytest.raises(RunError, match=r"must be a local folder. Received: 's3://bucket/run'"):
        train(tiny_config, records_dir, "s3://bucket/run")
    with pytest.raises(RunError, match="must be a local folder"):
        training.save_start(tiny_config, None, small_network(), "s3://bucket/run")


def test_of_two_that_prepare_a_folder_at_once_one_trains(
    short_run, records_dir, tmp_path, monkeypatch
):
    folder = shutil.copytree(short_run.folder, tmp_path / "run")

    def lock(file, operation):
        write_whole(folder / run_folder.CONFIG_FILE, short_run.config.to_json())  # the other does
        really_lock(file, operation)

    really_lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.raises(RunError, match="Another process trains in"):
        train(short_run.config, records_dir, folder)


def test_where_all_checkpoints_are_damaged_it_is_said(
    trained_run, tiny_config, records_dir, tmp_path
):
    folder = shutil.copytree(trained_run.folder, tmp_path / "run")
    for step in (30, 40):
        halve(folder / "checkpoints" / f"ckpt-{step}.index")
    with pytest.raises(RunError) as caught:
        train(tiny_config, records_dir, folder)
    message = str(caught.value)
    assert str(folder / "checkpoints" / "ckpt-30") in message
    assert "damaged" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["", "model_checkpoint_path: ", "\x00" * 200])
def test_a_damaged_list_of_checkpoints_does_not_start_the_run_anew(
    trained_run, tiny_config, records_dir, tmp_path, content
):
    folder = shutil.copytree(trained_run.folder, tmp_path / "run")
    (folder / "checkpoints" / "checkpoint").write_text(content)
    with pytest.raises(RunError, match=r"checkpoints/checkpoint' is damaged"):
        train(tiny_config, records_dir, folder)


def test_a_slip_in_the_flags_does_not_occupy_the_folder(tiny_config, records_dir, tmp_path):
    folder = tmp_path / "run"
    for name, value in (
        ("model.name", "psnet"),
        ("model.backbone", "resnet19"),
        ("model.bins", [1, 1]),
        ("loss.ohem_threshold", 1.5),
    ):
        config = config_lib.override(tiny_config, name, value)
        with pytest.raises(config_lib.ConfigError, match="cannot be built") as caught:
            train(config, records_dir, folder)
        assert f"Received: {as_received(value)}" in str(caught.value)
        assert not folder.exists()


def as_received(value):
    return repr(tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.backbone", "resnet50", r"model\.backbone='resnet50' has no effect"),
        ("loss.ohem_threshold", 0.7, r"loss\.ohem_threshold=0\.7 has no effect"),
        ("optimizer.head_rate_factor", 10.0, r"head_rate_factor=10\.0 needs .* backbone"),
    ],
)
def test_what_has_no_effect_is_refused(records_dir, tmp_path, name, value, message):
    config = config_lib.override(config_lib.preset("article"), name, value)
    with pytest.raises(config_lib.ConfigError, match=message):
        train(config, records_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_records_of_nothing_but_void_are_refused(tiny_config, other_records, tmp_path):
    records = other_records(
        splits={
            name: dataclasses.replace(split, class_pixels=[0] * 19)
            for name, split in dataset_info.load_info(str(other_records())).splits.items()
        }
    )
    with pytest.raises(TrainingError, match="is void"):
        train(tiny_config, records, tmp_path / "run")


def test_a_batch_that_does_not_divide_is_refused(
    mirrored_strategy, tiny_config, records_dir, tmp_path
):
    config = config_lib.override(tiny_config, "batch_size", 3)
    with pytest.raises(TrainingError, match="Received: 3 for 2 replicas"):
        training.train(config, mirrored_strategy, str(records_dir), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_divide_a_replicas_share_are_refused(
    mirrored_strategy, tiny_config, records_dir, tmp_path
):
    changes = [("batch_size", 4), ("accumulation_steps", 4)]
    config = config_lib.override_all(tiny_config, changes)
    with pytest.raises(TrainingError, match=r"accumulation_steps=4 .* 4 examples for 2 replicas"):
        training.train(config, mirrored_strategy, str(records_dir), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_xla_on_two_replicas_is_refused(mirrored_strategy, tiny_config, records_dir, tmp_path):
    config = config_lib.override(tiny_config, "jit_compile", True)
    with pytest.raises(TrainingError, match=r"one replica only.*Received: 2 replicas"):
        training.train(config, mirrored_strategy, str(records_dir), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_missing_split_lists_those_there_are(tiny_config, records_dir, tmp_path):
    config = config_lib.override(tiny_config, "validation_split", "test")
    with pytest.raises(dataset_info.DatasetError, match="no split 'test'; there are: train, val"):
        train(config, records_dir, tmp_path / "run")


def test_a_model_dir_that_is_a_file_is_refused(tiny_config, records_dir, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="is a file"):
        train(tiny_config, records_dir, tmp_path / "run")


@pytest.fixture(scope="module")
def patient(tiny_config):
    """A configuration that learns nothing: only the statistics move, and the mIoU goes to and fro.

    It is evaluated after each step, and waits for two evaluations.
    """
    return config_lib.override_all(
        tiny_config,
        [("optimizer.learning_rate", 1e-20), ("steps", 24), ("evaluate_every", 1),
         ("early_stopping", 2), ("pictures", 0), ("batch_size", 4)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def stopped_run(patient, records_dir, tmp_path_factory):
    """A run that stopped early; not to be changed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    return types.SimpleNamespace(folder=folder, matrix=train(patient, records_dir, folder))


def latest_step(folder):
    return int(tf.train.latest_checkpoint(folder / "checkpoints").rpartition("-")[2])


def test_a_run_stops_after_so_many_evaluations_without_a_better_one(stopped_run, patient, scalars):
    mean_iou = scalars(stopped_run.folder / "validation", "mean_iou")
    del mean_iou[0]  # of the random network; it is not kept
    best = max(mean_iou, key=mean_iou.get)  # the first, where several are equal
    assert list(mean_iou) == list(range(1, best + 3))
    assert latest_step(stopped_run.folder) == best + 2 < patient.steps
    # Until then it never had to wait as long.
    for step in range(3, best + 2):
        earlier = max(value for s, value in mean_iou.items() if s <= step - 2)
        assert max(mean_iou[step - 1], mean_iou[step]) > earlier
    (kept,) = (stopped_run.folder / "best").glob("*.index")
    assert kept.stem == f"ckpt-{best}"


def test_a_run_that_stopped_early_repeated_trains_no_further(
    stopped_run, patient, records_dir, tmp_path, assert_same_state, capsys
):
    folder = shutil.copytree(stopped_run.folder, tmp_path / "run")
    matrix = train(patient, records_dir, folder)
    np.testing.assert_array_equal(matrix, stopped_run.matrix)
    assert_same_state(stopped_run.folder, folder)
    step = latest_step(folder)
    told = capsys.readouterr().err
    assert f"Going on from step {step}." in told
    assert f"No better validation mIoU since step {step - 2}: stopped early." in told
    assert told.count("validation mIoU 0.") == 1


def test_a_run_that_was_broken_off_stops_early_where_it_would_have(
    stopped_run, patient, records_dir, tmp_path, stop_at, assert_same_state, capsys
):
    folder = shutil.copytree(stopped_run.folder, tmp_path / "run")
    step = latest_step(folder)
    stop_at(folder, step - 1)
    train(patient, records_dir, folder)
    assert_same_state(stopped_run.folder, folder)
    told = capsys.readouterr().err
    assert f"Going on from step {step - 1}." in told
    assert f"No better validation mIoU since step {step - 2}: stopped early." in told


def test_a_run_that_ends_as_it_would_stop_has_not_stopped_early(
    stopped_run, patient, records_dir, tmp_path, capsys
):
    step = latest_step(stopped_run.folder)
    train(config_lib.override(patient, "steps", step), records_dir, tmp_path / "run")
    assert latest_step(tmp_path / "run") == step
    assert "stopped early" not in capsys.readouterr().err
