"""Sweeps as a user types them: real runs, ranked, that go on after a stop and past a failure."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing import plugin_event_multiplexer as multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)

from pipeline.palette import CITYSCAPES
from trainer import config as config_lib
from trainer import curves, summaries

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def flags(tiny_config, records_dir, tmp_path_factory):
    """Of a sweep of small runs."""
    config = config_lib.override_all(
        tiny_config, [("steps", 8), ("evaluate_every", 4), ("pictures", 0)]
    )
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(config.to_json())
    return [f"--data_dir={records_dir}", f"--config={path}", "--strategy=one"]


def hparams(folder):
    """What TensorBoard's HParams shows of a folder: the experiment, and its session groups."""
    plexer = multiplexer.EventMultiplexer()
    plexer.AddRunsFromDirectory(str(folder))
    plexer.Reload()
    provider = data_provider.MultiplexerDataProvider(plexer, str(folder))
    context = backend_context.Context(TBContext(data_provider=provider))
    request_context, experiment_id = RequestContext(), ""
    metadata = context.hparams_metadata(request_context, experiment_id)
    experiment = get_experiment.Handler(
        request_context, context, experiment_id, api_pb2.GetExperimentRequest()
    ).run()
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[
            api_pb2.STATUS_UNKNOWN,
            api_pb2.STATUS_SUCCESS,
            api_pb2.STATUS_FAILURE,
            api_pb2.STATUS_RUNNING,
        ],
    )
    assert metadata
    groups = list_session_groups.Handler(request_context, context, experiment_id, request).run()
    return experiment, list(groups.session_groups)


def test_hparams_shows_the_values_that_differ_and_the_miou(tiny_config, tmp_path):
    rates = [0.01, 0.1]
    summaries.describe_sweep(
        str(tmp_path), {"optimizer.learning_rate": rates, "model.bins": [(1, 2), (1, 2)]}
    )
    for right, rate in enumerate(rates, start=1):
        config = config_lib.override(tiny_config, "optimizer.learning_rate", rate)
        run = summaries.Summaries(str(tmp_path / f"{rate}"), config, CITYSCAPES)
        run.training(2, {"loss": 1.0})
        for step in (0, 2):
            matrix = np.eye(19, dtype=np.int64) * right * step + np.roll(
                np.eye(19, dtype=int), 1, 1
            )
            run.validation(step, matrix, examples=[], worst=[])
    experiment, groups = hparams(tmp_path)
    infos = {info.name: info for info in experiment.hparam_infos}
    assert infos.keys() == {"optimizer.learning_rate", "model.bins"}
    assert infos["optimizer.learning_rate"].domain_interval.max_value == 0.1
    assert [metric.name.tag for metric in experiment.metric_infos] == ["mean_iou"]
    found = {}
    for group in groups:
        (session,) = group.sessions
        (metric,) = session.metric_values
        rate = group.hparams["optimizer.learning_rate"].number_value
        assert session.name == f"{rate}/validation"
        assert group.hparams["model.bins"].string_value == "(1, 2)"
        found[rate] = (metric.training_step, round(metric.value, 4))
    assert found == {0.01: (2, 0.5), 0.1: (2, round(4 / 6, 4))}


