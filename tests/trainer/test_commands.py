"""The commands as a user types them: from records to predictions, and every slip in a sentence."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from pipeline import dataset_info
from pipeline.input_fn import RecordReader, evaluation_dataset
from pipeline.palette import CITYSCAPES
from trainer import config as config_lib
from trainer.config import Config

ROOT = Path(__file__).parents[2]


def start(module, *args):
    """Starts a command without waiting for it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, args)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path, process, seconds=250):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def diverging_flags():
    return [
        "--preset=article", "--strategy=one", "--batch_size=1", "--steps=4", "--seed=3",
        "--learning_rate=1e30", "--set=data.crop_size=32", "--set=evaluate_every=1",
        "--set=pictures=0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def long_commands(trained_run, diverging_flags, records_dir, run_command, tmp_path_factory):
    """The commands that take long: begun together, to be waited for where they are needed.

    ``interrupted`` repeats `trained_run` by its config.json, killed on the way and run again.
    """
    root = tmp_path_factory.mktemp("commands")

    def interrupted():
        folder = root / "interrupted"
        command = [
            "trainer.task", "--strategy=mirrored", "--logical_cpus=2", f"--data_dir={records_dir}",
            f"--model_dir={folder}", f"--config={trained_run.folder / 'config.json'}",
        ]  # fmt: skip
        process = start(*command)
        wait_for(folder / "checkpoints" / "checkpoint", process)
        process.kill()
        process.communicate()
        steps = checkpoint_steps(folder)
        return types.SimpleNamespace(
            folder=folder,
            first_code=process.returncode,
            first_steps=steps,
            repeated=run_command(*command),
        )

    def diverging():
        folder = root / "diverging"
        flags = [*diverging_flags, f"--data_dir={records_dir}", f"--model_dir={folder}"]
        return types.SimpleNamespace(folder=folder, result=run_command("trainer.task", *flags))

    with ThreadPoolExecutor(2) as pool:
        yield types.SimpleNamespace(
            interrupted=pool.submit(interrupted), diverging=pool.submit(diverging)
        )


def checkpoint_steps(run):
    paths = (run / "checkpoints").glob("ckpt-*.index")
    return {int(path.stem.removeprefix("ckpt-")) for path in paths}


@pytest.mark.slow
def test_a_diverging_run_ends_in_a_sentence(long_commands):
    folder, result = vars(long_commands.diverging.result()).values()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    _, evaluating, *progress, error = result.stderr.splitlines()
    assert evaluating == "Evaluating 7 validation pictures first."
    assert all(line.startswith("step ") for line in progress)
    assert error.startswith("error: The loss is ")
    step = int(error.partition(" at step ")[2].partition(",")[0])
    assert 2 <= step <= 4
    assert "--learning_rate" in error and "optimizer.clip_norm" in error
    assert max(checkpoint_steps(folder)) == step - 1
    assert not (folder / "export").exists()


def test_flags_make_the_configuration(long_commands):
    folder = long_commands.diverging.result().folder
    config = Config.from_json((folder / "config.json").read_text(), "config.json")
    article = config_lib.preset("article")
    assert config.pictures == 0
    assert config_lib.differences(article, config) == [
        "seed: 0, 3", "steps: 3000, 4", "batch_size: 8, 1", "evaluate_every: 0, 1",
        "data.crop_size: 256, 32", "optimizer.learning_rate: 0.001, 1e+30",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folders(records_dir, tmp_path_factory):
    """Folders that a user may name by mistake, by the names that flags below give them."""
    root = tmp_path_factory.mktemp("mistakes")
    (root / "empty").mkdir()
    (root / "file").write_text("a file")
    (root / "broken.json").write_text("{")
    for name in ("without_metadata", "without_shard", "short_shard", "damaged_metadata"):
        shutil.copytree(records_dir, root / name)
    (root / "without_metadata" / dataset_info.INFO_FILE).unlink()
    (root / "damaged_metadata" / dataset_info.INFO_FILE).write_text("{}")
    shard = "pairs-train.tfrecord-00001-of-00002"
    (root / "without_shard" / shard).unlink()
    data = (root / "short_shard" / shard).read_bytes()
    (root / "short_shard" / shard).write_bytes(data[:-100])
    return {"records": records_dir, "root": root, "run": root / "run"}


def assert_one_sentence(result, code, *parts):
    assert result.stdout == ""
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 1000
    for part in parts:
        assert part in line


GOOD = "--data_dir={records} --model_dir={run} "


@pytest.mark.parametrize(
    ("flags", "code", "parts"),
    [
        ("", 1, ["--data_dir is missing"]),
        ("--data_dir={records}", 1, ["--model_dir is missing"]),
        (GOOD + "--bogus=1", 2, ["'bogus'"]),
        (GOOD + "stray", 2, ["'stray'"]),
        (GOOD + "--steps=abc", 2, ["--steps=abc"]),
        (GOOD + "--preset=psp", 2, ["--preset=psp", "pspnet_resnet18", "demo", "article"]),
        (GOOD + "--strategy=two", 2, ["--strategy=two", "one", "mirrored"]),
        (GOOD + "--logical_cpus=0", 2, ["--logical_cpus=0"]),
        (GOOD + "--set=steps", 1, ["'steps'", "name=value"]),
        (GOOD + "--set=stepz=5", 1, ["'stepz'", "optimizer.clip_norm"]),
        (GOOD + "--set=model=5", 1, ["'model'", "model.backbone"]),
        (GOOD + "--set=preset=demo", 1, ["--preset", "'demo'"]),
        (GOOD + "--set=model.dropout=high", 1, ["model.dropout='high'", "a number"]),
        (GOOD + "--set=data.crop_size=0", 1, ["data.crop_size=0"]),
        (GOOD + "--steps=0", 1, ["--steps", "steps=0"]),
        (GOOD + "--batch_size=-4", 1, ["--batch_size", "-4"]),
        (GOOD + "--seed=-1", 1, ["--seed", "-1"]),
        (GOOD + "--learning_rate=nan", 1, ["--learning_rate", "nan"]),
        (GOOD + "--steps=5 --epochs=2", 1, ["--steps and --epochs"]),
        (GOOD + "--set=steps=5 --epochs=2", 1, ["--steps and --epochs"]),
        (GOOD + "--profile=3", 1, ["--profile", "FIRST,LAST", "'3'"]),
        (GOOD + "--profile=3,a", 1, ["--profile", "FIRST,LAST", "'3,a'"]),
        (GOOD + "--profile=0,3", 1, ["--profile", "1 <= FIRST", "'0,3'"]),
        (GOOD + "--profile=4,3", 1, ["--profile", "FIRST <= LAST", "'4,3'"]),
        (GOOD + "--profile=4,6 --steps=5", 1, ["--profile", "LAST <= 5", "'4,6'"]),
        (GOOD + "--epochs=0", 1, ["--epochs", "0"]),
        (GOOD + "--epochs=nan", 1, ["--epochs", "nan"]),
        (GOOD + "--epochs=inf", 1, ["--epochs", "inf"]),
        (GOOD + "--config={root}/broken.json --preset=demo", 1, ["--config and --preset"]),
        (GOOD + "--config={root}/nowhere.json", 1, ["--config", "nowhere.json"]),
        (GOOD + "--config={root}/empty", 1, ["--config", "empty"]),
        (GOOD + "--config={root}/broken.json", 1, ["broken.json", "not JSON"]),
        (GOOD + "--set=train_split=test", 1, ["'test'", "train, val"]),
        (GOOD + "--set=validation_split=test", 1, ["'test'", "train, val"]),
        ("--model_dir={run} --data_dir={root}/nowhere", 1, ["no records folder", "nowhere"]),
        ("--model_dir={run} --data_dir={root}/file", 1, ["no records folder", "file"]),
        ("--model_dir={run} --data_dir={root}/empty", 1, ["empty", "records_info.json"]),
        ("--model_dir={run} --data_dir={root}/without_metadata", 1, ["records_info.json"]),
        ("--model_dir={run} --data_dir={root}/damaged_metadata", 1, ["is damaged"]),
        ("--model_dir={run} --data_dir={root}/without_shard", 1, ["00001-of-00002", "missing"]),
        ("--model_dir={run} --data_dir={root}/short_shard", 1, ["00001-of-00002", "bytes"]),
    ],
)
def test_a_slip_in_the_flags_of_training(folders, run_command, flags, code, parts):
    result = run_command("trainer.task", *flags.format(**folders).split())
    assert_one_sentence(result, code, *parts)
    assert not folders["run"].exists()


@pytest.mark.parametrize(
    ("module", "flags", "code", "parts"),
    [
        ("evaluate", "--data_dir={records}", 1, ["--model_dir is missing"]),
        ("evaluate", "--checkpoint=first", 2, ["--checkpoint=first", "best", "latest"]),
        ("evaluate", GOOD + "--batch_size=0", 2, ["--batch_size=0"]),
        ("evaluate", GOOD + "--scales=1,half", 1, ["--scales takes numbers", "Received: 1,half."]),
        ("evaluate", GOOD + "--scales=1,9", 1, ["--scales", "up to 4", "Received: 1.0,9.0."]),
        ("evaluate", GOOD + "--window=0", 2, ["--window=0"]),
        (
            "evaluate",
            GOOD + "--saved_model={run}/export/1",
            1,
            ["--model_dir and --saved_model", "give one of them"],
        ),
        ("evaluate", "--data_dir={records} --litert=x.tflite", 1, ["--output_dir is missing"]),
        (
            "evaluate",
            "--data_dir={records} --saved_model=x --checkpoint=latest",
            1,
            ["--model_dir, which is not given", "--checkpoint=latest"],
        ),
        ("export", "", 1, ["--model_dir is missing"]),
        ("export", "--format=litert --model_dir={run}", 1, ["--model_dir is for", "--saved_model"]),
        ("import_weights", GOOD, 1, ["--weights is missing"]),
        (
            "import_weights",
            GOOD + "--weights=x.pth --set=model.backbone_weights=imagenet",
            1,
            ["--weights and model.backbone_weights", "'imagenet'"],
        ),
        (
            "import_weights",
            GOOD + "--weights=x.pth --set=initial_model=run",
            1,
            ["--weights and initial_model", "'run'"],
        ),
        ("predict", "--saved_model={root}/empty --output_dir={run}", 1, ["--input is missing"]),
        ("predict", "--pairs=middle", 2, ["--pairs=middle", "left", "right"]),
    ],
)
def test_a_slip_in_other_flags(folders, run_command, module, flags, code, parts):
    result = run_command(f"trainer.{module}", *flags.format(**folders).split())
    assert_one_sentence(result, code, *parts)


def test_what_only_the_folders_show_is_a_sentence_too(folders, run_command):
    cases = [
        ("evaluate", "--model_dir={root}/empty --data_dir={records}", ["holds no run"]),
        ("export", "--model_dir={root}/nowhere", ["holds no run", "nowhere"]),
    ]

    def run(case):
        module, flags, _ = case
        return run_command(f"trainer.{module}", *flags.format(**folders).split())

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, cases))
    for (_, _, parts), result in zip(cases, results, strict=True):
        assert_one_sentence(result, 1, *parts)
    assert not folders["run"].exists()


