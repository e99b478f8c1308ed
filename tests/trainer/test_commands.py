"""The commands as a user types them: from records to predictions, and every slip in a sentence."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline import dataset_info
from pipeline.palette import CITYSCAPES
from trainer import config as config_lib
from trainer.config import Config

ROOT = Path(__file__).parents[2]
SMALL = [
    "--steps=24", "--batch_size=4", "--learning_rate=0.05", "--seed=3",
    "--set=evaluate_every=4", "--set=pictures=2", "--set=data.crop_size=32",
    "--set=model.output_stride=16", "--set=model.width_multiplier=0.125",
    "--set=model.head_channels=8", "--set=model.bins=[1,2]", "--set=optimizer.name=sgd",
    "--set=optimizer.weight_decay=0", "--set=optimizer.warmup_steps=2",
]  # fmt: skip


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


def task_flags(records_dir, model_dir):
    return [
        "--strategy=mirrored", "--logical_cpus=2", f"--data_dir={records_dir}",
        f"--model_dir={model_dir}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(records_dir, run_command, tmp_path_factory):
    """A run on two replicas by flags; and the same by its config.json, killed and repeated."""
    whole, broken = (tmp_path_factory.mktemp("runs") / name for name in ("whole", "broken"))
    by_flags = start("trainer.task", *task_flags(records_dir, whole), "--preset=demo", *SMALL)
    wait_for(whole / "config.json", by_flags)
    by_config = [*task_flags(records_dir, broken), f"--config={whole / 'config.json'}"]
    killed = start("trainer.task", *by_config)
    wait_for(broken / "checkpoints" / "checkpoint", killed)
    killed.kill()
    killed.communicate()
    steps_when_killed = checkpoint_steps(broken)
    stdout, stderr = by_flags.communicate(timeout=300)
    assert by_flags.returncode == 0, stderr
    repeated = run_command("trainer.task", *by_config)
    assert repeated.returncode == 0, repeated.stderr
    return {
        "whole": whole, "broken": broken, "stdout": stdout, "stderr": stderr,
        "killed": killed.returncode, "steps_when_killed": steps_when_killed, "repeated": repeated,
    }  # fmt: skip


def checkpoint_steps(run):
    paths = (run / "checkpoints").glob("ckpt-*.index")
    return {int(path.stem.removeprefix("ckpt-")) for path in paths}


def test_flags_make_the_configuration(runs):
    config = Config.from_json((runs["whole"] / "config.json").read_text(), "config.json")
    demo = config_lib.preset("demo")
    changed = {line.partition(":")[0] for line in config_lib.differences(demo, config)}
    assert changed == {
        "steps", "batch_size", "seed", "evaluate_every", "pictures", "data.crop_size",
        "model.output_stride", "model.width_multiplier", "model.head_channels", "model.bins",
        "optimizer.name", "optimizer.learning_rate", "optimizer.weight_decay",
        "optimizer.warmup_steps",
    }  # fmt: skip
    assert (config.steps, config.batch_size, config.seed) == (24, 4, 3)
    assert config.model.bins == (1, 2)
    assert config.model.dropout > 0


def test_a_run_killed_and_repeated_by_its_config_is_the_run_without_a_break(
    runs, assert_same_state
):
    assert runs["killed"] == -signal.SIGKILL
    assert max(runs["steps_when_killed"]) < 24  # killed on the way, not after the end
    assert "Going on from step " in runs["repeated"].stderr
    assert "Going on" not in runs["stderr"]
    assert checkpoint_steps(runs["broken"]) == checkpoint_steps(runs["whole"]) == {20, 24}
    assert_same_state(runs["whole"], runs["broken"])
    config_of = {name: (runs[name] / "config.json").read_text() for name in ("whole", "broken")}
    assert config_of["whole"] == config_of["broken"]


def test_training_tells_how_it_goes(runs):
    progress = [line for line in runs["stderr"].splitlines() if "validation mIoU" in line]
    assert [int(line.split()[1]) for line in progress] == [0, 4, 8, 12, 16, 20, 24]
    others = [line for line in runs["stderr"].splitlines() if not line.startswith("step ")]
    assert others == []
    saved_model = runs["stdout"].rpartition("SavedModel: ")[2].strip()
    assert (Path(saved_model) / "saved_model.pb").exists()
    assert f"tensorboard --logdir {runs['whole']}" in runs["stdout"]


def test_tensorboard_shows_training(runs, events, scalars):
    found = events(runs["whole"] / "train")
    assert found.keys() == {"loss", "learning_rate", "gradient_norm", "images_per_second"}
    config = Config.from_json((runs["whole"] / "config.json").read_text(), "config.json")
    rates = scalars(runs["whole"] / "train", "learning_rate")
    assert {4, 8, 12, 16, 20, 24} <= rates.keys()
    for step, rate in rates.items():
        # The rate that the next step will have.
        growth = min(1, (step + 1) / config.optimizer.warmup_steps)
        expected = config.optimizer.learning_rate * growth * (1 - step / 24) ** 0.9
        assert rate == pytest.approx(expected, rel=1e-4, abs=1e-7)
    for tag in ("loss", "gradient_norm", "images_per_second"):
        assert all(0 < value < np.inf for value in scalars(runs["whole"] / "train", tag).values())


def test_tensorboard_shows_validation(runs, events, records_dir, scalars):
    found = events(runs["whole"] / "validation")
    steps = {step for step, _ in found["mean_iou"]}
    assert steps == {0, 4, 8, 12, 16, 20, 24}
    for tag in ("pixel_accuracy", "confusion_matrix"):
        assert {step for step, _ in found[tag]} == steps
    assert {tag.partition("/")[2] for tag in found if tag.startswith("iou/")} <= set(
        CITYSCAPES.class_names
    )
    assert "iou/road" in found
    examples = sorted(tag for tag in found if tag.startswith("examples/"))
    assert examples == ["examples/1.jpg", "examples/2.jpg"]
    _, value = found["examples/1.jpg"][-1]
    width, height, png = tf.make_ndarray(value.tensor)[:3]
    assert (int(width), int(height)) == (3 * 64 + 2 * 4, 64)
    assert tf.io.decode_png(png).shape == (64, 200, 3)
    text = tf.make_ndarray(found["config"][0][1].tensor).item().decode()
    assert (runs["whole"] / "config.json").read_text() in text
    assert "_hparams_/session_start_info" in found
    hparams = found["_hparams_/session_start_info"][0][1].metadata.plugin_data.content
    assert b"optimizer.learning_rate" in hparams


def test_evaluate_export_and_predict(runs, records_dir, pairs_dir, run_command, tmp_path):
    run = shutil.copytree(runs["whole"], tmp_path / "run", ignore=shutil.ignore_patterns("export"))
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
    assert (figures["step"], figures["checkpoint"]) == (24, "latest")
    matrix = np.array(figures["confusion_matrix"])
    info = dataset_info.load_info(str(records_dir))
    np.testing.assert_array_equal(matrix.sum(axis=1), info.splits["val"].class_pixels)
    assert figures["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert f"Pixel accuracy {figures['pixel_accuracy']:.3f}." in evaluated.stdout
    # The last validation of training, on two replicas, said the same.
    last = runs["stderr"].rstrip().splitlines()[-1]
    assert last.startswith("step 24 of 24:")
    assert f"mIoU {figures['mean_iou']:.3f}" in last
    assert sorted(path.name for path in run.glob("*.json*")) == [
        "config.json", "evaluation-val.json", "records_info.json",
    ]  # fmt: skip

    assert (exported.returncode, exported.stderr) == (0, "")
    assert exported.stdout == f"SavedModel: {run / 'export' / '24'}\n"

    predicted = run_command(
        "trainer.predict", f"--saved_model={run / 'export' / '24'}", "--pairs=left",
        f"--input={pairs_dir / 'val'}", f"--output_dir={tmp_path / 'predictions'}", "--limit=3",
    )  # fmt: skip
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert "3 photos labelled" in predicted.stdout
    for index in (1, 2, 3):
        ids = cv2.imread(str(tmp_path / "predictions" / f"{index}_ids.png"), cv2.IMREAD_UNCHANGED)
        assert ids.shape == (64, 64)
        assert ids.max() < 19


def test_the_article_trains_and_a_diverging_run_ends_in_a_sentence(
    records_dir, run_command, tmp_path
):
    flags = [
        "--preset=article", "--strategy=one", "--batch_size=1", "--set=data.crop_size=32",
        "--set=pictures=0", f"--data_dir={records_dir}",
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        fine = pool.submit(
            run_command, "trainer.task", *flags, "--steps=1", f"--model_dir={tmp_path / 'fine'}"
        ).result
        diverging = pool.submit(
            run_command, "trainer.task", *flags, "--steps=4", "--set=evaluate_every=1",
            "--learning_rate=1e30", f"--model_dir={tmp_path / 'diverging'}",
        ).result  # fmt: skip
        fine, diverging = fine(), diverging()
    assert fine.returncode == 0, fine.stderr
    assert (tmp_path / "fine" / "export" / "1" / "saved_model.pb").exists()

    assert diverging.returncode == 1
    assert "Traceback" not in diverging.stderr
    *progress, error = diverging.stderr.splitlines()
    assert all(line.startswith("step ") for line in progress)
    assert error.startswith("error: The loss is ")
    step = int(error.partition(" at step ")[2].partition(".")[0])
    assert 2 <= step <= 4
    assert "--learning_rate" in error and "optimizer.clip_norm" in error
    assert max(checkpoint_steps(tmp_path / "diverging")) == step - 1
    assert not (tmp_path / "diverging" / "export").exists()


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
        (GOOD + "--set=model=5", 1, ["'model'", "model.depth"]),
        (GOOD + "--set=model.dropout=high", 1, ["model.dropout='high'", "a number"]),
        (GOOD + "--set=data.crop_size=0", 1, ["data.crop_size=0"]),
        (GOOD + "--steps=0", 1, ["--steps", "steps=0"]),
        (GOOD + "--batch_size=-4", 1, ["--batch_size", "-4"]),
        (GOOD + "--seed=-1", 1, ["--seed", "-1"]),
        (GOOD + "--learning_rate=nan", 1, ["--learning_rate", "nan"]),
        (GOOD + "--steps=5 --epochs=2", 1, ["--steps and --epochs"]),
        (GOOD + "--epochs=0", 1, ["--epochs", "0"]),
        (GOOD + "--epochs=nan", 1, ["--epochs", "nan"]),
        (GOOD + "--epochs=inf", 1, ["--epochs", "inf"]),
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
        ("export", "", 1, ["--model_dir is missing"]),
        ("predict", "--saved_model={root}/empty --output_dir={run}", 1, ["--input is missing"]),
        ("predict", "--pairs=middle", 2, ["--pairs=middle", "left", "right"]),
    ],
)
def test_a_slip_in_other_flags(folders, run_command, module, flags, code, parts):
    result = run_command(f"trainer.{module}", *flags.format(**folders).split())
    assert_one_sentence(result, code, *parts)


def test_what_only_the_folders_show_is_a_sentence_too(folders, run_command, tmp_path):
    cases = [
        ("task", "--model_dir={root}/file --data_dir={records} --steps=1", ["is a file"]),
        ("task", GOOD + "--logical_cpus=2 --batch_size=3", ["3 for 2 replicas"]),
        ("evaluate", "--model_dir={root}/empty --data_dir={records}", ["holds no run"]),
        ("evaluate", "--model_dir={run} --data_dir={root}/without_shard", ["00001-of-00002"]),
        ("export", "--model_dir={root}/nowhere", ["holds no run", "nowhere"]),
        (
            "predict",
            "--saved_model={root}/empty --input={root} --output_dir={run}",
            ["holds no photos"],
        ),
    ]

    def run(case):
        module, flags, _ = case
        return run_command(f"trainer.{module}", *flags.format(**folders).split())

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, cases))
    for (_, _, parts), result in zip(cases, results, strict=True):
        assert_one_sentence(result, 1, *parts)
    assert not folders["run"].exists()


@pytest.mark.parametrize("module", ["task", "evaluate", "export", "predict"])
def test_help_is_quick_and_imports_no_tensorflow(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"trainer.{module}", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "absl.flags" in imported
    assert not imported & {"tensorflow", "keras", "apache_beam", "cv2", "matplotlib"}
    assert f"python -m trainer.{module} --" in result.stdout
    flag = "--saved_model" if module == "predict" else "--model_dir"
    assert flag in result.stdout
