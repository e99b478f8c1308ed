"""The prediction job on a real Apache Flink with two task managers (``make test-flink``)."""

import json
import re
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.flink

SIZES = [(height, width) for height in (40, 48, 56, 64) for width in (40, 52, 64)]
"""Photos of one size are labelled together: enough sizes for both task managers."""


@pytest.fixture
def photos(pairs_dir, tmp_path) -> Path:
    """Two good photos of each size, and three bad ones."""
    folder = tmp_path / "photos"
    for number in (1, 2):
        (folder / str(number)).mkdir(parents=True)
        scene = cv2.imread(str(pairs_dir / "val" / f"{number}.jpg"))
        for height, width in SIZES:
            path = folder / str(number) / f"{width}x{height}.jpg"
            cv2.imwrite(str(path), scene[:height, :width])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is text")
    data = (folder / "1" / "64x64.jpg").read_bytes()
    (folder / "2" / "half.jpg").write_bytes(data[: len(data) // 2])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_both_task_managers_write_the_same_bytes_as_one_machine(
    flink_cluster, trained_run, photos, tmp_path, run_command
):
    def predict(output_dir: Path, *flags: str) -> tuple[str, str]:
        """Standard output and, but for the progress in it, standard error."""
        given = [f"--saved_model={trained_run.saved_model}", f"--input_pattern={photos}/**"]
        given += [f"--output_dir={output_dir}", "--overlays", *flags]
        done = run_command("pipeline.predict", *given)
        assert done.returncode == 0, done.stderr
        return done.stdout, re.sub(r"(?m)^\d+ of 27 photos\n", "", done.stderr)

    output, errors = predict(tmp_path / "flink", *flink_cluster.beam_flags)
    assert errors == ""
    assert output.startswith("24 photos labelled in ")
    assert f"3 could not be: {tmp_path}/flink/bad_photos.jsonl\n" in output

    job = flink_cluster.last_job()
    assert job["state"] == "FINISHED"
    parts = flink_cluster.records_read(job, "WriteLabels")
    assert parts.keys() == flink_cluster.task_managers()
    assert all(count > 0 for count in parts.values())
    assert sum(parts.values()) == len(SIZES) + 1  # and what has no size

    predict(tmp_path / "local")
    files = contents(tmp_path / "local")
    assert contents(tmp_path / "flink") == files
    assert len(files) == 2 * 24 + 3
    shares = [json.loads(line)["class_shares"] for line in files["manifest.jsonl"].splitlines()]
    assert len(set().union(*shares)) > 2
    bad = [json.loads(line)["photo"] for line in files["bad_photos.jsonl"].splitlines()]
    assert bad == ["2/half.jpg", "empty.png", "text.jpg"]