@pytest.mark.parametrize(
    "module", ["task", "evaluate", "export", "import_weights", "predict", "summary", "sweep"]
)
def test_help_imports_no_tensorflow(module):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"trainer.{module}", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "absl.flags" in imported
    assert not imported & {"tensorflow", "keras", "apache_beam", "cv2", "matplotlib"}
    assert f"python -m trainer.{module} --" in result.stdout
    flags = {"predict": "--saved_model", "summary": "--size", "sweep": "--sweep_dir"}
    flag = flags.get(module, "--model_dir")
    assert flag in result.stdout
    chooses = module in ("task", "import_weights", "summary", "sweep")
    assert ("--preset" in result.stdout) == chooses


@pytest.mark.slow
def test_a_run_killed_and_repeated_by_its_config_is_the_run_without_a_break(
    trained_run, long_commands, assert_same_state
):
    run = long_commands.interrupted.result()
    assert run.repeated.returncode == 0, run.repeated.stderr
    assert run.first_code == -signal.SIGKILL
    assert max(run.first_steps) < 40  # killed on the way, not after the end
    assert checkpoint_steps(run.folder) == checkpoint_steps(trained_run.folder) == {30, 40}
    assert_same_state(trained_run.folder, run.folder)
    first, second = ((r.folder / "config.json").read_text() for r in (trained_run, run))
    assert first == second


