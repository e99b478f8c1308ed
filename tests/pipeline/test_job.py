"""The preprocessing job as it is really run: in this process, in worker processes, killed."""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from pipeline import dataset_info, job, records, synthesize
from pipeline.dataset_info import load_info
from pipeline.errors import UserError
from pipeline.job import JobOptions
from pipeline.local_runner import WorkerDied
from pipeline.pair_reader import Pair, PairReader
from pipeline.palette import CITYSCAPES

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(pairs_dir: Path, output_dir: Path, **options) -> dataset_info.DatasetInfo:
    return job.run(JobOptions(str(pairs_dir), str(output_dir), **options))


def read_all(folder: Path, split: str) -> dict[str, list[records.Record]]:
    """The records of each shard of a split, by TensorFlow's own reader."""
    return {
        shard.file: [
            records.Record(p["key"].numpy().decode(), p["image"].numpy(), p["label"].numpy())
            for p in map(records.parse_record, tf.data.TFRecordDataset(str(folder / shard.file)))
        ]
        for shard in load_info(str(folder)).splits[split].shards
    }


def pair_of(path: Path) -> Pair:
    """What is in a pair, before the photo is stored as JPEG."""
    return PairReader(CITYSCAPES, "left")(path.read_bytes())


def save_pair(path: Path, photo: np.ndarray, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([photo, mask], axis=1)).save(path)


def assert_refused(done: subprocess.CompletedProcess, *words: str, exit_code: int = 1) -> None:
    """One line on standard error, with these words, and no traceback.

    Before it may stand what is finished.
    """
    error = re.sub(r"\A\d+ of \d+ shards are finished and stay in .*\n", "", done.stderr)
    assert done.returncode == exit_code, done.stderr
    assert error.startswith("error: ")
    assert error.count("\n") == 1, done.stderr
    for word in words:
        assert word in error
    assert done.stdout == ""


