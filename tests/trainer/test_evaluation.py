"""Confusion matrices against a count pixel by pixel, and what is said of them."""

import dataclasses
import json
import shutil
from fractions import Fraction

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from model import metrics
from pipeline import dataset_info, street, synthesize
from pipeline.input_fn import RecordReader
from pipeline.palette import CITYSCAPES, IGNORE_LABEL
from trainer import distribution, evaluation, litert, pictures, run_folder, saved_model
from trainer.evaluation import Counts, Evaluator
from trainer.inference import WHOLE_PHOTO, Inference
from trainer.run_folder import RunError

SIZES = [(64, 64), (64, 48), (50, 64), (33, 41), (64, 64)]
"""Heights and widths of the mixed records, of which none but the first fills a batch's shape."""


@pytest.fixture(scope="module")
def mixed_records(tmp_path_factory):
    """Records whose photos differ in size, so that batches are padded."""
    from pipeline import job

    folder = tmp_path_factory.mktemp("mixed")
    for split in ("train", "val"):
        (folder / "pairs" / split).mkdir(parents=True)
        for index, (height, width) in enumerate(SIZES):
            photo, labels = street.draw_scene(synthesize.scene_rng(1, split, index), 64)
            pair = synthesize.encode_pair(photo[:height, :width], labels[:height, :width])
            (folder / "pairs" / split / f"{index}.jpg").write_bytes(pair)
    job.run(job.JobOptions(str(folder / "pairs"), str(folder / "records"), num_shards=1))
    return folder / "records"


@pytest.fixture(scope="module")
def network(trained_run):
    """The trained network."""
    config, info = run_folder.load(str(trained_run.folder))
    network = run_folder.build_network(config, info)
    run_folder.restore_model(network.model, str(trained_run.folder), "latest")
    return network


def decoded_records(folder, split):
    """Key, photo and labels of each record, without our readers."""
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("key", "image", "label")}
    for path in sorted(folder.glob(f"*-{split}.tfrecord-*")):
        for record in tf.data.TFRecordDataset(str(path)):
            example = tf.io.parse_single_example(record, features)
            photo = tf.io.decode_jpeg(example["image"], dct_method="INTEGER_ACCURATE").numpy()
            png = np.frombuffer(example["label"].numpy(), np.uint8)
            yield example["key"].numpy().decode(), photo, cv2.imdecode(png, cv2.IMREAD_UNCHANGED)


def counted_by_hand(network, folder, split):
    """The confusion matrix and each picture's right and valid pixels, one pixel at a time."""
    info = dataset_info.load_info(str(folder))
    height, width = info.splits[split].max_height, info.splits[split].max_width
    matrix, pictures = np.zeros((19, 19), np.int64), []
    for _, photo, labels in decoded_records(folder, split):
        padded = np.full((1, height, width, 3), np.float32(np.mean(info.mean)), np.float32)
        padded[0, : photo.shape[0], : photo.shape[1]] = photo
        logits = network(padded, training=False)["logits"][0].numpy()
        of_picture = np.zeros((19, 19), np.int64)
        for at, truth in np.ndenumerate(labels):
            if truth != IGNORE_LABEL:
                of_picture[truth, np.argmax(logits[at])] += 1
        matrix += of_picture
        pictures.append((np.trace(of_picture), of_picture.sum()))
    return matrix, pictures


def assert_same_counts(found, expected):
    """The same truths; two pixels may tip over where two classes are equal but for rounding."""
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found.sum(axis=1), expected.sum(axis=1))
    assert np.abs(found - expected).sum() <= 4


@pytest.fixture(scope="module")
def network_on_two(network, trained_run, mirrored_strategy):
    """The same for two replicas."""
    config, info = run_folder.load(str(trained_run.folder))
    with mirrored_strategy.scope():
        copy = run_folder.build_network(config, info)
    copy.model.set_weights(network.model.get_weights())
    return copy