def test_training_tells_how_it_goes(long_commands):
    run = long_commands.interrupted.result()
    devices, first, *progress = run.repeated.stderr.splitlines()
    assert devices == "Training on CPU:0, CPU:1."
    step = max(run.first_steps)
    assert first == f"Going on from step {step}."
    assert all(line.startswith("step ") for line in progress)
    told = [int(line.split()[1]) for line in progress if "validation mIoU" in line]
    assert told == list(range(step + 10, 41, 10))
    saved_model = Path(run.repeated.stdout.rpartition("SavedModel: ")[2].strip())
    assert saved_model.parent == run.folder / "export"
    assert (saved_model / "saved_model.pb").exists()
    assert f"tensorboard --logdir {run.folder}" in run.repeated.stdout


def test_tensorboard_shows_training(trained_run, tiny_config, events, scalars):
    found = events(trained_run.folder / "train")
    measured = {
        "loss", "gradient_norm", "images_per_second", "seconds/input_wait", "seconds/compute",
        "mebibytes/process",
    }  # fmt: skip
    gpus = tf.config.list_logical_devices("GPU")
    measured |= {f"mebibytes/gpu_{number}_peak" for number in range(len(gpus))}
    assert found.keys() == {"learning_rate"} | measured
    rates = scalars(trained_run.folder / "train", "learning_rate")
    assert {10, 20, 30, 40} <= rates.keys()
    for step, rate in rates.items():
        # The rate that the next step will have.
        growth = min(1, (step + 1) / tiny_config.optimizer.warmup_steps)
        expected = tiny_config.optimizer.learning_rate * growth * (1 - step / 40) ** 0.9
        assert rate == pytest.approx(expected, rel=1e-4, abs=1e-7)
    for tag in measured:
        assert all(
            0 < value < np.inf for value in scalars(trained_run.folder / "train", tag).values()
        )


