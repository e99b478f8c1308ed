"""The client, against a stand-in for TensorFlow Serving that serves the real SavedModel."""

import base64
import json
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline.overlay import overlay
from pipeline.palette import CITYSCAPES
from trainer import serving_client
from trainer.serving_client import ServingError


def tensor(spec, instances):
    """A signature's input of a request's rows; bytes come in base64."""
    if spec.dtype == tf.string:
        return tf.constant([base64.b64decode(row["b64"], validate=True) for row in instances])
    return tf.constant(np.array(instances, spec.dtype.as_numpy_dtype))


def rows(outputs):
    """A request's answer by rows, as the documentation says it; one output goes without its name.

    Outputs whose names end in ``_bytes`` are sent in base64.
    """
    named = {
        name: [{"b64": base64.b64encode(v).decode()} for v in value.numpy()]
        if name.endswith("_bytes")
        else value.numpy().tolist()
        for name, value in outputs.items()
    }
    if len(named) == 1:
        return next(iter(named.values()))
    return [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]


@pytest.fixture(scope="module")
def server(trained_run):
    """Address of a server of the run's exports under the name ``street``, the newest by default."""
    versions = Path(trained_run.saved_model).parent
    models = {path.name: tf.saved_model.load(str(path)) for path in versions.iterdir()}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            path = re.fullmatch(r"/v1/models/(\w+)(?:/versions/(\d+))?:predict", self.path)
            version = path[2] or max(models, key=int)
            if path[1] != "street" or version not in models:
                return self.answer(404, {"error": f"Servable not found for request: {path[1]}"})
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = request.get("signature_name", "serving_default")
            signature = models[version].signatures[name]
            ((key, spec),) = signature.structured_input_signature[1].items()
            try:
                outputs = signature(**{key: tensor(spec, request["instances"])})
            except tf.errors.InvalidArgumentError as error:
                # The server says what went wrong, without the words that Python puts in front.
                return self.answer(400, {"error": str(error).rpartition("unavailable>\n")[2]})
            self.answer(200, {"predictions": rows(outputs)})

        def answer(self, code, value):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1/models"
        running.shutdown()


@pytest.fixture(scope="module")
def scenes(pairs_dir):
    """Two photos of different sizes, RGB, and as PNGs."""
    pair = cv2.imread(str(pairs_dir / "val" / "1.jpg"))
    photos = [pair[:, :64], pair[:37, :51]]
    return [photo[..., ::-1] for photo in photos], [
        cv2.imencode(".png", photo)[1].tobytes() for photo in photos
    ]


@pytest.mark.parametrize("version", ["", "/versions/40"])
def test_classes_are_those_of_the_saved_model(server, scenes, trained_run, version):
    photos, encoded = scenes
    signature = tf.saved_model.load(trained_run.saved_model).signatures["from_images"]
    found = serving_client.class_ids(f"{server}/street{version}", encoded)
    for photo, ids in zip(photos, found, strict=True):
        assert ids.dtype == np.uint8
        expected = signature(images=tf.constant(photo[np.newaxis]))["class_ids"][0]
        np.testing.assert_array_equal(ids, expected)


def test_overlays_are_pictures_of_the_photos(server, scenes):
    photos, encoded = scenes
    ids = serving_client.class_ids(f"{server}/street", encoded)
    found = serving_client.overlays(f"{server}/street", encoded)
    for photo, labels, png in zip(photos, ids, found, strict=True):
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
        expected = overlay(np.ascontiguousarray(photo), labels, CITYSCAPES)
        assert np.abs(picture.astype(int) - expected).max() <= 1


def test_a_bad_photo_is_named_and_the_next_request_is_answered(server, scenes):
    _, encoded = scenes
    with pytest.raises(ServingError, match=r"image_bytes\[1\] is neither a JPEG nor a PNG") as told:
        serving_client.class_ids(f"{server}/street", [encoded[0], b"this is text"])
    assert "\n" not in str(told.value)
    assert len(serving_client.class_ids(f"{server}/street", encoded[:1])) == 1


def test_no_model_and_no_server_are_told_apart(server, scenes):
    _, encoded = scenes
    with pytest.raises(ServingError, match="Servable not found for request: road"):
        serving_client.overlays(f"{server}/road", encoded)
    with pytest.raises(ServingError, match=r"does not answer as a model server: .*refused"):
        serving_client.class_ids("http://127.0.0.1:1/v1/models/street", encoded)


@pytest.mark.parametrize(
    "url", ["localhost/v1/models/street", "localhost:1/street", "http://127.0.0.1:x/street", ""]
)
def test_an_address_that_is_none_is_named(url):
    with pytest.raises(ServingError) as told:
        serving_client.class_ids(url, [b"photo"])
    message = str(told.value)
    assert message.startswith(f"{url!r} does not answer as a model server: ")
    assert message.endswith("is such as http://127.0.0.1:8501/v1/models/street.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer as a model server: SSH-2.0-OpenSSH_9.2. The"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "does not answer as a model server: "),
        (b"HTTP/1.1 500 Broken\r\nContent-Length: 9\r\n\r\n{", "refused the request: 500 Broken."),
    ],
    ids=["no http", "cut short", "an error cut short"],
)
def test_a_server_of_something_else_is_named(answer, words):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.request.recv(2**16)
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.handle_request, daemon=True).start()
        with pytest.raises(ServingError) as told:
            serving_client.class_ids(f"http://127.0.0.1:{running.server_address[1]}/x", [b"photo"])
    assert words in str(told.value)
    assert "\n" not in str(told.value)
