"""LiteRT files answer as their SavedModel does, carry what they need, or are not written."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline import street
from pipeline.dataset_info import INFO_FILE
from pipeline.errors import UserError
from pipeline.input_fn import RecordReader
from pipeline.palette import CITYSCAPES, IGNORE_LABEL, Palette
from trainer import litert, run_folder
from trainer.config import Config
from trainer.litert import LiteRTError, Parity


@pytest.fixture(scope="module")
def folder(trained_run, tmp_path_factory):
    """A copy of the trained run's SavedModel, with room for files beside it."""
    return shutil.copytree(trained_run.saved_model, tmp_path_factory.mktemp("litert") / "40")


@pytest.fixture(scope="module")
def module(folder):
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def exported(folder, records_dir):
    """Path and parity of the SavedModel's files, by their quantization."""
    return {
        "none": litert.export(f"{folder}/", "none"),
        "dynamic": litert.export(str(folder), "dynamic", str(records_dir)),
        "int8": litert.export(str(folder), "int8", str(records_dir)),
    }


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    """Two photos of an odd size: float32 [2, 71, 93, 3]."""
    scenes = [street.draw_scene(np.random.default_rng(seed), 96)[0] for seed in (7, 8)]
    return np.stack(scenes)[:, :71, :93].astype(np.float32)


def test_files_lie_beside_the_saved_model_and_nothing_else_does(folder, exported):
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"40", "40.tflite", "40-dynamic.tflite", "40-int8.tflite"}
    assert {q: path for q, (path, _) in exported.items()} == {
        "none": f"{folder}.tflite",
        "dynamic": f"{folder}-dynamic.tflite",
        "int8": f"{folder}-int8.tflite",
    }


@pytest.mark.parametrize("quantize", litert.MIN_SAME_IDS)
def test_photos_of_any_number_and_size_get_the_saved_models_classes(
    module, exported, batch, quantize
):
    path, said = exported[quantize]
    scorer, palette = litert.load(path)
    assert palette == CITYSCAPES
    for pixels in (batch, batch[:1, :64, :64], batch):
        scores = scorer(tf.constant(pixels))
        expected = module.scores(tf.constant(pixels)).numpy()
        assert (scores.dtype, scores.shape) == (np.float32, expected.shape)
        same = (scores.argmax(-1) == expected.argmax(-1)).mean()
        if quantize == "none":
            assert np.abs(scores - expected).max() <= 1e-5
            assert said.difference <= 1e-5
        else:
            assert np.abs(scores - expected).mean() <= 0.01
        assert same >= {"none": 0.9999, "dynamic": 0.98, "int8": 0.9}[quantize]
        assert len(np.unique(scores.argmax(-1))) > 2


def test_quantized_files_are_small_and_differ(exported, batch):
    sizes = {quantize: os.path.getsize(path) for quantize, (path, _) in exported.items()}
    assert sizes["dynamic"] < 0.5 * sizes["none"]
    assert sizes["int8"] < 0.5 * sizes["none"]
    scores = [litert.load(path)[0](batch) for path, _ in exported.values()]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    assert np.abs(scores[1] - scores[2]).max() > 1e-4


def test_what_is_needed_rides_along(folder, exported, tiny_config):
    for quantize, (path, _) in exported.items():
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            texts = {name: archive.read(name).decode() for name in archive.namelist()}
        assert texts["labels.txt"].splitlines() == CITYSCAPES.class_names
        assert Palette.from_dict(json.loads(texts["palette.json"])) == CITYSCAPES
        assert Config.from_json(texts["config.json"], "asset") == tiny_config
        assert json.loads(texts["litert.json"])["quantize"] == quantize
        assert {asset.name for asset in (folder / "assets").iterdir()} <= texts.keys()


def test_a_file_converted_without_freezing_answers_nan_and_is_refused(
    trained_run, folder, exported, monkeypatch
):
    config, info = run_folder.load(str(trained_run.folder))
    network = run_folder.build_network(config, info)
    run_folder.restore_model(network.model, str(trained_run.folder), "latest")
    model = network.for_inference()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def scores(pixels):
        return network.objective.scores(model(pixels, training=False))

    function = scores.get_concrete_function()
    broken = tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert()
    monkeypatch.setattr(litert, "convert", lambda *_: broken)
    before = Path(f"{folder}.tflite").read_bytes()
    with pytest.raises(LiteRTError) as caught:
        litert.export(str(folder), "none")
    assert "is not near enough to its SavedModel" in str(caught.value)
    assert "scores differ by nan" in str(caught.value)
    assert Path(f"{folder}.tflite").read_bytes() == before
    assert not list(folder.parent.glob("*.tmp"))