def test_tensorboard_shows_validation(trained_run, events, records_dir):
    found = events(trained_run.folder / "validation")
    steps = {step for step, _ in found["mean_iou"]}
    assert steps == {0, 10, 20, 30, 40}
    for tag in ("pixel_accuracy", "confusion_matrix"):
        assert {step for step, _ in found[tag]} == steps
    assert {tag.partition("/")[2] for tag in found if tag.startswith("iou/")} <= set(
        CITYSCAPES.class_names
    )
    assert "iou/road" in found
    examples = sorted(tag for tag in found if tag.startswith("examples/"))
    first = evaluation_dataset(RecordReader(str(records_dir), "val"), global_batch_size=1)
    keys = next(iter(first))["key"].numpy()
    assert examples == [f"examples/{keys[0].decode()}"]
    assert {step for step, _ in found[examples[0]]} == steps
    _, value = found[examples[0]][-1]
    width, height, png = tf.make_ndarray(value.tensor)[:3]
    assert (int(width), int(height)) == (3 * 64 + 2 * 4, 64)
    assert tf.io.decode_png(png).shape == (64, 200, 3)
    worst = [found[tag] for tag in sorted(found) if tag.startswith("worst/")]
    assert len(worst) == 1  # As many as the configuration has pictures.
    assert [step for step, _ in worst[0]] == sorted(steps)
    _, value = worst[0][-1]
    assert tf.io.decode_png(tf.make_ndarray(value.tensor)[2]).shape == (64 + 16, 200, 3)
    text = tf.make_ndarray(found["config"][0][1].tensor).item().decode()
    assert (trained_run.folder / "config.json").read_text() in text
    assert "_hparams_/session_start_info" in found
    hparams = found["_hparams_/session_start_info"][0][1].metadata.plugin_data.content
    assert b"optimizer.learning_rate" in hparams


def test_tensorboard_has_a_chart_of_all_classes_and_a_table_of_runs(trained_run, events):
    found = events(trained_run.folder / "validation")
    ((_, value),) = found["custom_scalars__config__"]
    layout = layout_pb2.Layout.FromString(tf.make_ndarray(value.tensor).item())
    charts = {chart.title: chart.multiline.tag for part in layout.category for chart in part.chart}
    (tags,) = charts["IoU per class"]
    assert {tag for tag in found if re.fullmatch(tags, tag)} == {
        tag for tag in found if tag.startswith("iou/")
    }
    (tags,) = charts["Seconds a step"]
    assert [tag for tag in events(trained_run.folder / "train") if re.match(tags, tag)] == [
        "seconds/input_wait", "seconds/compute",
    ]  # fmt: skip

    ((_, value),) = found["_hparams_/experiment"]
    experiment = hparams_metadata.parse_experiment_plugin_data(value.metadata.plugin_data.content)
    ((_, value),) = found["_hparams_/session_start_info"]
    session = hparams_metadata.parse_session_start_info_plugin_data(
        value.metadata.plugin_data.content
    )
    assert {info.name for info in experiment.hparam_infos} == set(session.hparams)
    shown = [info.name for info in experiment.hparam_infos if info.differs]
    assert len(shown) == 5 and "optimizer.learning_rate" in shown
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["mean_iou", "pixel_accuracy"]
    assert set(metrics) <= found.keys()


