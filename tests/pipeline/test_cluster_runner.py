"""What is told of a cluster that cannot be had; `test_flink` has a real one."""

import sys

import pytest

from pipeline import job
from pipeline.cluster_runner import ClusterError

FLINK = ["--runner=FlinkRunner", f"--job_server_java_launcher={sys.executable}"]
PROCESS = ["--runner=PortableRunner", "--environment_type=PROCESS", "--job_endpoint=localhost:1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--runner=FlinkRunner", "--job_server_java_launcher=no-java"], "There is no 'no-java'"),
        ([*FLINK, "--flink_job_server_jar=/nowhere.jar"], "'/nowhere.jar' is no jar"),
        ([*FLINK, f"--flink_job_server_jar={__file__}"], r"test_cluster_runner.py' is no jar"),
        (
            ["--runner=SparkRunner", *FLINK[1:], "--spark_job_server_jar=/nowhere.jar"],
            "--spark_job_server_jar '/nowhere.jar' is no jar",
        ),
        ([*FLINK, "--flink_master=localhost:1"], "no Flink at --flink_master=http://localhost:1 "),
        ([*FLINK, "--flink_master=https://localhost:1"], "--flink_master=https://localhost:1 "),
        ([*FLINK, "--flink_master=localhost:rest"], "--flink_master=http://localhost:rest "),
        ([*FLINK, "--flink_master=ftp://localhost"], "--flink_master=ftp://localhost "),
        ([*PROCESS, "--environment_config=worker"], "--environment_config takes JSON"),
    ],
)
def test_what_is_missing_is_named(pairs_dir, tmp_path, arguments, sentence):
    with pytest.raises(ClusterError, match=sentence):
        job.run(job.JobOptions(str(pairs_dir), str(tmp_path / "records")), arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_says_it_in_one_line(pairs_dir, tmp_path, run_command):
    flags = [f"--input_dir={pairs_dir}", f"--output_dir={tmp_path / 'records'}"]
    flags += ["--runner=FlinkRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1"]
    done = run_command("pipeline.preprocess", *flags)
    assert done.returncode == 1
    assert done.stderr == "error: There is no answer from --job_endpoint=localhost:1.\n"
    assert not list(tmp_path.iterdir())