class TestCheck:
    @pytest.mark.parametrize(
        ("quantize", "parity"),
        [
            ("none", Parity(1.1e-4, 1.0)),
            ("none", Parity(np.nan, 1.0)),
            ("none", Parity(1e-5, 0.99)),
            ("dynamic", Parity(0.1, 0.979)),
            ("dynamic", Parity(np.nan, 0.999)),
            ("int8", Parity(0.1, 0.949)),
            ("int8", Parity(0.1, 0.99, (0.489, 0.5))),
            ("int8", Parity(0.1, 0.99, (np.nan, 0.5))),
        ],
    )
    def test_what_is_too_far_is_refused(self, quantize, parity):
        with pytest.raises(LiteRTError, match=f"--quantize={quantize} is not near enough"):
            litert.check(parity, quantize)

    @pytest.mark.parametrize(
        ("quantize", "parity"),
        [
            ("none", Parity(9e-5, 0.9999)),
            ("dynamic", Parity(0.2, 0.981)),
            ("int8", Parity(0.2, 0.951)),
            ("int8", Parity(0.2, 0.951, (0.491, 0.5))),
            ("int8", Parity(0.2, 0.951, (0.6, 0.5))),
        ],
    )
    def test_what_is_near_is_not(self, quantize, parity):
        litert.check(parity, quantize)

    def test_both_mean_ious_are_told(self):
        with pytest.raises(LiteRTError, match=r"its mean IoU is 0\.4321, the SavedModel's 0\.5000"):
            litert.check(Parity(0.1, 0.99, (0.4321, 0.5)), "int8")

    def test_scores_above_one_are_compared_by_their_size(self):
        picture = np.full((2, 2, 3), 100, np.uint8), None

        def scorer(factor):
            return lambda pixels: factor * np.asarray(pixels)[..., :2]

        parity = litert.compare(scorer(1.001), scorer(1), [picture, picture])
        assert parity.difference == pytest.approx(0.001, rel=1e-3)
        assert parity.same_ids == 1

    def test_the_share_of_equal_classes_is_of_all_photos(self):
        def scorer(scores):
            return lambda pixels: np.stack([scores, 1 - scores], axis=-1)[np.newaxis]

        first, second = np.zeros((2, 2)), np.array([[0.0, 0.0], [0.0, 1.0]])
        pictures = [(np.zeros((2, 2, 3), np.uint8), None)] * 2
        assert litert.compare(scorer(first), scorer(second), pictures) == Parity(1.0, 0.75)

    def test_mean_ious_are_over_the_classes_of_the_truth(self):
        """A pixel of class 2, which is nowhere, is a mistake like any other."""

        def scorer(ids):
            return lambda pixels: np.eye(3, dtype=np.float32)[np.array(ids)][np.newaxis]

        def compared(*truths):
            photo = np.zeros((1, 4, 3), np.uint8)
            found, expected = scorer([[0, 2, 1, 1]]), scorer([[0, 0, 0, 1]])
            pictures = [(photo, np.array([truth], np.uint8)) for truth in truths]
            return litert.compare(found, expected, pictures).mean_ious

        assert compared([0, 0, 1, 1]) == pytest.approx(((1 / 2 + 1) / 2, (2 / 3 + 1 / 2) / 2))
        # Counted over both pictures first.
        assert compared([0, 0, 1, 1], [1, 1, IGNORE_LABEL, IGNORE_LABEL]) == pytest.approx(
            ((1 / 3 + 2 / 4) / 2, (2 / 5 + 1 / 4) / 2)
        )
        assert compared([IGNORE_LABEL] * 4) is None


def test_pictures_are_spread_over_the_split(records_dir):
    reader = RecordReader(str(records_dir), "train")
    everything = [photo.tobytes() for photo, _ in litert.read_pictures(reader, 100)]
    assert len(set(everything)) == len(everything) == len(reader) == 24
    pictures = litert.read_pictures(reader, 6)
    assert [photo.shape for photo, _ in pictures] == [(64, 64, 3)] * 6
    assert [truth.shape for _, truth in pictures] == [(64, 64)] * 6
    assert [photo.tobytes() for photo, _ in pictures] == everything[::4]


