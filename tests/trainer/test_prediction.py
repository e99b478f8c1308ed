"""Photos labelled with a SavedModel: what is written, and what is refused by name."""

import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline import pairs
from pipeline.palette import CITYSCAPES
from trainer import prediction, saved_model
from trainer.inference import Inference
from trainer.prediction import PredictionError
from trainer.run_folder import RunError


@pytest.fixture
def photos(pairs_dir, tmp_path):
    """Three photos of different, odd sizes: JPEG, PNG and a greyscale JPEG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    scene = cv2.imread(str(pairs_dir / "val" / "1.jpg"))[:, :64]
    cv2.imwrite(str(folder / "a.jpg"), scene)
    cv2.imwrite(str(folder / "b.PNG"), scene[:41, :53])
    cv2.imwrite(str(folder / "c.jpeg"), cv2.cvtColor(scene[:, :31], cv2.COLOR_BGR2GRAY))
    (folder / "notes.txt").write_text("no photo, and not named like one")
    return folder


def rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def predict(trained_run, source, output, **options):
    return prediction.predict_folder(trained_run.saved_model, str(source), str(output), **options)


def ids_of(output, stem):
    return cv2.imread(str(output / f"{stem}_ids.png"), cv2.IMREAD_UNCHANGED)


def answer_of(trained_run, photo):
    signature = tf.saved_model.load(trained_run.saved_model).signatures["from_images"]
    return signature(images=tf.constant(photo[np.newaxis]))["class_ids"][0].numpy()


def test_ids_are_the_signatures_answer_at_the_photos_size(trained_run, photos, tmp_path):
    output = tmp_path / "new" / "output"
    assert predict(trained_run, photos, output) == (3, [])
    assert sorted(path.name for path in output.iterdir()) == [
        f"{stem}_{kind}.png" for stem in "abc" for kind in ("ids", "overlay")
    ]
    for stem, name in (("a", "a.jpg"), ("b", "b.PNG"), ("c", "c.jpeg")):
        photo, ids = rgb(photos / name), ids_of(output, stem)
        assert ids.dtype == np.uint8
        assert ids.shape == photo.shape[:2]
        np.testing.assert_array_equal(ids, answer_of(trained_run, photo))
    assert len(np.unique(ids_of(output, "a"))) > 1


def test_photos_are_shown_as_the_options_say(trained_run, photos, tmp_path):
    options = Inference(scales=(0.75, 1.25), flip=True, window=40)
    predict(trained_run, photos, tmp_path / "output", inference=options)
    scorer, _ = saved_model.load(trained_run.saved_model)
    for stem, name in (("a", "a.jpg"), ("b", "b.PNG")):
        photo, ids = rgb(photos / name), ids_of(tmp_path / "output", stem)
        scores = options.scores(scorer, photo[np.newaxis].astype(np.float32))[0]
        np.testing.assert_array_equal(ids, np.argmax(scores, axis=-1))
        assert (ids != answer_of(trained_run, photo)).any()


def test_the_overlay_shows_photo_classes_and_legend(trained_run, photos, tmp_path):
    predict(trained_run, photos, tmp_path / "output")
    for stem, name in (("a", "a.jpg"), ("b", "b.PNG")):
        photo, ids = rgb(photos / name), ids_of(tmp_path / "output", stem)
        overlay = rgb(tmp_path / "output" / f"{stem}_overlay.png")
        height, width = ids.shape
        assert overlay.shape[0] >= height
        np.testing.assert_array_equal(overlay[:height, :width], photo)
        tinted = overlay[:height, width + 4 : 2 * width + 4]
        expected = 0.45 * photo + 0.55 * CITYSCAPES.colorize(ids)
        assert np.abs(tinted - expected).max() <= 1
        legend = overlay[:, 2 * width + 4 :]
        for train_id in np.unique(ids):
            assert (legend == CITYSCAPES.class_colors[train_id]).all(axis=2).sum() > 100


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_half_of_a_pair_is_taken(trained_run, pairs_dir, tmp_path, side):
    pair = rgb(pairs_dir / "val" / "2.jpg")
    predict(trained_run, pairs_dir / "val" / "2.jpg", tmp_path / "output", pairs_side=side)
    photo = pair[:, :64] if side == "left" else pair[:, 64:]
    expected = answer_of(trained_run, photo)
    np.testing.assert_array_equal(ids_of(tmp_path / "output", "2"), expected)


def test_what_is_no_photo_is_listed_and_the_others_are_done(trained_run, photos, tmp_path):
    (photos / "text.jpg").write_text("this is text")
    (photos / "empty.png").write_bytes(b"")
    (photos / "half.jpg").write_bytes((photos / "a.jpg").read_bytes()[:1200])
    (photos / "folder.jpg").mkdir()
    cv2.imwrite(str(photos / "large.png"), np.zeros((4096, 4097), np.uint8))
    cv2.imwrite(str(photos / "long.png"), np.zeros((1, 600_000), np.uint8))
    done, bad = predict(trained_run, photos, tmp_path / "output")
    assert done == 3
    reasons = dict(entry.split(": ", 1) for entry in bad)
    assert reasons.keys() == {
        "text.jpg", "empty.png", "half.jpg", "folder.jpg", "large.png", "long.png",
    }  # fmt: skip
    assert reasons["text.jpg"] == "not a JPEG or PNG file"
    assert reasons["empty.png"] == "the file is empty"
    assert "cut short" in reasons["half.jpg"]
    assert reasons["large.png"] == "4097x4096 pixels; more than 16777216 need --window"
    assert reasons["long.png"] == "600000x1 pixels; a side may have 65500 at most"
    assert len(list((tmp_path / "output").iterdir())) == 6


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        (Inference(scales=(0.5,)), []),
        (Inference(scales=(0.5, 1.0)), []),
        (Inference(scales=(0.5, 1.5), window=64), []),
        (
            Inference(scales=(0.5, 1.5)),
            ["a.jpg: 64x64 pixels at 1.5 times their sides; more than 4096 need --window"],
        ),
    ],
)
def test_the_bound_is_of_the_largest_copy_that_is_seen_whole(
    trained_run, photos, tmp_path, monkeypatch, options, bad
):
    monkeypatch.setattr(pairs, "MAX_PREDICTED_PIXELS", 64 * 64)
    found = predict(trained_run, photos / "a.jpg", tmp_path / "output", inference=options)
    assert found == (1 - len(bad), bad)


@pytest.mark.parametrize(
    ("error", "window", "words"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), None, "a --window needs less"),
        (MemoryError(), 32, "a smaller --window needs less"),
    ],
)
def test_a_photo_that_memory_does_not_do_for_is_listed_and_the_others_are_done(
    trained_run, photos, tmp_path, monkeypatch, error, window, words
):
    really_load = prediction.load_saved_model

    def load(*arguments):
        really_predict, palette = really_load(*arguments)

        def predict(photo):
            if photo.shape[1] == 53:
                raise error
            return really_predict(photo)

        return predict, palette

    monkeypatch.setattr(prediction, "load_saved_model", load)
    options = Inference(window=window)
    done, bad = predict(trained_run, photos, tmp_path / "output", inference=options)
    assert (done, bad) == (2, [f"b.PNG: 53x41 pixels, for which memory ran out; {words}"])
    assert {path.name[0] for path in (tmp_path / "output").iterdir()} == {"a", "c"}


def test_a_photo_is_labelled_as_it_is_shown(trained_run, photos, tmp_path):
    image = Image.open(photos / "b.PNG")
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    predict(trained_run, tmp_path / "turned.jpg", tmp_path / "output")
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")))
    ids = ids_of(tmp_path / "output", "turned")
    assert ids.shape == shown.shape[:2] == (53, 41)
    assert (ids != answer_of(trained_run, shown)).mean() < 0.02  # two decoders round differently


def test_an_odd_width_is_no_pair(trained_run, photos, tmp_path):
    done, bad = predict(trained_run, photos, tmp_path / "output", pairs_side="left")
    assert done == 1
    assert [entry.partition(":")[0] for entry in bad] == ["b.PNG", "c.jpeg"]
    assert ids_of(tmp_path / "output", "a").shape == (64, 32)


def test_the_command_lists_bad_photos_and_fails(trained_run, photos, tmp_path, run_command):
    (photos / "text.jpg").write_text("this is text")
    result = run_command(
        "trainer.predict", f"--saved_model={trained_run.saved_model}", f"--input={photos}",
        f"--output_dir={tmp_path / 'output'}",
    )  # fmt: skip
    assert result.returncode == 1
    assert "3 photos labelled" in result.stdout
    expected = "error: 1 photos could not be labelled: text.jpg: not a JPEG or PNG file.\n"
    assert result.stderr == expected
    assert len(list((tmp_path / "output").iterdir())) == 6


def test_the_limit_counts_photos(trained_run, photos, tmp_path):
    assert predict(trained_run, photos, tmp_path / "output", limit=2) == (2, [])
    assert not (tmp_path / "output" / "c_ids.png").exists()


def test_an_empty_output_folder_may_be_there(trained_run, photos, tmp_path):
    (tmp_path / "output").mkdir()
    assert predict(trained_run, photos / "a.jpg", tmp_path / "output") == (1, [])


def refusal(trained_run, source, output, **options):
    with pytest.raises(PredictionError) as caught:
        predict(trained_run, source, output, **options)
    assert not list(output.parent.glob("output/*_ids.png"))
    return str(caught.value)


def test_missing_photos_are_named(trained_run, tmp_path):
    message = refusal(trained_run, tmp_path / "nowhere", tmp_path / "output")
    assert f"{str(tmp_path / 'nowhere')!r} is missing" in message
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "._a.jpg").write_bytes(b"of macOS")
    message = refusal(trained_run, tmp_path / "empty", tmp_path / "output")
    assert "holds no photos (.jpg, .jpeg, .png)" in message
    assert not (tmp_path / "output").exists()


def test_an_output_folder_in_use_is_refused(trained_run, photos, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").write_text("mine")
    assert "is not an empty folder" in refusal(trained_run, photos, tmp_path / "output")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["mine.txt"]
    assert "is not an empty folder" in refusal(
        trained_run, photos, tmp_path / "output" / "mine.txt"
    )


@pytest.mark.parametrize("others", [[], ["a.jq.jpg"]], ids=["neighbours", "one between"])
def test_two_photos_of_one_name_are_refused(trained_run, photos, tmp_path, others):
    for name in ("a.png", *others):
        shutil.copy(photos / "b.PNG", photos / name)
    message = refusal(trained_run, photos, tmp_path / "output")
    assert "a.jpg' and " in message and "a.png' would be written to the same files" in message


def without_weights(folder):
    shutil.rmtree(folder / "variables")


def without_graph(folder):
    (folder / "saved_model.pb").unlink()


def with_half_a_graph(folder):
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_palette(folder):
    (folder / "assets" / "palette.json").unlink()


def with_half_a_palette(folder):
    path = folder / "assets" / "palette.json"
    path.write_text(path.read_text()[:100])


def with_another_palette(folder):
    (folder / "assets" / "palette.json").write_text("[]")


def with_another_signature(folder):
    shutil.copytree(folder / "assets", folder.parent / "assets")
    shutil.rmtree(folder)
    tf.saved_model.save(tf.Module(), str(folder))
    shutil.copytree(folder.parent / "assets", folder / "assets", dirs_exist_ok=True)


@pytest.mark.parametrize(
    "damage",
    [shutil.rmtree, without_weights, without_graph, with_half_a_graph, without_palette,
     with_half_a_palette, with_another_palette, with_another_signature],
)  # fmt: skip
def test_what_is_no_saved_model_is_named(trained_run, photos, tmp_path, damage):
    folder = shutil.copytree(trained_run.saved_model, tmp_path / "7")
    damage(folder)
    with pytest.raises(RunError) as caught:
        prediction.predict_folder(str(folder), str(photos), str(tmp_path / "output"))
    message = str(caught.value)
    assert f"{str(folder)!r} is damaged, or no SavedModel of trainer.export: " in message
    assert "\n" not in message
    assert not (tmp_path / "output").exists()