class TestRecords:
    def test_every_pair_is_in_exactly_one_shard(self, records_dir):
        for split, count in (("train", 24), ("val", 7)):
            shards = read_all(records_dir, split)
            keys = [record.key for shard in shards.values() for record in shard]
            assert sorted(keys) == sorted(f"{number}.jpg" for number in range(1, count + 1))
            assert len(shards) == 2
            assert all(shards.values())

    def test_records_are_shuffled(self, records_dir):
        shards = read_all(records_dir, "train").values()
        numbers = [int(record.key.removesuffix(".jpg")) for shard in shards for record in shard]
        assert abs(np.corrcoef(numbers, range(24))[0, 1]) < 0.6

    def test_records_hold_the_photo_and_the_labels_of_the_mask(self, records_dir, pairs_dir):
        for split in ("train", "val"):
            for shard in read_all(records_dir, split).values():
                for record in shard:
                    pair = pair_of(pairs_dir / split / record.key)
                    np.testing.assert_array_equal(record.label, pair.labels.train_ids)
                    assert np.abs(record.image.astype(float) - pair.photo).mean() < 2.5

    def test_the_description_is_what_is_there(self, records_dir, pairs_dir):
        info = load_info(str(records_dir))
        assert list(info.splits) == ["train", "val"]
        for split, description in info.splits.items():
            pixels, pictures = np.zeros(256, np.int64), np.zeros(256, np.int64)
            for shard in description.shards:
                data = (records_dir / shard.file).read_bytes()
                assert len(data) == shard.num_bytes
                assert hashlib.sha256(data).hexdigest() == shard.sha256
                stored = read_all(records_dir, split)[shard.file]
                assert len(stored) == shard.num_records
                for record in stored:
                    pixels += np.bincount(record.label.ravel(), minlength=256)
                    pictures[np.unique(record.label)] += 1
            assert description.class_pixels == pixels[:19].tolist()
            assert description.class_records == pictures[:19].tolist()
            assert description.ignored_pixels == pixels[255]
            assert description.sizes == {"64x64": description.num_records}
            assert description.codings == {"JPEG 75 4:2:0": description.num_records}
            read = [pair_of(path).labels for path in (pairs_dir / split).iterdir()]
            unknown = sum(labels.unknown_fraction * labels.train_ids.size for labels in read)
            assert description.unknown_pixels == round(unknown)
            assert description.unsure_pixels == sum(labels.unsure.sum() for labels in read)
            assert (description.max_height, description.max_width) == (64, 64)
        photos = np.stack([pair_of(path).photo for path in (pairs_dir / "train").iterdir()])
        np.testing.assert_allclose(info.mean, photos.mean((0, 1, 2)), atol=1e-4)
        np.testing.assert_allclose(info.std, photos.std((0, 1, 2)), atol=1e-4)
        decoded = [r.image for shard in read_all(records_dir, "train").values() for r in shard]
        np.testing.assert_allclose(info.mean, np.mean(decoded, axis=(0, 1, 2)), atol=0.5)
        assert info.provenance["input_dir"] == str(pairs_dir)
        assert {"apache_beam", "numpy"} <= set(info.provenance["versions"])

    def test_tensorflow_datasets_reads_them(self, records_dir):
        builder = tfds.builder_from_directory(str(records_dir))
        assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
            "train": 24,
            "val": 7,
        }
        part = list(builder.as_dataset(split="train[:80%]").as_numpy_iterator())
        assert len(part) == 19
        shards = read_all(records_dir, "train")
        ours = [record for shard in shards.values() for record in shard]
        stored = tf.data.TFRecordDataset([str(records_dir / name) for name in shards])
        for example, record, data in zip(part, ours, stored, strict=False):
            assert example["key"].decode() == record.key
            assert (example["height"], example["width"]) == record.label.shape
            np.testing.assert_array_equal(example["label"][..., 0], record.label)
            fields = tf.train.Example.FromString(data.numpy()).features.feature
            jpeg = fields["image"].bytes_list.value[0]
            # It decodes by the less accurate of libjpeg's inverse transforms.
            np.testing.assert_array_equal(example["image"], tf.io.decode_jpeg(jpeg, channels=3))


