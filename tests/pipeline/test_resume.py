"""A job that ended early goes on where it was, and ends with the bytes of one that was not."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline import dataset_info, job, output_folder, records
from pipeline.dataset_info import INFO_FILE, DatasetError, load_info
from pipeline.job import JobOptions

ROOT = Path(__file__).parents[2]


def run(pairs_dir: Path, output_dir: Path, **options) -> dataset_info.DatasetInfo:
    return job.run(JobOptions(str(pairs_dir), str(output_dir), **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stamp(path: Path) -> tuple[int, int]:
    """Differs where a file was written again."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def staging_folders(output_dir: Path) -> list[Path]:
    return sorted(output_dir.parent.glob(f"{output_dir.name}.incomplete/" + "[0-9a-f]" * 16))


def finished(output_dir: Path) -> dict[str, tuple[int, int]]:
    """The stamps of the shards that are finished and not yet published."""
    found = {}
    for folder in staging_folders(output_dir):
        for summary in (folder / "work").glob("*.summary.json"):
            shard = folder / "records" / summary.name.removesuffix(".summary.json")
            with suppress(FileNotFoundError):  # they are published at this moment
                found[shard.name] = stamp(shard)
    return found


@contextmanager
def stopping_before_publication(monkeypatch) -> Iterator[None]:
    def fail(*arguments):
        raise OSError

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(output_folder, "_publish", fail)
        yield