@pytest.mark.slow
def test_a_sweep_ranks_its_runs_and_goes_on_past_one_that_fails(flags, run_command, tmp_path):
    folder = tmp_path / "sweep"
    command = ["trainer.sweep", *flags, f"--sweep_dir={folder}"]
    grid = ["--grid=optimizer.learning_rate=1e30,0.1,0.01", "--set=log_every=2"]
    done = run_command(*command, *grid)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 1 of 3 runs failed;")
    names = [f"{n:03d}-learning_rate={rate}" for n, rate in enumerate(["1e+30", 0.1, 0.01], 1)]
    text = (folder / "sweep.txt").read_text()
    assert done.stdout.endswith(text)
    header, *rows, error = text.splitlines()
    assert header.split() == [
        "run", "best", "mIoU", "step", "last", "minutes", "state", "learning_rate",
    ]  # fmt: skip
    assert error.startswith(f"{names[0]}: The loss is ")
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert {run: (cell[4], float(cell[5])) for run, cell in cells.items()} == {
        "001": ("failed", 1e30), "002": ("done", 0.1), "003": ("done", 0.01),
    }  # fmt: skip
    assert [float(row.split()[1]) for row in rows] == sorted(
        (float(row.split()[1]) for row in rows), reverse=True
    )
    for name in names[1:]:
        points = curves.read(str(folder / name), "validation", "mean_iou")
        best = max(points, key=lambda point: point.value)
        row = cells[name[:3]]
        assert row[:3] == [f"{best.value:.3f}", str(best.step), f"{points[-1].value:.3f}"]
        assert (folder / name / "export" / str(best.step) / "saved_model.pb").exists()
    experiment, groups = hparams(folder)
    assert [info.name for info in experiment.hparam_infos] == ["optimizer.learning_rate"]
    assert {group.hparams["optimizer.learning_rate"].number_value for group in groups} == {
        1e30, 0.1, 0.01,
    }  # fmt: skip

    # What is finished is not touched again, and another sweep is refused.
    before = {name: (folder / name / "trial.json").stat().st_mtime_ns for name in names}
    done = run_command(*command, *grid)
    assert done.returncode == 1
    after = {name: (folder / name / "trial.json").stat().st_mtime_ns for name in names}
    assert [name for name in names if after[name] != before[name]] == names[:1]
    for other, said in (
        (["--grid=optimizer.learning_rate=0.1,0.2"], "the values tried"),
        ([*grid, "--steps=9"], "steps: 8, 9"),
    ):
        done = run_command(*command, *other)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert "holds another sweep" in line and said in line


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_sweep_that_is_stopped_saves_its_run_and_goes_on(flags, number, code, tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-m", "trainer.sweep", *flags, f"--sweep_dir={folder}"]
    command += ["--grid=optimizer.learning_rate=0.1", "--steps=400", "--set=evaluate_every=200"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = []
        for line in process.stderr:
            said.append(line.strip())
            if line.startswith("step 0 of 400"):
                time.sleep(5)
                process.send_signal(number)
    assert process.returncode == code, said
    assert "Traceback" not in "\n".join(said)
    run, sweep = said[-2:]
    assert run.startswith(f"Stopped by {number.name}; step ")
    assert sweep == f"Sweep stopped by {number.name}. The same command goes on from there."
    (trial,) = folder.glob("*/trial.json")
    outcome = json.loads(trial.read_text())
    assert (outcome["finished"], outcome["error"]) == (False, "")
    assert "begun" in (folder / "sweep.txt").read_text()
    step = run.partition("; step ")[2].partition(" ")[0]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Going on from step {step}." in done.stderr
    assert json.loads(trial.read_text())["minutes"] > outcome["minutes"]


GOOD = "--data_dir={records} --sweep_dir={sweep} "


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--sweep_dir={sweep}", ["--data_dir is missing"]),
        ("--data_dir={records}", ["--sweep_dir is missing"]),
        (GOOD, ["nothing to try", "--grid"]),
        (GOOD + "--grid=seed", ["--grid takes", "'seed'"]),
        (GOOD + "--grid=seedz=1,2", ["--grid", "'seedz'"]),
        (GOOD + "--grid=seed=1,-2", ["seed=-2"]),
        (GOOD + "--grid=seed=1,2 --grid=seed=3", ["'seed'", "twice"]),
        (GOOD + "--range=seed=1:2", ["--range needs --random"]),
        (GOOD + "--random=2 --range=seed=2:1", ["--range takes", "'seed=2:1'"]),
        (GOOD + "--random=2 --range=seed=1:2 --grid=seed=1", ["--grid and --range", "'seed'"]),
        ("--data_dir={sweep} --sweep_dir={sweep} --grid=seed=1,2", ["no records folder"]),
        ("--data_dir={records} --sweep_dir={records} --grid=seed=1,2", ["is not empty"]),
    ],
)
def test_a_slip_is_told_in_a_sentence(records_dir, run_command, tmp_path, flags, parts):
    text = flags.format(records=records_dir, sweep=tmp_path / "sweep")
    done = run_command("trainer.sweep", *text.split())
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert not (tmp_path / "sweep").exists()