@pytest.mark.parametrize(
    ("records", "batch_sizes", "batch_sizes_on_two"),
    # On two replicas 1 and 3 are made 2 and 4.
    [("records_dir", (1, 8), (3,)), ("mixed_records", (3,), (1, 8))],
)
def test_confusion_counts_every_pixel_once(
    network, network_on_two, mirrored_strategy, records, batch_sizes, batch_sizes_on_two, request
):
    folder = request.getfixturevalue(records)
    expected, pictures = counted_by_hand(network.model, folder, "val")
    worst = sorted(range(len(pictures)), key=lambda index: Fraction(*pictures[index]))[:3]
    assert expected.sum() > 5_000
    assert (np.diag(expected) > 0).sum() >= 3  # several classes are told apart
    reader = RecordReader(str(folder), "val")
    one = distribution.create_strategy("one")
    evaluators = [Evaluator(one, network, reader, 19, size) for size in batch_sizes]
    for size, evaluator in zip(batch_sizes, evaluators, strict=True):
        assert evaluator.num_steps == -(-len(reader) // size)
    evaluators += [
        Evaluator(mirrored_strategy, network_on_two, reader, 19, size)
        for size in batch_sizes_on_two
    ]
    for evaluator in evaluators:
        counts = evaluator.count()
        found = counts.matrix
        assert_same_counts(found, expected)
        assert counts.pictures.dtype == np.int64
        assert np.abs(counts.pictures - pictures).sum() <= 4
        assert counts.worst(3) == worst
        np.testing.assert_array_equal(evaluator.confusion(), found)  # it may be asked again


def test_the_count_of_training_is_the_count_of_evaluation(trained_run, records_dir):
    step, evaluator, palette = evaluation.load_run(
        str(records_dir), str(trained_run.folder), "val", "latest", batch_size=3
    )
    assert step == 40
    assert palette == CITYSCAPES
    assert_same_counts(evaluator.confusion(), trained_run.matrix)


@pytest.mark.parametrize(
    ("records", "options"),
    [
        ("records_dir", WHOLE_PHOTO),
        ("mixed_records", Inference(scales=(0.75, 1.0), flip=True, window=40)),
    ],
)
def test_a_saved_model_scores_as_its_checkpoint(trained_run, records, options, request):
    folder = str(request.getfixturevalue(records))
    step, evaluator, palette = evaluation.load_run(
        folder, str(trained_run.folder), "val", "latest", 3, options
    )
    expected = evaluator.confusion()
    source = trained_run.saved_model
    assert source.endswith(f"/{step}")
    scorer, classes = saved_model.load(source)
    assert classes == palette
    counts = evaluation.evaluator_of(scorer, classes, source, folder, "val", 2, options).count()
    assert_same_counts(counts.matrix, expected)
    assert counts.pictures[:, 1].sum() == expected.sum()


@pytest.fixture(scope="module")
def litert_file(trained_run, tmp_path_factory):
    """The float32 LiteRT file of the run's SavedModel."""
    folder = shutil.copytree(trained_run.saved_model, tmp_path_factory.mktemp("litert") / "40")
    return litert.export(str(folder), "none")[0]


@pytest.mark.parametrize(
    "options", [WHOLE_PHOTO, Inference(scales=(0.75, 1.0), flip=True, window=40)]
)
def test_a_litert_file_scores_as_its_saved_model(trained_run, mixed_records, litert_file, options):
    matrices = []
    for load, source in ((saved_model.load, trained_run.saved_model), (litert.load, litert_file)):
        scorer, palette = load(source)
        evaluator = evaluation.evaluator_of(
            scorer, palette, source, str(mixed_records), "val", 2, options
        )
        matrices.append(evaluator.confusion())
    expected, found = matrices
    assert_same_counts(found, expected)
    assert (np.diag(found) > 0).sum() >= 3


def test_the_command_scores_a_litert_file(litert_file, records_dir, run_command, tmp_path):
    done = run_command(
        "trainer.evaluate", f"--data_dir={records_dir}", f"--litert={litert_file}",
        f"--output_dir={tmp_path}", "--flip",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "evaluation-val"
    assert done.stdout.endswith(f"{litert_file}. Figures: {path}.json, {path}.png\n")
    figures = json.loads((tmp_path / "evaluation-val.json").read_text())
    assert figures["file"] == litert_file
    options = Inference(flip=True)
    assert figures["inference"] == json.loads(json.dumps(dataclasses.asdict(options)))
    scorer, palette = litert.load(litert_file)
    expected = evaluation.evaluator_of(
        scorer, palette, litert_file, str(records_dir), "val", 8, options
    ).confusion()
    assert_same_counts(np.array(figures["confusion_matrix"]), expected)
    assert figures["mean_iou"] == pytest.approx(metrics.mean_iou(expected), abs=1e-3)


def test_any_function_of_pixels_is_scored(records_dir):
    """A network of numpy, shown the photos mirrored as well; the count is made by hand."""
    options = Inference(flip=True)

    def by_red(pixels):
        return np.eye(19, dtype=np.float32)[np.asarray(pixels)[..., 0].astype(int) // 16]

    palette = dataset_info.load_info(str(records_dir)).palette
    evaluator = evaluation.evaluator_of(by_red, palette, "x", str(records_dir), "val", 3, options)
    expected = np.zeros((19, 19), np.int64)
    for _, photo, labels in decoded_records(records_dir, "val"):
        valid = labels != IGNORE_LABEL
        np.add.at(expected, (labels[valid], photo[valid][:, 0] // 16), 1)
    np.testing.assert_array_equal(evaluator.confusion(), expected)


def test_the_best_checkpoint_is_the_one_that_scored_best(trained_run, records_dir, scalars):
    step, evaluator, _ = evaluation.load_run(
        str(records_dir), str(trained_run.folder), "val", "best", batch_size=8
    )
    scores = scalars(trained_run.folder / "validation", "mean_iou")
    assert scores[step] == max(scores.values())
    assert metrics.mean_iou(evaluator.confusion()) == pytest.approx(scores[step], abs=1e-3)


@given(
    st.lists(st.integers(0, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))),
    st.integers(0, 6),
)
@example([(1, 2), (0, 0), (2, 4), (0, 3), (1, 2)], 3)
def test_the_worst_and_the_best_are_those_of_the_lowest_and_highest_accuracy(pictures, count):
    seen = [index for index, (_, valid) in enumerate(pictures) if valid]
    counts = Counts(np.zeros((19, 19), np.int64), np.array(pictures, np.int64).reshape(-1, 2))
    for found, sign in ((counts.worst(count), 1), (counts.best(count), -1)):
        expected = sorted(seen, key=lambda index: (sign * Fraction(*pictures[index]), index))
        assert found == expected[:count]


def test_examples_are_pictures_with_their_predictions(network, records_dir):
    reader = RecordReader(str(records_dir), "val")
    evaluator = Evaluator(distribution.create_strategy("one"), network, reader, 19, 8)
    records = list(decoded_records(records_dir, "val"))
    for found, place in zip(evaluator.examples([0, 1, 5, 2]), [0, 1, 5, 2], strict=True):
        key, photo, labels = records[place]
        assert found.key == key
        np.testing.assert_array_equal(found.photo, photo)
        np.testing.assert_array_equal(found.truth, labels)
        logits = network.model(photo[np.newaxis].astype(np.float32), training=False)["logits"][0]
        assert (found.prediction != np.argmax(logits, axis=-1)).sum() <= 2
        right = [p == t for p, t in zip(found.prediction.flat, labels.flat, strict=True) if t < 19]
        assert found.pixel_accuracy == pytest.approx(sum(right) / len(right))
    assert evaluator.first(99) == list(range(len(records)))
    assert evaluator.first(2) == [0, 1]
    assert list(evaluator.examples([])) == []


def test_a_picture_of_nothing_but_void_has_no_accuracy():
    void = np.full((2, 3), IGNORE_LABEL, np.uint8)
    picture = evaluation.Example("a", np.zeros((2, 3, 3), np.uint8), void, np.zeros_like(void))
    assert np.isnan(picture.pixel_accuracy)


@pytest.fixture
def records_of_other_classes(records_dir, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(records_dir, folder)
    path = folder / dataset_info.INFO_FILE
    info = json.loads(path.read_text())
    info["palette"]["classes"][0]["name"] = "street"
    path.write_text(json.dumps(info))
    return folder


def test_records_of_other_classes_are_refused(trained_run, records_of_other_classes):
    with pytest.raises(RunError, match="other classes") as caught:
        evaluation.load_run(
            str(records_of_other_classes), str(trained_run.folder), "val", "best", 8
        )
    assert str(records_of_other_classes) in str(caught.value)
    assert str(trained_run.folder) in str(caught.value)


def test_a_folder_without_a_run_or_a_checkpoint_is_named(trained_run, records_dir, tmp_path):
    with pytest.raises(RunError, match=r"holds no run: config\.json is missing"):
        evaluation.load_run(str(records_dir), str(tmp_path), "val", "best", 8)
    for name in ("config.json", dataset_info.INFO_FILE):
        shutil.copy(trained_run.folder / name, tmp_path)
    for kind in ("best", "latest"):
        with pytest.raises(RunError, match=f"no {kind} checkpoint yet"):
            evaluation.load_run(str(records_dir), str(tmp_path), "val", kind, 8)


def test_a_damaged_best_checkpoint_is_named(trained_run, records_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained_run.folder, folder)
    (data,) = (folder / "best").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"best/ckpt-.*is damaged"):
        evaluation.load_run(str(records_dir), str(folder), "val", "best", 8)
    (folder / "best" / "checkpoint").write_text("")
    with pytest.raises(RunError, match="best/checkpoint' is damaged"):
        evaluation.load_run(str(records_dir), str(folder), "val", "best", 8)


def matrix_of_three():
    """Road 80 of 100 right and 20 called sky; sky all right; nothing else is there."""
    matrix = np.zeros((19, 19), np.int64)
    matrix[0, 0], matrix[0, 10], matrix[10, 10] = 80, 20, 100
    return matrix


def test_absent_classes_are_left_out():
    summary = evaluation.summarize(matrix_of_three(), CITYSCAPES)
    assert summary["iou"]["road"] == pytest.approx(0.8)
    assert summary["iou"]["sky"] == pytest.approx(100 / 120)
    assert summary["mean_iou"] == pytest.approx((0.8 + 100 / 120) / 2)
    assert summary["pixel_accuracy"] == pytest.approx(0.9)
    assert summary["class_accuracy"] == pytest.approx(0.9)
    absent = [name for name in CITYSCAPES.class_names if name not in ("road", "sky")]
    assert summary["absent_classes"] == absent
    assert all(summary["iou"][name] is None for name in absent)
    assert list(summary["iou"]) == CITYSCAPES.class_names
    json.dumps(summary, allow_nan=False)


def test_a_class_that_is_only_predicted_counts_as_0():
    matrix = matrix_of_three()
    matrix[0, 13] = 5  # cars where there are none
    summary = evaluation.summarize(matrix, CITYSCAPES)
    assert summary["iou"]["car"] == 0
    assert "car" not in summary["absent_classes"]
    assert summary["mean_iou"] == pytest.approx((80 / 105 + 100 / 120 + 0) / 3)


def test_the_table_says_it_all():
    matrix = matrix_of_three()
    matrix[10, 13] = 100
    lines = evaluation.table(matrix, CITYSCAPES).splitlines()
    assert lines[0].split() == ["class", "IoU", "accuracy", "pixels"]
    rows = {line[:16].strip(): line[16:].split() for line in lines[1:20]}
    assert list(rows) == CITYSCAPES.class_names
    assert rows["road"] == ["0.800", "0.800", "33.333%"]
    assert rows["sky"] == ["0.455", "0.500", "66.667%"]
    assert rows["car"] == ["0.000", "-", "0.000%"]
    assert rows["bus"] == ["-", "-", "0.000%"]
    assert lines[20].split() == ["mean", "0.418", "0.650"]
    assert lines[21] == "Pixel accuracy 0.600."
    assert lines[22].startswith("Left out of the mean, in neither truth nor prediction: sidewalk,")
    assert "car" not in lines[22]


def test_nothing_is_said_of_absent_classes_where_there_are_none():
    table = evaluation.table(np.ones((19, 19), np.int64), CITYSCAPES)
    assert "Left out" not in table
    assert len({len(line) for line in table.splitlines()[:20]}) == 1  # columns are aligned


def test_what_is_written_is_the_figures_and_a_picture(tmp_path):
    matrix = matrix_of_three()
    path = evaluation.write(str(tmp_path / "new"), "val", matrix, CITYSCAPES, {"file": "x"})
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["evaluation-val.json", "evaluation-val.png"]
    figures = json.loads((tmp_path / "new" / "evaluation-val.json").read_text())
    assert figures.pop("confusion_matrix") == matrix.tolist()
    assert figures == {"file": "x", **evaluation.summarize(matrix, CITYSCAPES)}
    picture = cv2.cvtColor(cv2.imread(f"{path}.png"), cv2.COLOR_BGR2RGB)
    expected = pictures.confusion_picture(matrix, CITYSCAPES.class_names)
    np.testing.assert_array_equal(picture, expected)
