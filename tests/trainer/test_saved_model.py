"""SavedModels in a process that has TensorFlow and nothing of ours."""

import io
import json
import shutil
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import dataset_info, pairs
from pipeline.overlay import overlay
from pipeline.palette import CITYSCAPES, IGNORE_LABEL, Palette
from trainer import config as config_lib
from trainer import run_folder, saved_model
from trainer.config import Config
from trainer.run_folder import RunError

SERVE = """
import builtins, json, pathlib, sys
forbidden = {"trainer", "model", "pipeline"}
real_import = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and name.partition(".")[0] in forbidden:
        raise ImportError(f"{name} is of the project")
    return real_import(name, globals, locals, fromlist, level)
builtins.__import__ = guarded

import numpy as np
import tensorflow as tf

folder, photos, answers = (pathlib.Path(argument) for argument in sys.argv[1:])
module = tf.saved_model.load(str(folder))
serve = module.signatures["serving_default"]
def answer(names):
    data = [(photos / name).read_bytes() for name in names]
    return {k: v.numpy() for k, v in serve(image_bytes=tf.constant(data)).items()}

names = sorted(path.name for path in photos.iterdir() if path.stem.startswith("good"))
alone = {name: answer([name]) for name in names}
refused = {}
for path in photos.iterdir():
    if path.stem.startswith("bad"):
        for signature in ("serving_default", "overlay"):
            data = [(photos / names[0]).read_bytes(), path.read_bytes()]
            try:
                module.signatures[signature](image_bytes=tf.constant(data))
            except tf.errors.InvalidArgumentError as error:
                refused[f"{signature} {path.name}"] = str(error)
after = answer(names)
for key, value in after.items():
    np.save(answers / f"{key}.npy", value)
    for row, name in enumerate(names):
        part = np.asarray(alone[name][key][0])
        inside = value[row][: part.shape[0], : part.shape[1]] if part.ndim else value[row]
        assert (inside == part).all(), name
images = np.load(photos / "images.npy")
by_pixels = module.signatures["from_images"](images=tf.constant(images))["class_ids"]
np.save(answers / "by_pixels.npy", by_pixels.numpy())
probabilities = module.signatures["probabilities"](images=tf.constant(images))["probabilities"]
np.save(answers / "probabilities.npy", probabilities.numpy())
data = [(photos / name).read_bytes() for name in names]
pngs = module.signatures["overlay"](image_bytes=tf.constant(data))["overlay_bytes"].numpy()
for name, png in zip(names, pngs):
    (answers / f"{name}.overlay").write_bytes(png)
dtypes = {key: str(value.dtype) for key, value in after.items()}
report = {"names": names, "refused": refused, "dtypes": dtypes}
report["ours"] = sorted({name.partition(".")[0] for name in sys.modules} & forbidden)
(answers / "report.json").write_text(json.dumps(report))
"""


@pytest.fixture(scope="module")
def network(trained_run):
    config, info = run_folder.load(str(trained_run.folder))
    network = run_folder.build_network(config, info)
    run_folder.restore_model(network.model, str(trained_run.folder), "latest")
    return lambda pixels: network.objective.scores(network.model(pixels, training=False)).numpy()