def test_evaluate_export_and_predict(long_commands, records_dir, pairs_dir, run_command, tmp_path):
    trained = long_commands.interrupted.result()
    run = trained.folder
    shutil.rmtree(run / "export")
    with ThreadPoolExecutor(2) as pool:
        evaluated = pool.submit(
            run_command, "trainer.evaluate", f"--data_dir={records_dir}", f"--model_dir={run}",
            "--split=val", "--checkpoint=latest", "--batch_size=3",
        ).result  # fmt: skip
        exported = pool.submit(
            run_command, "trainer.export", f"--model_dir={run}", "--checkpoint=latest"
        ).result
        evaluated, exported = evaluated(), exported()
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    figures = json.loads((run / "evaluation-val.json").read_text())
    assert (figures["step"], figures["checkpoint"]) == (40, "latest")
    matrix = np.array(figures["confusion_matrix"])
    info = dataset_info.load_info(str(records_dir))
    np.testing.assert_array_equal(matrix.sum(axis=1), info.splits["val"].class_pixels)
    assert figures["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert f"Pixel accuracy {figures['pixel_accuracy']:.3f}." in evaluated.stdout
    # The last validation of training, on two replicas, said the same.
    last = trained.repeated.stderr.rstrip().splitlines()[-1]
    assert last.startswith("step 40 of 40:")
    assert f"mIoU {figures['mean_iou']:.3f}" in last
    assert figures["inference"] == {
        "scales": [1.0], "flip": False, "window": None, "overlap": 1 / 3,
    }  # fmt: skip
    assert sorted(path.name for path in run.iterdir() if path.is_file()) == [
        "config.json", "evaluation-val.json", "evaluation-val.png", "records_info.json",
    ]  # fmt: skip

    assert (exported.returncode, exported.stderr) == (0, "")
    assert exported.stdout == f"SavedModel: {run / 'export' / '40'}\n"

    version, how = run / "export" / "40", ["--scales=0.75,1", "--flip", "--window=48"]
    with ThreadPoolExecutor(2) as pool:
        predicted = pool.submit(
            run_command, "trainer.predict", f"--saved_model={version}", "--pairs=left",
            f"--input={pairs_dir / 'val'}", f"--output_dir={tmp_path / 'predictions'}",
            "--limit=3", *how,
        ).result  # fmt: skip
        evaluated = pool.submit(
            run_command, "trainer.evaluate", f"--data_dir={records_dir}",
            f"--saved_model={version}", f"--output_dir={tmp_path / 'figures'}", *how,
        ).result  # fmt: skip
        predicted, evaluated = predicted(), evaluated()
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    path = tmp_path / "figures" / "evaluation-val"
    assert evaluated.stdout.endswith(f"{version}. Figures: {path}.json, {path}.png\n")
    otherwise = json.loads(path.with_suffix(".json").read_text())
    assert otherwise["file"] == str(version)
    assert otherwise["inference"] == {
        "scales": [0.75, 1.0], "flip": True, "window": 48, "overlap": 1 / 3,
    }  # fmt: skip
    matrix = np.array(otherwise["confusion_matrix"])
    np.testing.assert_array_equal(matrix.sum(axis=1), info.splits["val"].class_pixels)
    assert otherwise["mean_iou"] != figures["mean_iou"]
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert "3 photos labelled" in predicted.stdout
    for index in (1, 2, 3):
        ids = cv2.imread(str(tmp_path / "predictions" / f"{index}_ids.png"), cv2.IMREAD_UNCHANGED)
        assert ids.shape == (64, 64)
        assert ids.max() < 19


@pytest.mark.slow
def test_a_run_from_a_saved_model_that_stops_early(
    averaged_run, records_dir, run_command, tmp_path
):
    (version,) = (averaged_run / "export").iterdir()
    command = [
        "trainer.task", f"--config={averaged_run / 'config.json'}", f"--initial_model={version}",
        "--strategy=one", f"--data_dir={records_dir}", f"--model_dir={tmp_path / 'run'}",
        "--steps=30", "--learning_rate=1e-20", "--set=evaluate_every=1", "--set=early_stopping=2",
        "--set=model.freeze_batch_norm=true",
    ]  # fmt: skip
    first = run_command(*command)
    assert first.returncode == 0, first.stderr
    assert f"variables set from {version}." in first.stderr
    assert "3 layers stay random, as the initial model lacks them: auxiliary_conv" in first.stderr
    *_, last, stopped = first.stderr.splitlines()
    step = max(checkpoint_steps(tmp_path / "run"))
    assert step < 30
    assert last.startswith(f"step {step} of 30: ")
    assert stopped == f"No better validation mIoU since step {step - 2}: stopped early."
    assert first.stdout.endswith(f"SavedModel: {tmp_path / 'run' / 'export' / str(step - 2)}\n")

    again = run_command(*command)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "variables set from" not in again.stderr
    assert again.stderr.splitlines()[-2:] == [stopped, last]
    assert max(checkpoint_steps(tmp_path / "run")) == step