class TestSameBytes:
    def test_again_and_in_two_worker_processes(self, pairs_dir, records_dir, tmp_path, run_command):
        expected = files(records_dir)
        assert len(expected) == 11
        flags = [f"--input_dir={pairs_dir}", "--num_shards=2"]
        for workers in (1, 2):
            output_dir = tmp_path / f"workers{workers}"
            done = run_command(
                "pipeline.preprocess",
                *flags,
                f"--output_dir={output_dir}",
                "--num_workers",
                workers,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert files(output_dir) == expected
            assert re.search(r"pairs read +24 +7\n", done.stdout)
            assert re.search(r"written +24 +7\n", done.stdout)
            assert re.search(r"  road +3\d\.\d+% +3\d\.\d+%", done.stdout)
            assert done.stdout.endswith(f"Records: {output_dir}\n")

    def test_whatever_the_order_of_the_folder(self, pairs_dir, records_dir, tmp_path):
        copy = tmp_path / "pairs"
        for path in sorted(pairs_dir.rglob("*.jpg"), reverse=True):
            target = copy / path.relative_to(pairs_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        run(copy, tmp_path / "records", num_shards=2)
        for name, data in files(tmp_path / "records").items():
            if ".tfrecord-" in name or name == dataset_info.OFFSETS_FILE:
                assert data == (records_dir / name).read_bytes()

    def test_a_shard_that_no_pair_falls_into_is_written_too(self, pairs_dir, tmp_path):
        info = run(pairs_dir, tmp_path / "records", num_shards=7)
        counts = [shard.num_records for shard in info.splits["val"].shards]
        assert len(counts) == 7
        assert sum(counts) == 7
        assert 0 in counts
        assert load_info(str(tmp_path / "records")) == info
        names = {r.key for shard in read_all(tmp_path / "records", "val").values() for r in shard}
        assert len(names) == 7


class TestInputs:
    def test_png_pairs_with_the_photo_on_the_right(self, tmp_path):
        rng = np.random.default_rng(0)
        truth = {}
        for split, count in (("train", 3), ("test", 1)):
            for index in range(count):
                train_ids = rng.integers(0, 19, (10, 12 + 2 * index))
                photo = rng.integers(0, 256, (*train_ids.shape, 3), np.uint8)
                save_pair(
                    tmp_path / "pairs" / split / f"{index}.png",
                    CITYSCAPES.class_colors[train_ids],
                    photo,
                )
                truth[split, f"{index}.png"] = train_ids
        info = run(tmp_path / "pairs", tmp_path / "records", image_side="right")
        for split in ("train", "test"):
            for shard in read_all(tmp_path / "records", split).values():
                for record in shard:
                    np.testing.assert_array_equal(record.label, truth.pop((split, record.key)))
        assert not truth
        assert (info.splits["train"].max_height, info.splits["train"].max_width) == (10, 16)
        assert info.splits["train"].ignored_pixels == 0

    @pytest.mark.parametrize("form", ["json", "csv"])
    def test_a_palette_of_ones_own(self, tmp_path, run_command, form):
        colors = {"sea": (0, 0, 200), "land": (0, 200, 0), "nothing": (0, 0, 0)}
        ids = {"sea": 0, "land": 1, "nothing": 255}
        path = tmp_path / f"own.{form}"
        if form == "json":
            classes = [{"name": n, "color": c, "train_id": ids[n]} for n, c in colors.items()]
            path.write_text(json.dumps({"name": "islands", "classes": classes}))
        else:
            rows = [f"{n},{r},{g},{b},{ids[n]}" for n, (r, g, b) in colors.items()]
            path.write_text("\n".join(["name,red,green,blue,train_id", *rows]))
        mask = np.array([[colors["sea"], colors["land"]], [colors["nothing"]] * 2], np.uint8)
        mask = mask.repeat(8, 0).repeat(8, 1)
        save_pair(tmp_path / "pairs" / "train" / "1.png", mask, mask)
        done = run_command(
            "pipeline.preprocess",
            f"--input_dir={tmp_path / 'pairs'}",
            f"--output_dir={tmp_path / 'records'}",
            f"--palette={path}",
            "--name=islands",
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(
            r"  sea +25\.000% .*\n  land +25\.000% .*\n  \(ignored\) +50\.000%", done.stdout
        )
        info = load_info(str(tmp_path / "records"))
        assert info.palette.class_names == ["sea", "land"]
        assert info.name == "islands"
        ((record,),) = read_all(tmp_path / "records", "train").values()
        expected = np.array([[0, 1], [255, 255]]).repeat(8, 0).repeat(8, 1)
        np.testing.assert_array_equal(record.label, expected)

    def test_a_split_that_is_a_link_is_read_too(self, pairs_dir, records_dir, tmp_path):
        (tmp_path / "pairs").mkdir()
        shutil.copytree(pairs_dir / "val", tmp_path / "pairs" / "val")
        (tmp_path / "pairs" / "train").symlink_to(pairs_dir / "train")
        run(tmp_path / "pairs", tmp_path / "records", num_shards=2)
        for name, data in files(records_dir).items():
            if ".tfrecord-" in name:
                assert (tmp_path / "records" / name).read_bytes() == data

    def test_a_folder_is_the_same_whatever_its_spelling(self, pairs_dir, tmp_path, monkeypatch):
        """What is held here is what the workers get, which may have another working directory."""
        known = []

        def fingerprint(facts, found):
            known.append([file.path for file in found])
            raise UserError("enough")

        monkeypatch.setattr(job, "fingerprint", fingerprint)
        odd = tmp_path / "data[1]"
        shutil.copytree(pairs_dir, odd)
        monkeypatch.chdir(tmp_path)
        for folder in (odd, "data[1]", "./data[1]/"):
            with pytest.raises(UserError, match="enough"):
                run(folder, tmp_path / "records")
        assert len(known) == 3 and len(set(map(tuple, known))) == 1
        assert len(known[0]) == 31 and known[0][0].startswith(f"{odd}/")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_name_that_is_not_utf8_is_told(self, pairs_dir, tmp_path, run_command, workers):
        copy = shutil.copytree(pairs_dir, tmp_path / "pairs")
        os.rename(copy / "val" / "1.jpg", os.fsencode(copy / "val") + b"/stra\xdfe.jpg")
        flags = [f"--input_dir={copy}", f"--output_dir={tmp_path / 'records'}"]
        done = run_command("pipeline.preprocess", *flags, f"--num_workers={workers}")
        assert_refused(done, "stra\\udcdfe.jpg' is not UTF-8", "rename the file")

    def test_folders_with_odd_names(self, pairs_dir, records_dir, tmp_path):
        odd = tmp_path / "a [1]*? é"
        shutil.copytree(pairs_dir, odd / "pairs")
        os.rename(odd / "pairs" / "val" / "1.jpg", odd / "pairs" / "val" / "photo [1] ?.jpg")
        (odd / "pairs" / "val" / "._2.jpg").write_bytes(b"macOS")
        run(odd / "pairs", odd / "records", num_shards=2)
        shard = "pairs-train.tfrecord-00000-of-00002"
        assert (odd / "records" / shard).read_bytes() == (records_dir / shard).read_bytes()
        keys = [r.key for s in read_all(odd / "records", "val").values() for r in s]
        assert "photo [1] ?.jpg" in keys
        assert len(keys) == 7
        run(odd / "pairs", odd / "records", overwrite=True)
        assert [path.name for path in sorted(odd.iterdir())] == ["pairs", "records"]

    def test_paths_as_people_write_them(self, pairs_dir, tmp_path, monkeypatch):
        monkeypatch.chdir(pairs_dir)
        (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
        (tmp_path / "there").mkdir()
        for inputs, output in ((".", tmp_path / "a/b/c"), ("./", tmp_path / "link")):
            info = run(inputs, f"{output}/")
            assert load_info(str(output)) == info
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / dataset_info.INFO_FILE).exists()


def encoded(pixels: np.ndarray, form: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def bad_files() -> dict[str, tuple[str, bytes]]:
    """By file name: the kind of fault and the content."""
    rng = np.random.default_rng(0)
    photo, train_ids = synthesize.draw_scene(synthesize.scene_rng(0, "bad", 1), 64)
    jpeg = synthesize.encode_pair(photo, train_ids)
    noise = rng.integers(0, 256, (64, 128, 3), np.uint8)
    pair = np.concatenate([photo, CITYSCAPES.colorize(train_ids)], axis=1)
    bomb = encoded(np.zeros((8300, 8300), np.uint8), "PNG", "1")
    return {
        "cut.jpg": ("TruncatedImage", jpeg[: len(jpeg) // 2]),
        "text.jpg": ("NotAnImage", b"not found"),
        "empty.jpg": ("NotAnImage", b""),
        "bomb.png": ("ImageTooLarge", bomb),
        "transparent.png": ("UnsupportedMode", encoded(pair, "PNG", "RGBA")),
        "grey.jpg": ("UnsupportedMode", encoded(pair, "JPEG", "L")),
        "cmyk.jpg": ("UnsupportedMode", encoded(pair, "JPEG", "CMYK")),
        "odd.png": ("OddWidth", encoded(pair[:, :-1], "PNG", "RGB")),
        "noise.png": ("UnknownColors", encoded(noise, "PNG", "RGB")),
    }


@pytest.fixture
def mixed_dir(pairs_dir, bad_files, tmp_path) -> Path:
    """The good pairs and, among the training pairs, all kinds of bad ones."""
    folder = shutil.copytree(pairs_dir, tmp_path / "mixed")
    for name, (_, data) in bad_files.items():
        (folder / "train" / name).write_bytes(data)
    (folder / "train" / "notes.txt").write_text("not a pair, by its name")
    return folder


def bad_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestBadPairs:
    def test_are_left_out_and_listed(self, mixed_dir, records_dir, bad_files, tmp_path, capsys):
        info = run(mixed_dir, tmp_path / "records", max_bad_fraction=0.5)
        assert info.splits["train"].num_bad_pairs == len(bad_files)
        assert info.splits["val"].num_bad_pairs == 0
        assert info.splits["train"].num_records == 24
        good = load_info(str(records_dir))
        assert (info.mean, info.std) == (good.mean, good.std)
        assert info.splits["train"].class_pixels == good.splits["train"].class_pixels

        lines = bad_lines(tmp_path / "records" / dataset_info.BAD_PAIRS_FILE)
        assert {line["key"]: line["error"] for line in lines} == {
            name: kind for name, (kind, _) in bad_files.items()
        }
        assert all(line["split"] == "train" and len(line["reason"]) > 10 for line in lines)
        assert re.search(rf"bad +{len(bad_files)} +0\n", capsys.readouterr().out)

    def test_too_many_fail_the_job(self, mixed_dir, bad_files, tmp_path, run_command):
        flags = [f"--input_dir={mixed_dir}", f"--output_dir={tmp_path / 'records'}"]
        done = run_command("pipeline.preprocess", *flags, "--max_bad_fraction=0.2")
        # Decoders may have said something of the broken files before.
        done.stderr = done.stderr[done.stderr.index("error: ") :]
        listed = tmp_path / "records.bad_pairs.jsonl"
        assert_refused(done, "9 of 40 pairs are bad", "--max_bad_fraction=0.2", str(listed))
        assert len(bad_lines(listed)) == len(bad_files)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "mixed",
            "records.bad_pairs.jsonl",
            "records.incomplete",
        ]

    def test_only_bad_ones_are_too_many_at_any_fraction(self, tmp_path):
        (tmp_path / "pairs" / "train").mkdir(parents=True)
        (tmp_path / "pairs" / "train" / "1.jpg").touch()
        with pytest.raises(job.JobError, match="1 of 1 pairs are bad"):
            run(tmp_path / "pairs", tmp_path / "records", max_bad_fraction=1.0)
        assert not (tmp_path / "records").exists()

    def test_masks_on_the_other_side_are_noticed(self, pairs_dir, tmp_path):
        sentence = r"31 are SwappedHalves.*right half looks like the mask .* --image_side=left"
        with pytest.raises(job.JobError, match=sentence):
            run(pairs_dir, tmp_path / "records", image_side="right")


class TestRefusals:
    @pytest.mark.parametrize(
        ("flag", "words", "exit_code"),
        [
            ("--image_side=up", ["--image_side=up", "left|right"], 2),
            ("--max_bad_fraction=1.5", ["--max_bad_fraction"], 2),
            ("--no_such_flag=1", ["There is no flag --no_such_flag"], 1),
            ("--temp_location", ["--temp_location", "expected one argument"], 1),
            ("--input_dir=nowhere", ["nowhere' is missing or empty"], 1),
        ],
    )
    def test_a_wrong_flag_is_named(self, pairs_dir, tmp_path, run_command, flag, words, exit_code):
        flags = [f"--input_dir={pairs_dir}", f"--output_dir={tmp_path / 'records'}", flag]
        assert_refused(run_command("pipeline.preprocess", *flags), *words, exit_code=exit_code)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--overwritten"], "There is no flag --overwritten"),
            (["-x"], "There is no flag -x"),
            (["--job_name", "a", "stray"], "Unexpected argument 'stray'"),
            (["--parallelism=many"], "--parallelism: invalid int value: 'many'"),
            (["--runner=NoSuchRunner"], "NoSuchRunner.* FnApiRunner"),
            (["--runner"], "--runner: expected one argument"),
        ],
    )
    def test_what_beam_cannot_use_is_named(self, pairs_dir, tmp_path, capfd, arguments, sentence):
        with pytest.raises(UserError, match=sentence):
            job.run(JobOptions(str(pairs_dir), str(tmp_path / "records")), arguments)
        assert capfd.readouterr() == ("", "")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"name": "Ab-c"}, "--name .*Received: 'Ab-c'"),
            ({"num_shards": 8}, "--num_shards .*'val' has 7. Received: 8"),
            ({"palette": "none.json"}, "--palette .*Received: 'none.json'"),
            ({"palette": "tests"}, "--palette .*Received: 'tests'"),
        ],
    )
    def test_options_that_cannot_be_used_are_named(self, pairs_dir, tmp_path, options, sentence):
        with pytest.raises(UserError, match=sentence):
            run(pairs_dir, tmp_path / "records", **options)
        assert not list(tmp_path.iterdir())

    def test_missing_flags_are_named(self, run_command):
        assert_refused(run_command("pipeline.preprocess", "--output_dir=x"), "--input_dir")
        assert_refused(run_command("pipeline.preprocess", "--input_dir=x"), "--output_dir")

    @pytest.mark.parametrize(
        ("make", "sentence"),
        [
            (lambda folder: None, "is missing or empty"),
            (lambda folder: folder.mkdir(), "is missing or empty"),
            (lambda folder: folder.touch(), "is missing or empty"),
            (lambda folder: (folder / "train").mkdir(parents=True), "is missing or empty"),
        ],
        ids=["missing", "empty", "a file", "empty split"],
    )
    def test_no_inputs(self, tmp_path, make, sentence):
        make(tmp_path / "pairs")
        with pytest.raises(UserError, match=sentence):
            run(tmp_path / "pairs", tmp_path / "records")
        assert not (tmp_path / "records").exists()

    def test_flags_of_beam_are_handed_on(self, pairs_dir, tmp_path):
        options = JobOptions(str(pairs_dir), str(tmp_path / "records"))
        info = job.run(options, ["--runner=FnApiRunner", "--direct_num_workers", "1"])
        assert load_info(str(tmp_path / "records")) == info