def png(width, height):
    """The beginning of a PNG that says its size, and pixels that do not follow."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum


def jpeg_of_size(data, width, height):
    """The same JPEG with another size in its header."""
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


@pytest.fixture(scope="module")
def photos(pairs_dir, tmp_path_factory):
    """JPEGs and PNGs of several, odd sizes; what is to be refused; and a batch of pixels."""
    folder = tmp_path_factory.mktemp("photos")
    scenes = [cv2.imread(str(pairs_dir / "val" / f"{i}.jpg"))[:, :64] for i in (1, 2, 3)]
    gray = cv2.cvtColor(scenes[0], cv2.COLOR_BGR2GRAY)
    files = {
        "good1.jpg": scenes[0],
        "good2.png": scenes[1][:37, :51],
        "good3.jpg": cv2.resize(scenes[2], (91, 23)),
        "good4.jpg": gray[:40],
        "good5.png": gray[:, :33],
        "good6.png": scenes[2][:1, :1],
    }
    for name, pixels in files.items():
        assert cv2.imwrite(str(folder / name), pixels)
    jpeg = (folder / "good1.jpg").read_bytes()
    gif = io.BytesIO()
    Image.fromarray(scenes[0]).save(gif, format="GIF")
    bad = {
        "header.jpg": jpeg[:200],
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": (folder / "good2.png").read_bytes()[:1000],
        "text.jpg": b"this is text",
        "empty.png": b"",
        "short.png": png(9, 9)[:20],
        "animation.gif": gif.getvalue(),
        "large.jpg": jpeg_of_size(jpeg, 65_500, 65_500),
        "large.png": png(4_097, 4_096),
        "huge.png": png(2**31 - 1, 2**31 - 1),
        "negative.png": png(2**32 - 1, 2**32 - 1),
        "nothing.png": png(0, 7),
    }
    for name, data in bad.items():
        (folder / f"bad_{name}").write_bytes(data)
    np.save(folder / "images.npy", np.stack(scenes)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def served(trained_run, photos, tmp_path_factory):
    """What the SavedModel answered from another folder, in Python's isolated mode."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    answers = tmp_path_factory.mktemp("answers")
    moved = shutil.copytree(trained_run.saved_model, elsewhere / "7")
    command = [sys.executable, "-I", "-c", SERVE, moved, photos, answers]
    result = subprocess.run(
        list(map(str, command)), cwd=elsewhere, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    found = {path.stem: np.load(path) for path in answers.glob("*.npy")}
    found["overlays"] = {path.stem: cv2.imread(str(path)) for path in answers.glob("*.overlay")}
    return {**json.loads((answers / "report.json").read_text()), **found}


def test_it_needs_none_of_our_code(served):
    assert served["ours"] == []


def decoded(path):
    data = path.read_bytes()
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def test_bytes_give_the_networks_classes(served, photos, network):
    assert len(served["names"]) == 6
    for row, name in enumerate(served["names"]):
        photo = decoded(photos / name)
        height, width, _ = photo.shape
        assert (served["height"][row], served["width"][row]) == (height, width)
        expected = np.argmax(network(photo[np.newaxis].astype(np.float32))[0], axis=-1)
        np.testing.assert_array_equal(served["class_ids"][row, :height, :width], expected)


def test_the_pictures_are_told_apart(served):
    assert len(np.unique(served["class_ids"])) > 2
    assert len(np.unique(served["by_pixels"])) > 2


def test_a_batch_has_its_largest_size_and_255_beyond_each_photo(served):
    class_ids = served["class_ids"]
    assert class_ids.shape == (6, 64, 91)
    for row, (height, width) in enumerate(zip(served["height"], served["width"], strict=True)):
        assert (class_ids[row, :height, :width] < 19).all()
        beyond = class_ids[row].copy()
        beyond[:height, :width] = IGNORE_LABEL
        assert (beyond == IGNORE_LABEL).all()
    assert served["dtypes"] == {"class_ids": "uint8", "height": "int32", "width": "int32"}


def test_pixels_give_the_networks_classes(served, photos, network):
    images = np.load(photos / "images.npy")
    assert served["by_pixels"].dtype == np.uint8
    expected = np.argmax(network(images.astype(np.float32)), axis=-1)
    np.testing.assert_array_equal(served["by_pixels"], expected)


def test_real_photos_get_the_networks_classes(trained_run, network, real_pairs):
    served = tf.saved_model.load(trained_run.saved_model).signatures["serving_default"]
    found = sorted((real_pairs / "val").glob("*.jpg"))[:4]
    photos = [pairs.split_pair(pairs.decode_image(f.read_bytes()), "left")[0] for f in found]
    assert len(photos) == 4
    data = [tf.io.encode_png(photo).numpy() for photo in photos]
    answer = {name: value.numpy() for name, value in served(image_bytes=tf.constant(data)).items()}
    for row, photo in enumerate(photos):
        height, width, _ = photo.shape
        expected = np.argmax(network(photo[np.newaxis].astype(np.float32))[0], axis=-1)
        np.testing.assert_array_equal(answer["class_ids"][row, :height, :width], expected)


def test_probabilities_are_the_networks(served, photos, network):
    images = np.load(photos / "images.npy")
    found = served["probabilities"]
    assert found.shape == (3, 64, 64, 19) and found.dtype == np.float32
    np.testing.assert_allclose(found, network(images.astype(np.float32)), atol=1e-6)
    np.testing.assert_array_equal(served["by_pixels"], np.argmax(found, axis=-1))


def test_an_overlay_is_that_of_our_pictures(served, photos):
    assert len(served["overlays"]) == 6
    for row, name in enumerate(served["names"]):
        photo = decoded(photos / name)
        height, width, _ = photo.shape
        expected = overlay(photo, served["class_ids"][row, :height, :width], CITYSCAPES)
        found = served["overlays"][name][..., ::-1].astype(int)
        assert found.shape == photo.shape
        assert np.abs(found - expected).max() <= 1  # halves are rounded up or down
        assert (found != expected).mean() < 0.05


NO_IMAGE = "image_bytes[1] is neither a JPEG nor a PNG."
TOO_LARGE = "image_bytes[1] has {} pixels; 1 to 16777216 are decoded."


@pytest.mark.parametrize("signature", ["serving_default", "overlay"])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("header.jpg", "Invalid JPEG data"),
        ("half.jpg", "Invalid JPEG data"),
        ("half.png", "Invalid PNG data"),
        ("text.jpg", NO_IMAGE),
        ("empty.png", NO_IMAGE),
        ("animation.gif", NO_IMAGE),
        ("short.png", TOO_LARGE.format("9x0")),
        ("large.jpg", TOO_LARGE.format("65500x65500")),
        ("large.png", TOO_LARGE.format("4097x4096")),
        ("huge.png", TOO_LARGE.format("2147483647x2147483647")),
        ("negative.png", TOO_LARGE.format("-1x-1")),
        ("nothing.png", TOO_LARGE.format("0x7")),
    ],
)
def test_bad_bytes_are_an_error_of_that_request_alone(served, signature, name, part):
    # `served` asked again afterwards, and got what the other tests look at.
    assert part in served["refused"][f"{signature} bad_{name}"]