def test_a_file_is_held_against_pictures_that_its_ranges_are_not_from(
    folder, exported, records_dir, monkeypatch
):
    """Those of the validation split, with their truth; nothing is written here."""
    given = {}

    def convert(module, quantize, calibration):
        given["calibration"] = {photo.tobytes() for photo in calibration}
        data = Path(exported["int8"][0]).read_bytes()
        return data[: data.index(b"PK\x03\x04")]  # without the files behind it

    def compare(found, expected, pictures):
        given["pictures"] = {photo.tobytes(): truth for photo, truth in pictures}
        return Parity(0.0, 1.0, (0.3, 0.4))

    monkeypatch.setattr(litert, "convert", convert)
    monkeypatch.setattr(litert, "compare", compare)
    before = Path(exported["int8"][0]).read_bytes()
    with pytest.raises(LiteRTError, match=r"mean IoU is 0\.3000"):
        litert.export(str(folder), "int8", str(records_dir))
    assert Path(exported["int8"][0]).read_bytes() == before
    assert not list(folder.parent.glob("*.tmp"))
    val = litert.read_pictures(RecordReader(str(records_dir), "val"), 100)
    assert given["pictures"].keys() == {photo.tobytes() for photo, _ in val}
    assert len(given["calibration"]) == 24
    assert not given["calibration"] & given["pictures"].keys()
    for photo, truth in val:
        np.testing.assert_array_equal(given["pictures"][photo.tobytes()], truth)


def test_int8_is_measured_against_the_truth(exported):
    found, expected = exported["int8"][1].mean_ious
    assert 0.05 < expected < 1
    assert abs(found - expected) <= 0.01
    assert exported["none"][1].mean_ious is None


class TestRefusals:
    def refusal(self, folder, *arguments) -> str:
        before = sorted(path.name for path in folder.parent.iterdir())
        with pytest.raises(UserError) as caught:
            litert.export(str(folder), *arguments)
        assert sorted(path.name for path in folder.parent.iterdir()) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_int8_needs_records(self, folder):
        assert "name them with --data_dir" in self.refusal(folder, "int8")

    def test_a_network_that_cannot_be_converted(self, folder, tmp_path):
        class Module(tf.Module):
            @tf.function(
                input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "pixels")]
            )
            def scores(self, pixels):
                return tf.cast(tf.strings.length(tf.strings.as_string(pixels)), tf.float32)

        tf.saved_model.save(Module(), str(tmp_path / "7"))
        shutil.copytree(folder / "assets", tmp_path / "7" / "assets", dirs_exist_ok=True)
        message = self.refusal(tmp_path / "7", "none")
        assert message == (
            f"{str(tmp_path / '7')!r} cannot be converted with --quantize=none: 'tf.AsString' op "
            "is neither a custom op nor a flex op. Try another --quantize, or serve the SavedModel "
            "itself."
        )

    def test_records_of_other_classes(self, folder, records_dir, tmp_path):
        records = shutil.copytree(records_dir, tmp_path / "records")
        description = (records / INFO_FILE).read_text()
        (records / INFO_FILE).write_text(description.replace('"road"', '"street"'))
        message = self.refusal(folder, "int8", str(records))
        assert "have other classes than the SavedModel" in message

    def test_what_is_no_saved_model(self, tmp_path):
        (tmp_path / "7").mkdir()
        message = self.refusal(tmp_path / "7", "none")
        assert "7' is damaged, or no SavedModel of trainer.export: " in message

    def test_a_saved_model_without_scores(self, folder, tmp_path):
        tf.saved_model.save(tf.Module(), str(tmp_path / "7"))
        shutil.copytree(folder / "assets", tmp_path / "7" / "assets", dirs_exist_ok=True)
        message = self.refusal(tmp_path / "7", "none")
        assert "it has no scores and is of an earlier version; export it again" in message

    @pytest.mark.parametrize("damage", ["missing", "text", "half", "no archive", "no network"])
    def test_what_is_no_litert_file(self, exported, tmp_path, damage):
        path = tmp_path / "x.tflite"
        data = Path(exported["none"][0]).read_bytes()
        if damage != "missing":
            start = data.index(b"PK\x03\x04")
            parts = {"text": b"text", "half": data[:5000], "no archive": data[:start],
                     "no network": data[start:]}  # fmt: skip
            path.write_bytes(parts[damage])
        with pytest.raises(LiteRTError, match=r"x\.tflite' is no LiteRT file of trainer\.export"):
            litert.load(str(path))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_dir=x", "--quantize=int8"], "--quantize is for --format=litert only."),
        (["--saved_model=x"], "--saved_model is for --format=litert only."),
        (["--format=litert"], "--saved_model is missing."),
    ],
)
def test_flags_that_do_not_go_together(run_command, flags, words):
    done = run_command("trainer.export", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1


def test_the_command_writes_the_same_bytes_and_says_so(folder, exported, run_command, records_dir):
    path, parity = exported["dynamic"]
    before = Path(path).read_bytes()
    done = run_command(
        "trainer.export", f"--saved_model={folder}", "--format=litert", "--quantize=dynamic",
        f"--data_dir={records_dir}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{parity.same_ids:.2%} of the pixels get the SavedModel's class; ")
    assert second == f"LiteRT: {path}, {len(before) / 1e6:.1f} MB"
    assert Path(path).read_bytes() == before