class TestGoingOn:
    """In this process; the records are those of `records_dir`, four shards in all."""

    @pytest.fixture
    def unpublished(self, pairs_dir, tmp_path, monkeypatch) -> Path:
        """The output of a job that was stopped just before its last step."""
        with stopping_before_publication(monkeypatch):
            run(pairs_dir, tmp_path / "records", num_shards=2)
        assert len(finished(tmp_path / "records")) == 4
        return tmp_path / "records"

    def test_what_is_missing_is_written_and_nothing_else(
        self, pairs_dir, records_dir, tmp_path, monkeypatch, capsys
    ):
        calls = []

        def encode_some(record):
            calls.append(record.key)
            if len(calls) == 20:
                raise RuntimeError("stopped")
            return really_encode(record)

        really_encode = records.encode_record
        monkeypatch.setattr(records, "encode_record", encode_some)
        with pytest.raises(RuntimeError, match="stopped"):
            run(pairs_dir, tmp_path / "records", num_shards=2)
        before = finished(tmp_path / "records")
        assert 0 < len(before) < 4
        assert not (tmp_path / "records").exists()
        staging = staging_folders(tmp_path / "records")[0] / "records"
        assert (
            f"{len(before)} of 4 shards are finished and stay in {str(staging)!r}; the same "
            "command goes on with them.\n"
        ) in capsys.readouterr().err

        calls = [None] * 100
        info = run(pairs_dir, tmp_path / "records", num_shards=2)
        said = capsys.readouterr().err
        assert said == f"Going on with an earlier run: {len(before)} of 4 shards are there.\n"
        kept = [s for split in info.splits.values() for s in split.shards if s.file in before]
        assert len(calls) - 100 == 31 - sum(shard.num_records for shard in kept)
        assert {name: stamp(tmp_path / "records" / name) for name in before} == before
        assert contents(tmp_path / "records") == contents(records_dir)
        assert [path.name for path in tmp_path.iterdir()] == ["records"]

    def damage_nothing(self, shard: Path, summary: Path) -> None:
        pass

    def flip_a_bit(self, shard: Path, summary: Path) -> None:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)

    def lose_content(self, shard: Path, summary: Path) -> None:
        os.truncate(shard, 0)  # as a loss of power does after a rename

    def lose_shard(self, shard: Path, summary: Path) -> None:
        shard.unlink()

    def lose_summary(self, shard: Path, summary: Path) -> None:
        summary.unlink()

    def lose_content_of_summary(self, shard: Path, summary: Path) -> None:
        os.truncate(summary, 0)

    @pytest.mark.parametrize(
        "damage",
        [
            damage_nothing,
            flip_a_bit,
            lose_content,
            lose_shard,
            lose_summary,
            lose_content_of_summary,
        ],
    )
    def test_a_damaged_shard_is_written_again(self, pairs_dir, records_dir, unpublished, damage):
        before = finished(unpublished)
        (folder,) = staging_folders(unpublished)
        name = "pairs-train.tfrecord-00001-of-00002"
        damage(self, folder / "records" / name, folder / "work" / f"{name}.summary.json")
        run(pairs_dir, unpublished, num_shards=2)
        after = {shard: stamp(unpublished / shard) for shard in before}
        changed = {shard for shard in before if after[shard] != before[shard]}
        assert changed == (set() if damage is TestGoingOn.damage_nothing else {name})
        assert contents(unpublished) == contents(records_dir)

    def test_other_workers_and_another_limit_are_the_same_job(
        self, pairs_dir, records_dir, unpublished
    ):
        before = finished(unpublished)
        run(pairs_dir, unpublished, num_shards=2, num_workers=2, max_bad_fraction=0.5)
        assert {name: stamp(unpublished / name) for name in before} == before
        assert contents(unpublished) == contents(records_dir)

    @pytest.mark.parametrize(
        "options", [{"num_shards": 3}, {"name": "streets"}, {"image_side": "right"}]
    )
    def test_other_flags_are_another_job(self, pairs_dir, unpublished, capsys, options):
        (before,) = staging_folders(unpublished)
        capsys.readouterr()
        try:
            run(pairs_dir, unpublished, **{"num_shards": 2, **options})
        except job.JobError as error:  # with the photo on the right all are bad
            assert options == {"image_side": "right"}, error
        assert not before.exists()
        assert "Going on" not in capsys.readouterr().err

    @pytest.mark.parametrize("change", ["new time", "new content", "one more", "one less"])
    def test_another_input_is_another_job(self, pairs_dir, tmp_path, monkeypatch, capsys, change):
        copy = shutil.copytree(pairs_dir, tmp_path / "pairs", copy_function=shutil.copy2)

        def stop() -> Path:
            with stopping_before_publication(monkeypatch):
                run(copy, tmp_path / "records", num_shards=2)
            (folder,) = staging_folders(tmp_path / "records")
            return folder

        before = stop()
        assert stop() == before
        assert "Going on with an earlier run: 4 of 4" in capsys.readouterr().err
        image, other = copy / "train" / "1.jpg", copy / "train" / "2.jpg"
        if change == "new time":
            os.utime(image, (0, 0))
        elif change == "new content":
            times = image.stat()
            shutil.copyfile(other, image)
            os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
        elif change == "one more":
            shutil.copy2(image, copy / "train" / "100.jpg")
        else:
            image.unlink()
        assert stop() != before
        assert not before.exists()
        assert "Going on" not in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_written_must_equal_read(pairs_dir, tmp_path, run_command, workers):
    """A file system that loses what it has taken."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from apache_beam.io import localfilesystem\n"
        "rename = localfilesystem.LocalFileSystem.rename\n"
        "def lose(self, sources, destinations):\n"
        "    rename(self, sources, destinations)\n"
        "    if destinations[0].endswith('00001-of-00002'):\n"
        "        os.truncate(destinations[0], 1000)\n"
        "localfilesystem.LocalFileSystem.rename = lose\n"
    )
    done = run_command(
        "pipeline.preprocess",
        f"--input_dir={pairs_dir}",
        f"--output_dir={tmp_path / 'records'}",
        "--num_shards=2",
        f"--num_workers={workers}",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "error: What can be read is not what was written: " in done.stderr
    assert "tfrecord-00001-of-00002" in done.stderr
    assert not (tmp_path / "records").exists()


def num_finished(output_dir: Path) -> int:
    return len(finished(output_dir))


def time_of_description(output_dir: Path) -> int:
    """When the last files were begun, which are published a moment later."""
    for folder in (output_dir, *(folder / "records" for folder in staging_folders(output_dir))):
        with suppress(FileNotFoundError):
            return (folder / "features.json").stat().st_mtime_ns
    return 0


@dataclasses.dataclass
class Moment:
    """When to kill: so many seconds after `progress` has grown by so much."""

    progress: Callable[[Path], int]
    growth: int
    seconds: float


def random_moments(rng: random.Random, count: int) -> list[Moment]:
    """From the start to the publication, most of them in the midst of the work."""
    start = [Moment(num_finished, 0, rng.uniform(0, 3)) for _ in range(count // 5)]
    end = [Moment(time_of_description, 1, rng.uniform(0, 0.02)) for _ in range(count // 5)]
    work = [
        Moment(num_finished, rng.randint(1, 4), rng.uniform(0, 0.05))
        for _ in range(count - len(start) - len(end))
    ]
    return [*start, *work, *end]


def kill(command: list[str], output_dir: Path, moment: Moment, with_workers: bool) -> bool:
    """Starts the command and kills it; whether it still ran at that moment."""
    environment = {**os.environ, "TMPDIR": str(output_dir.parent.parent)}  # nobody tidies up
    aim = moment.progress(output_dir) + moment.growth
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment,
    )  # fmt: skip
    while process.poll() is None and moment.progress(output_dir) < aim:
        time.sleep(0.001)
    time.sleep(moment.seconds)
    if with_workers:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    _, errors = process.communicate(timeout=20)  # its workers must end too: they hold the pipe
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


@pytest.mark.slow
def test_killed_at_20_random_moments(many_pairs, tmp_path, run_command):
    """Nothing half done passes for whole, nothing finished is done again, the bytes are the same.

    The real command is killed with its workers, or alone.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    flags = [f"--input_dir={many_pairs}", "--num_shards=20", "--label_recovery=nearest"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    done = run_command("pipeline.preprocess", *flags, f"--output_dir={tmp_path / 'whole/records'}")
    assert done.returncode == 0, done.stderr
    whole = contents(tmp_path / "whole" / "records")
    output_dir = tmp_path / "killed" / "records"
    command = [sys.executable, "-m", "pipeline.preprocess", *flags, f"--output_dir={output_dir}"]

    before: dict[str, tuple[int, int]] = {}
    for moment in random_moments(rng, 20):
        workers, with_workers = rng.choice([1, 2]), rng.choice([True, False])
        arguments = [*command, f"--num_workers={workers}"]
        while not kill(arguments, output_dir, moment, with_workers):
            shutil.rmtree(output_dir)  # it was faster
            before = {}
        print(
            f"killed {'with' if with_workers else 'without'} its {workers} workers: "
            f"{len(finished(output_dir))} of 40 shards finished, "
            f"{'published' if output_dir.exists() else 'not published'}"
        )
        if output_dir.exists():
            assert contents(output_dir) == whole
            load_info(str(output_dir))
            shutil.rmtree(output_dir)
            before = {}
            continue
        with pytest.raises(DatasetError):
            load_info(str(output_dir))
        for folder in staging_folders(output_dir):
            if (folder / "records" / INFO_FILE).exists():
                load_info(str(folder / "records"))
        after = finished(output_dir)
        assert {name: after.get(name) for name in before} == before
        before = after

    done = run_command("pipeline.preprocess", *command[3:])
    assert done.returncode == 0, done.stderr
    assert contents(output_dir) == whole
    assert {name: stamp(output_dir / name) for name in before} == before
    assert os.listdir(output_dir.parent) == ["records"]