def test_a_tall_and_a_wide_photo_cannot_take_the_memory_together(trained_run):
    thin = np.zeros((20_000, 1, 3), np.uint8)
    data = [cv2.imencode(".png", photo)[1].tobytes() for photo in (thin, thin.transpose(1, 0, 2))]
    ask = tf.saved_model.load(trained_run.saved_model).signatures["serving_default"]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="2 images, padded to 20000x20000 pixels"
    ):
        ask(image_bytes=tf.constant(data))
    assert ask(image_bytes=tf.constant(data[:1]))["class_ids"].shape == (1, 20_000, 1)


def test_the_signatures_are_as_documented(trained_run):
    signatures = tf.saved_model.load(trained_run.saved_model).signatures
    assert set(signatures) == {"serving_default", "from_images", "probabilities", "overlay"}
    (by_bytes,) = signatures["serving_default"].structured_input_signature[1].values()
    assert (by_bytes.name, by_bytes.dtype, by_bytes.shape.as_list()) == (
        "image_bytes", tf.string, [None],
    )  # fmt: skip
    (pixels,) = signatures["from_images"].structured_input_signature[1].values()
    assert (pixels.name, pixels.dtype, pixels.shape.as_list()) == (
        "images", tf.uint8, [None, None, None, 3],
    )  # fmt: skip
    outputs = signatures["serving_default"].structured_outputs
    assert {name: spec.dtype for name, spec in outputs.items()} == {
        "class_ids": tf.uint8, "height": tf.int32, "width": tf.int32,
    }  # fmt: skip


