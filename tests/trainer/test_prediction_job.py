"""The prediction job of `pipeline.predict`; here, as it is tried on the trained run."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.io.filesystem import FileMetadata
from PIL import Image

from pipeline import label_photos, manifest, pairs, prediction_job, records
from pipeline.errors import UserError
from pipeline.label_photos import FoundPhoto
from pipeline.manifest import PartSummary
from pipeline.palette import CITYSCAPES, Palette
from pipeline.prediction_job import PredictionJobError, PredictionOptions
from trainer import prediction

ROOT = Path(__file__).parents[2]
GOOD = ["grey.jpg", "small.PNG", "train/1.jpg", "train/2.jpg", "train/3.jpg", "turned.jpg",
        "val/1.jpg", "val/2.jpg"]  # fmt: skip


@pytest.fixture(scope="module")
def photos(pairs_dir, tmp_path_factory) -> Path:
    """Eight good photos of four sizes in three folders, five bad ones, and a text file."""
    folder = tmp_path_factory.mktemp("photos")
    for split, numbers in (("train", (1, 2, 3)), ("val", (1, 2))):
        (folder / split).mkdir()
        for number in numbers:
            pair = cv2.imread(str(pairs_dir / split / f"{number}.jpg"))
            cv2.imwrite(str(folder / split / f"{number}.jpg"), pair[:, :64])
    scene = cv2.imread(str(folder / "val" / "1.jpg"))
    cv2.imwrite(str(folder / "small.PNG"), scene[:41, :53])
    cv2.imwrite(str(folder / "grey.jpg"), cv2.cvtColor(scene[:, :31], cv2.COLOR_BGR2GRAY))
    image = Image.open(folder / "small.PNG")
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(folder / "turned.jpg", quality=95, exif=exif)
    (folder / "text.jpg").write_text("this is text")
    (folder / "empty.png").write_bytes(b"")
    data = (folder / "val" / "1.jpg").read_bytes()
    (folder / "val" / "half.jpg").write_bytes(data[: len(data) // 2])
    cv2.imwrite(str(folder / "large.png"), np.zeros((100, 101, 3), np.uint8))
    Image.new("RGBA", (64, 64)).save(folder / "clear.png")
    (folder / "notes.txt").write_text("no photo, and not named like one")
    return folder


def run(trained_run, photos, output_dir, **changes):
    options = {"overlays": True, "max_pixels": 10_000, "batch_size": 2, **changes}
    return prediction_job.run(
        PredictionOptions(trained_run.saved_model, f"{photos}/**", str(output_dir), **options)
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def predicted(trained_run, photos, tmp_path_factory) -> Path:
    """The predictions of `photos`, made in this process. Not to be changed."""
    folder = tmp_path_factory.mktemp("out") / "predictions"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        labelled, bad = run(trained_run, photos, folder)
    assert (labelled, len(bad)) == (8, 5)
    assert said.getvalue() == ""
    return folder


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


class TestOutput:
    def test_every_good_photo_has_its_files_and_nothing_else_is_there(self, predicted):
        stems = [os.path.splitext(name)[0] for name in GOOD]
        expected = {f"{stem}_{kind}.png" for stem in stems for kind in ("ids", "overlay")}
        described = {"manifest.jsonl", "bad_photos.jsonl", "palette.json"}
        assert contents(predicted).keys() == expected | described
        palette = json.loads((predicted / "palette.json").read_text())
        assert Palette.from_dict(palette) == CITYSCAPES

    def test_ids_are_those_of_the_predict_command(self, trained_run, photos, predicted, tmp_path):
        for name in ("grey.jpg", "small.PNG", "turned.jpg"):
            shutil.copy(photos / name, tmp_path)
        output = tmp_path / "output"
        prediction.predict_folder(trained_run.saved_model, str(tmp_path), str(output))
        for stem in ("grey", "small", "turned"):
            ids = read(predicted / f"{stem}_ids.png")
            np.testing.assert_array_equal(ids, read(output / f"{stem}_ids.png"))
        assert read(predicted / "turned_ids.png").shape == (53, 41)

    def test_photos_of_one_size_are_labelled_together_as_alone(
        self, trained_run, photos, predicted
    ):
        signature = tf.saved_model.load(trained_run.saved_model).signatures["from_images"]
        found = set()
        for name in ("train/1", "train/2", "train/3", "val/1", "val/2"):
            photo = cv2.cvtColor(cv2.imread(str(photos / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
            alone = signature(images=tf.constant(photo[np.newaxis]))["class_ids"][0].numpy()
            ids = read(predicted / f"{name}_ids.png")
            assert ids.dtype == np.uint8
            assert (ids != alone).mean() < 0.001  # a batch may round otherwise
            found |= set(np.unique(ids))
        assert len(found) > 2

    def test_the_overlay_is_the_tinted_photo(self, photos, predicted):
        for name in ("train/1.jpg", "small.PNG"):
            photo = cv2.cvtColor(cv2.imread(str(photos / name)), cv2.COLOR_BGR2RGB)
            stem = os.path.splitext(name)[0]
            colors = CITYSCAPES.colorize(read(predicted / f"{stem}_ids.png"))
            tinted = cv2.cvtColor(read(predicted / f"{stem}_overlay.png"), cv2.COLOR_BGR2RGB)
            assert np.abs(tinted - (0.45 * photo + 0.55 * colors)).max() <= 1

    def test_the_manifest_says_what_is_in_each_photo(self, predicted):
        entries = lines(predicted / "manifest.jsonl")
        assert [entry["photo"] for entry in entries] == GOOD
        for entry in entries:
            ids = read(predicted / entry["ids"])
            assert (entry["height"], entry["width"]) == ids.shape
            assert (predicted / entry["overlay"]).exists()
            shares = {
                CITYSCAPES.class_names[train_id]: pytest.approx(count / ids.size, abs=1e-6)
                for train_id, count in zip(*np.unique(ids, return_counts=True), strict=True)
            }
            assert entry["class_shares"] == shares
            assert list(entry["class_shares"].values()) == sorted(
                entry["class_shares"].values(), reverse=True
            )

    def test_bad_photos_are_listed_with_their_reasons(self, predicted):
        entries = {e["photo"]: e for e in lines(predicted / "bad_photos.jsonl")}
        assert {name: entry["error"] for name, entry in entries.items()} == {
            "clear.png": "UnsupportedMode",
            "empty.png": "NotAnImage",
            "large.png": "ImageTooLarge",
            "text.jpg": "NotAnImage",
            "val/half.jpg": "TruncatedImage",
        }
        assert entries["large.png"]["reason"] == "101x100 pixels; --max_pixels=10000"
        assert list(entries) == sorted(entries)

    def test_without_overlays_there_are_none(self, trained_run, photos, tmp_path):
        run(trained_run, photos / "val", tmp_path / "out", overlays=False)
        assert not list((tmp_path / "out").rglob("*_overlay.png"))
        entries = lines(tmp_path / "out" / "manifest.jsonl")
        assert {entry["photo"]: entry["overlay"] for entry in entries} == {
            "1.jpg": None, "2.jpg": None,
        }  # fmt: skip


def command(trained_run, photos, output_dir, *flags) -> list[str]:
    return [
        f"--saved_model={trained_run.saved_model}", f"--input_pattern={photos}/**",
        f"--output_dir={output_dir}", "--overlays", "--max_pixels=10000", "--batch_size=2", *flags,
    ]  # fmt: skip


def test_two_workers_write_the_same_bytes(trained_run, photos, predicted, tmp_path, run_command):
    output_dir = tmp_path / "out"
    done = run_command(
        "pipeline.predict", *command(trained_run, photos, output_dir, "--num_workers=2")
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("8 photos labelled in ")
    assert f"5 could not be: {output_dir}/bad_photos.jsonl\n" in done.stdout
    assert contents(output_dir) == contents(predicted)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_model_is_the_same_job_whatever_its_spelling(
    trained_run, photos, tmp_path, monkeypatch
):
    """Nothing runs: what is held here is what the workers get, which a job is known by."""
    known = []

    def fingerprint(facts, found):
        known.append((facts["options"]["saved_model"], really_fingerprint(facts, found)))
        raise UserError("enough")

    really_fingerprint = prediction_job.fingerprint
    monkeypatch.setattr(prediction_job, "fingerprint", fingerprint)
    absolute = Path(trained_run.saved_model)
    monkeypatch.chdir(absolute.parent)
    for folder in (absolute, absolute.name, f"./{absolute.name}/", f"{absolute}/"):
        with pytest.raises(UserError, match="enough"):
            run(types.SimpleNamespace(saved_model=str(folder)), photos, tmp_path / "out")
    assert {folder for folder, _ in known} == {str(absolute)}
    assert len(known) == 4 and len(set(known)) == 1


@pytest.mark.parametrize("step", ["size_of", "read_photo"])
def test_a_disk_that_fails_ends_the_job_which_goes_on_when_it_is_back(
    trained_run, photos, predicted, tmp_path, monkeypatch, step
):
    """As root may open anything, a photo's path leads nowhere when it is read."""

    def fail(path, *arguments):
        return really_read(path.replace("train/1.jpg", "train/gone.jpg"), *arguments)

    really_read = getattr(label_photos, step)
    with monkeypatch.context() as patch, pytest.raises(FileNotFoundError) as caught:
        patch.setattr(label_photos, step, fail)
        run(trained_run, photos, tmp_path / "out")
    assert caught.value.filename == str(photos / "train" / "gone.jpg")
    assert not (tmp_path / "out").exists()
    run(trained_run, photos, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(predicted)


class TestGoingOn:
    @pytest.fixture
    def stopped(self, trained_run, photos, tmp_path, monkeypatch, capsys) -> Path:
        """The output of a job that failed at its seventh photo."""
        calls = []

        def encode_some(labels):
            calls.append(1)
            if len(calls) == 7:
                raise RuntimeError("stopped")
            return really_encode(labels)

        really_encode = records.encode_label
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
            patch.setattr(records, "encode_label", encode_some)
            run(trained_run, photos, tmp_path / "out")
        assert "photos are finished and stay in" in capsys.readouterr().err
        return tmp_path / "out"

    def finished(self, output_dir: Path) -> dict[str, tuple[int, int]]:
        """The stamps of the files of parts that are finished; they differ if written again."""
        (staging,) = output_dir.parent.glob(f"{output_dir.name}.incomplete/" + "[0-9a-f]" * 16)
        summaries = [
            PartSummary.from_json(path.read_text())
            for path in (staging / "work").glob("*.summary.json")
        ]
        paths = [staging / "records" / name for summary in summaries for name in summary.sha256]
        return {str(p.relative_to(staging / "records")): stamp(p) for p in paths}

    def test_what_is_missing_is_done_and_nothing_else(
        self, trained_run, photos, predicted, stopped, capsys
    ):
        before = self.finished(stopped)
        assert 0 < len(before) < 16
        assert not stopped.exists()
        run(trained_run, photos, stopped)
        assert "Going on with an earlier run: " in capsys.readouterr().err
        assert {name: stamp(stopped / name) for name in before} == before
        assert contents(stopped) == contents(predicted)
        assert [path.name for path in stopped.parent.iterdir()] == ["out"]

    def test_a_damaged_file_is_written_again(self, trained_run, photos, predicted, stopped):
        before = self.finished(stopped)
        name = min(before)
        (path,) = stopped.parent.glob(f"out.incomplete/*/records/{name}")
        os.truncate(path, 10)  # as a loss of power does after a rename
        run(trained_run, photos, stopped)
        assert stamp(stopped / name) != before[name]
        assert contents(stopped) == contents(predicted)

    def test_another_model_is_another_job(
        self, trained_run, photos, predicted, stopped, tmp_path, capsys
    ):
        model = shutil.copytree(trained_run.saved_model, tmp_path / "model" / "7")
        run(types.SimpleNamespace(saved_model=str(model)), photos, stopped)
        assert "Going on" not in capsys.readouterr().err
        assert contents(stopped) == contents(predicted)


def stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_command_goes_on(trained_run, photos, tmp_path, run_command, workers):
    many = tmp_path / "many"
    many.mkdir()
    for copy in range(60):
        for path in (photos / "train").iterdir():
            os.link(path, many / f"{copy}_{path.name}")
    flags = command(trained_run, many, tmp_path / "whole")
    assert run_command("pipeline.predict", *flags).returncode == 0
    flags = command(trained_run, many, tmp_path / "killed", f"--num_workers={workers}")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.predict", *flags], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(tmp_path.glob("killed.incomplete/*/work/*.summary.json")):
        assert process.poll() is None
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    done = run_command("pipeline.predict", *flags)
    assert done.returncode == 0, done.stderr
    assert "Going on with an earlier run: " in done.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


class TestRefusals:
    def refusal(self, tmp_path, *arguments, **options) -> str:
        with pytest.raises(UserError) as caught:
            prediction_job.run(PredictionOptions(**options), arguments)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.rglob("*_ids.png"))
        return str(caught.value)

    @pytest.fixture
    def options(self, trained_run, photos, tmp_path) -> dict[str, str]:
        return {
            "saved_model": trained_run.saved_model,
            "input_pattern": f"{photos}/**",
            "output_dir": str(tmp_path / "out"),
        }

    @pytest.mark.parametrize("part", ["assets/palette.json", "saved_model.pb"])
    def test_what_is_no_saved_model(self, options, tmp_path, part):
        folder = shutil.copytree(options["saved_model"], tmp_path / "7")
        (folder / part).unlink()
        message = self.refusal(tmp_path, **{**options, "saved_model": str(folder)})
        assert message.startswith(f"--saved_model {str(folder)!r} is no SavedModel of trainer.exp")
        assert part.rpartition("/")[2] in message
        assert "Name a folder such as RUN/export/3000." in message

    def test_a_damaged_saved_model_fails_the_job_by_name(self, options, tmp_path):
        folder = shutil.copytree(options["saved_model"], tmp_path / "7")
        (folder / "saved_model.pb").write_bytes(b"damaged")
        with pytest.raises(OSError) as caught:
            prediction_job.run(PredictionOptions(**{**options, "saved_model": str(folder)}))
        assert caught.value.filename == str(folder)
        assert caught.value.strerror == "No SavedModel of trainer.export"
        assert not list(tmp_path.glob("out*"))

    @pytest.mark.parametrize("pattern", ["nowhere/**", "*.txt"])
    def test_no_photos(self, options, photos, tmp_path, pattern):
        message = self.refusal(tmp_path, **{**options, "input_pattern": f"{photos}/{pattern}"})
        assert f"{pattern}' matches no photos (.jpg, .jpeg, .png); those of a folder" in message

    def test_two_photos_of_one_name(self, options, photos, tmp_path):
        copy = shutil.copytree(photos / "val", tmp_path / "photos")
        shutil.copy(photos / "small.PNG", copy / "1.png")
        message = self.refusal(tmp_path, **{**options, "input_pattern": f"{copy}/*"})
        assert f"{str(copy / '1.jpg')!r} and {str(copy / '1.png')!r} would be written" in message

    def test_nothing_but_bad_photos(self, options, photos, tmp_path):
        message = self.refusal(tmp_path, **{**options, "input_pattern": f"{photos}/text.*"})
        expected = "None of the 1 photos can be labelled; 1 are NotAnImage, the first: text.jpg: "
        assert message.startswith(expected)
        assert not list(tmp_path.iterdir())

    def test_an_output_folder_in_use(self, options, predicted, tmp_path):
        (tmp_path / "out" / "mine").mkdir(parents=True)
        (tmp_path / "out" / "mine" / "notes.txt").write_text("mine")
        assert "is not empty" in self.refusal(tmp_path, **options)
        message = self.refusal(tmp_path, **options, overwrite=True)
        assert "holds something else than predictions (no manifest.jsonl)" in message
        shutil.copy(predicted / "manifest.jsonl", tmp_path / "out")
        message = self.refusal(tmp_path, **options, overwrite=True)
        assert "holds 'mine/notes.txt' beside the predictions" in message
        assert (tmp_path / "out" / "mine" / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize(
        ("argument", "words"),
        [
            ("--no_such_flag=1", "There is no flag --no_such_flag."),
            ("stray", "Unexpected argument 'stray'"),
        ],
    )
    def test_flags_that_beam_does_not_know(self, options, tmp_path, argument, words):
        assert words in self.refusal(tmp_path, argument, **options)

    def test_missing_flags_are_named(self, tmp_path, run_command):
        done = run_command("pipeline.predict", "--saved_model=x", f"--output_dir={tmp_path}/out")
        assert done.returncode == 1
        assert done.stderr == "error: --input_pattern is missing. (--help lists the flags.)\n"


def test_predictions_are_replaced_only_when_told(trained_run, photos, predicted, tmp_path):
    copy = shutil.copytree(predicted, tmp_path / "out")
    (copy / "gone_ids.png").write_bytes(b"of a photo that is no more")
    run(trained_run, photos, copy, overwrite=True)
    assert contents(copy) == contents(predicted)


def test_a_photo_with_too_long_a_side_is_refused(tmp_path):
    Image.new("L", (600_000, 1)).save(tmp_path / "long.png")
    with pytest.raises(pairs.ImageTooLarge, match="600000x1 pixels; a side may have 65500 at most"):
        label_photos.read_photo(str(tmp_path / "long.png"), 2**24)


class TestParts:
    def parts(self, size, count) -> list[label_photos.Part]:
        found = [FoundPhoto(f"{number:03d}.jpg", "") for number in reversed(range(count))]
        return list(label_photos.make_parts(size, found))

    def test_they_are_dealt_by_name(self):
        parts = self.parts((512, 256), 130)
        assert [part.name for part in parts] == [f"512x256-00000{i}" for i in range(3)]
        assert [len(part.photos) for part in parts] == [64, 64, 2]
        keys = [photo.key for part in parts for photo in part.photos]
        assert keys == sorted(keys)

    def test_large_photos_make_small_parts(self):
        assert [len(part.photos) for part in self.parts((2048, 1024), 20)] == [16, 4]
        assert [len(part.photos) for part in self.parts((8192, 8192), 2)] == [1, 1]

    def test_photos_without_a_size_have_parts_too(self):
        assert [len(part.photos) for part in self.parts((0, 0), 65)] == [64, 1]

    def test_a_long_header_is_read_to_its_end(self, photos, tmp_path):
        image = Image.open(photos / "val" / "1.jpg")
        exif = image.getexif()
        exif[0x010E] = "x" * 60_000
        image.save(tmp_path / "long.jpg", exif=exif, icc_profile=bytes(60_000))
        assert (tmp_path / "long.jpg").stat().st_size > 2**16
        assert label_photos.size_of(str(tmp_path / "long.jpg")) == (64, 64)
        assert label_photos.size_of(str(photos / "text.jpg")) == (0, 0)

    @pytest.mark.parametrize("damage", ["{}", "[]", "null", '{"labelled": [{}]}', "half"])
    def test_a_damaged_summary_is_none(self, damage):
        with pytest.raises(ValueError):
            PartSummary.from_json(damage)


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("/a/b/**", "/a/b"),
        ("/a/b/*.jpg", "/a/b"),
        ("/a/b*/c/*.jpg", "/a"),
        ("/a/b/c.jpg", "/a/b"),
        ("gs://bucket/a/**", "gs://bucket/a"),
        ("/a/[bc]/x?.jpg", "/a"),
    ],
)
def test_keys_begin_where_the_pattern_begins_to_vary(pattern, folder):
    assert prediction_job.folder_of(pattern) == folder
    photo = label_photos.found_photo(FileMetadata(f"{folder}/x/y.jpg", 1), folder)
    assert photo.key == "x/y.jpg"
    assert manifest.output_name(photo.key, "_ids.png") == "x/y_ids.png"


@pytest.mark.parametrize(
    ("pattern", "output_dir", "apart"),
    [
        ("a/**", "b", True),
        ("a/**", "ab", True),
        ("a/*.jpg", "a/out", True),
        ("a/**", "a/out", False),
        ("a/**", "a", False),
        ("a/*/*.png", "a/b", False),
        ("gs://a/**", "gs://a/b/", False),
        ("gs://a/b/**", "gs://a/bc", True),
    ],
)
def test_an_output_where_photos_are_looked_for_is_refused(monkeypatch, tmp_path, pattern,
                                                          output_dir, apart):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    absolute = pattern if "://" in pattern else str(tmp_path / pattern)
    root = prediction_job.folder_of(absolute)
    if apart:
        prediction_job._check_apart(output_dir, absolute, root)
    else:
        with pytest.raises(PredictionJobError, match="looks for photos; name a folder elsewhere"):
            prediction_job._check_apart(output_dir, absolute, root)