def mount_small(folder: Path, size: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


class TestFaults:
    @pytest.fixture
    def small_disk(self, tmp_path):
        """A disk too small for the records."""
        folder = tmp_path / "disk"
        if not mount_small(folder, "64k"):
            pytest.skip("no right to mount a small disk")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_full_disk_is_told_in_a_sentence(self, pairs_dir, small_disk, run_command, workers):
        done = run_command(
            "pipeline.preprocess",
            f"--input_dir={pairs_dir}",
            f"--output_dir={small_disk / 'records'}",
            f"--num_workers={workers}",
            "--num_shards=2",
        )
        assert_refused(done, "No space left on device", str(small_disk))
        assert not (small_disk / "records").exists()

    def test_a_limit_on_the_size_of_files_is_told_in_a_sentence(self, pairs_dir, tmp_path):
        script = (
            "import resource, runpy, signal, sys\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
            "runpy.run_module('pipeline.preprocess', run_name='__main__', alter_sys=True)\n"
        )
        flags = [f"--input_dir={pairs_dir}", f"--output_dir={tmp_path / 'records'}"]
        command = [sys.executable, "-c", script, *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert_refused(done, "File too large")
        assert not list(tmp_path.iterdir())

    @contextlib.contextmanager
    def started(self, many_pairs, output_dir, *flags):
        """The command, running, with its staging folder already there."""
        command = [sys.executable, "-m", "pipeline.preprocess", f"--input_dir={many_pairs}"]
        command += [f"--output_dir={output_dir}", "--num_shards=20", *flags]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=_heed_ctrl_c,
            env={**os.environ, "TMPDIR": str(many_pairs.parent)},  # who is killed tidies nothing
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not list(output_dir.parent.glob(f"{output_dir.name}.incomplete/*/work")):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def test_a_second_job_is_refused_and_the_first_ends_well(
        self, many_pairs, tmp_path, run_command
    ):
        flags = [f"--input_dir={many_pairs}", f"--output_dir={tmp_path / 'records'}"]
        quick = "--label_recovery=nearest"
        with self.started(many_pairs, tmp_path / "records", quick) as process:
            os.killpg(process.pid, signal.SIGSTOP)  # It must not end before the second has looked.
            second = run_command("pipeline.preprocess", *flags, "--num_shards=3", "--overwrite")
            os.killpg(process.pid, signal.SIGCONT)
            output, said = process.communicate(timeout=60)
        assert_refused(second, "Another job is writing to this --output_dir")
        assert (process.returncode, said) == (0, ""), output
        assert len(load_info(str(tmp_path / "records")).splits["train"].shards) == 20

    @pytest.mark.parametrize("workers", [1, 2])
    def test_ctrl_c_ends_it_in_a_word(self, many_pairs, tmp_path, workers):
        with self.started(many_pairs, tmp_path / "records", f"--num_workers={workers}") as process:
            time.sleep(random.uniform(0, 1 if workers == 1 else 2))
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            said, errors = process.communicate(timeout=20)
        done = subprocess.CompletedProcess([], process.returncode, said, errors)
        assert_refused(done, "error: Interrupted.", exit_code=130)
        assert not (tmp_path / "records").exists()

    def test_workers_heed_no_ctrl_c_not_even_while_python_starts(
        self, pairs_dir, tmp_path, run_command
    ):
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys\n"
            "if 'pipeline.local_worker' in sys.orig_argv:\n"
            "    open(os.path.join(os.path.dirname(__file__), f'{os.getpid()}.worker'), 'x')\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
        )
        flags = [f"--input_dir={pairs_dir}", f"--output_dir={tmp_path / 'records'}"]
        done = run_command(
            "pipeline.preprocess", *flags, "--num_workers=2", "--label_recovery=nearest",
            env={**os.environ, "PYTHONPATH": str(tmp_path)}, preexec_fn=_heed_ctrl_c,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list(tmp_path.glob("*.worker"))) == 2

    @pytest.mark.parametrize("wait", [0, 1.2])
    def test_a_killed_worker_ends_the_job_in_a_sentence(self, many_pairs, tmp_path, wait):
        """Also where the others have only just been started."""
        with self.started(many_pairs, tmp_path / "records", "--num_workers=2") as process:
            workers = _workers(process.pid)
            time.sleep(wait)
            os.kill(random.choice(workers), signal.SIGKILL)
            said, errors = process.communicate(timeout=30)
        done = subprocess.CompletedProcess([], process.returncode, said, errors)
        assert_refused(done, "A worker process died", "--num_workers")
        assert not (tmp_path / "records").exists()

    @pytest.mark.parametrize("wait", [0, 1.2])
    def test_workers_end_with_their_job(self, many_pairs, tmp_path, wait):
        with self.started(many_pairs, tmp_path / "records", "--num_workers=2") as process:
            workers = _workers(process.pid)
            time.sleep(wait)
            process.kill()
            process.wait()
            deadline = time.monotonic() + 10
            while any(map(_is_running, workers)):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def test_a_worker_that_cannot_start_ends_the_job(self, pairs_dir, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(WorkerDied, match="return code 127"):
            run(pairs_dir, tmp_path / "records", num_workers=2)
        assert not list(tmp_path.iterdir())


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it


def _workers(process_id: int) -> list[int]:
    """The two worker processes of a job, as soon as they are started."""
    tasks = Path(f"/proc/{process_id}/task")
    if not tasks.exists():
        pytest.skip("no /proc to find the workers in")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [int(pid) for t in tasks.glob("*/children") for pid in t.read_text().split()]
        if len(found) == 2:
            return found
        time.sleep(0.01)
    raise TimeoutError("no workers were started")


def _is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, but nobody has asked for its exit code