def test_palette_configuration_and_preprocessing_travel_along(
    trained_run, tiny_config, records_dir, tmp_path
):
    folder = shutil.copytree(trained_run.saved_model, tmp_path / "7")
    palette = json.loads((folder / "assets" / "palette.json").read_text())
    assert Palette.from_dict(palette) == CITYSCAPES
    config = (folder / "assets" / saved_model.CONFIG_ASSET).read_text()
    assert Config.from_json(config, "asset") == tiny_config
    taken = json.loads((folder / "assets" / saved_model.PREPROCESSING_ASSET).read_text())
    assert taken["image_bytes"]["max_pixels"] == 2**24
    info = dataset_info.load_info(str(records_dir))
    assert taken["training_levels"] == {"mean": info.mean, "standard_deviation": info.std}


def test_the_auxiliary_head_stays_at_home(trained_run):
    config, info = run_folder.load(str(trained_run.folder))
    variables = run_folder.build_network(config, info).model.variables
    needed = {
        tuple(v.shape): sum(tuple(w.shape) == tuple(v.shape) for w in variables
                            if not w.path.startswith("auxiliary") and w.dtype != "uint32")
        for v in variables
    }  # fmt: skip
    weights = tf.train.load_checkpoint(f"{trained_run.saved_model}/variables/variables")
    shapes = [tuple(shape) for shape in weights.get_variable_to_shape_map().values()]
    assert any(v.path.startswith("auxiliary") for v in variables)
    for shape, count in needed.items():
        if len(shape) > 1:
            assert shapes.count(shape) == count


def test_the_article_is_served_too(records_dir):
    info = dataset_info.load_info(str(records_dir))
    network = run_folder.build_network(config_lib.preset("article"), info)
    images = np.random.default_rng(0).integers(0, 256, (2, 13, 9, 3), np.uint8)
    module = saved_model.ServingModule(network, CITYSCAPES, assets=[])
    colors = network.model(images.astype(np.float32))["colors"].numpy()[..., np.newaxis, :]
    distances = ((colors - CITYSCAPES.class_colors / 255) ** 2).sum(axis=-1)
    found = module.from_images(images)["class_ids"].numpy()
    assert found.dtype == np.uint8
    assert (found != np.argmin(distances, axis=-1)).sum() <= 1  # by float64
    data = [tf.io.encode_png(image).numpy() for image in images]
    np.testing.assert_array_equal(module.from_bytes(tf.constant(data))["class_ids"], found)


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_export_replaces_the_one_before_it_whole(trained_run, photos, tmp_path):
    run = shutil.copytree(trained_run.folder, tmp_path / "run")
    version = run / "export" / "40"
    before = contents(version)
    (version / "leftover").write_text("of something else")
    (version / "saved_model.pb").write_bytes(b"damaged")
    assert saved_model.export(str(run), "latest") == str(version)
    assert contents(version) == before
    assert [path.name for path in (run / "export").iterdir()] == ["40"]
    images = tf.constant(np.load(photos / "images.npy"))
    first, second = (
        tf.saved_model.load(str(folder)).signatures["from_images"](images=images)["class_ids"]
        for folder in (trained_run.saved_model, version)
    )
    np.testing.assert_array_equal(first, second)


def test_the_best_checkpoint_is_exported_under_its_step(trained_run, tmp_path):
    run = shutil.copytree(trained_run.folder, tmp_path / "run")
    (best,) = (run / "best").glob("*.index")
    step = best.stem.removeprefix("ckpt-")
    # Both lie beside each other, unless the last checkpoint is the best.
    assert saved_model.export(str(run), "best") == str(run / "export" / step)
    assert {path.name for path in (run / "export").iterdir()} == {step, "40"}


def test_an_export_that_cannot_be_leaves_nothing(trained_run, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RunError, match="holds no run"):
        saved_model.export(str(run), "best")
    assert not run.exists()
    ignore = shutil.ignore_patterns("best", "export")
    shutil.copytree(trained_run.folder, run, ignore=ignore)
    with pytest.raises(RunError, match="holds no best checkpoint yet"):
        saved_model.export(str(run), "best")
    assert not (run / "export").exists()
