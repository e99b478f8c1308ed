"""A page on this machine to drop a photo on, and what answers it.

    GET /           the page
    POST /predict   a photo's bytes -> its class ids, a greyscale PNG; or a sentence, 400 and up

It is for the person who started it: it listens on 127.0.0.1, answers only to that name, so that no
other site's name can be turned to it (DNS rebinding), and only to its own page.
"""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import flask
import numpy as np
import waitress
from waitress.server import BaseWSGIServer
from werkzeug.exceptions import Forbidden, HTTPException, RequestEntityTooLarge

from pipeline import page, pairs
from pipeline.errors import UserError
from pipeline.palette import Palette
from pipeline.records import encode_image
from trainer.failures import tensorflow_errors
from trainer.prediction import Predictor

_HOST = "127.0.0.1"
_FILES = Path(__file__).parent / "demo_page"
_MAX_MEBIBYTES = 32
"""Of an upload: above what cameras write, far below what a memory holds."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class DemoError(UserError):
    """A server that cannot be started."""


def create_app(predict: Predictor, palette: Palette, network: str, max_side: int) -> flask.Flask:
    """The page and what answers it, as a WSGI application.

    Args:
      predict: From a photo, uint8 [H, W, 3], to class ids, uint8 [H, W].
      palette: Names and colours of the ids.
      network: What the page calls the network.
      max_side: In pixels; a photo with a longer side is made smaller before it is predicted, and so
        are the ids.
    """
    app = flask.Flask(__name__, template_folder=str(_FILES), static_folder=None)
    app.config["TRUSTED_HOSTS"] = [_HOST, "localhost"]
    app.config["MAX_CONTENT_LENGTH"] = _MAX_MEBIBYTES * 2**20
    colors = palette.class_colors.tolist()
    settings = {
        "max_mebibytes": _MAX_MEBIBYTES,
        "classes": [
            {"name": name, "color": color}
            for name, color in zip(palette.class_names, colors, strict=True)
        ],
    }
    style = page.STYLE + (_FILES / "demo.css").read_text(encoding="utf-8")
    one_at_a_time = threading.Lock()

    @app.get("/")
    def index() -> str:
        return flask.render_template("index.html", settings=settings, network=network)

    @app.get("/style.css")
    def stylesheet() -> flask.Response:
        return flask.Response(style, mimetype="text/css")

    @app.get("/demo.js")
    def script() -> flask.Response:
        return flask.send_from_directory(_FILES, "demo.js")

    @app.post("/predict")
    def answer() -> flask.Response:
        # Browsers say who asks: another site's page must not put this machine to work.
        if flask.request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Forbidden("Only the page of trainer.demo itself may ask.")
        data = flask.request.get_data()
        with one_at_a_time, tensorflow_errors():
            photo = _at_most(pairs.decode_image(data, pairs.PHOTO_MODES, True), max_side)
            ids = predict(photo)
        return flask.Response(encode_image(".png", ids), mimetype="image/png")

    @app.errorhandler(pairs.BadPair)
    def bad_photo(error: pairs.BadPair) -> tuple[str, int, dict[str, str]]:
        return _sentence(f"The photo cannot be used: {error}.", 400)

    @app.errorhandler(UserError)
    def failure(error: UserError) -> tuple[str, int, dict[str, str]]:
        return _sentence(str(error), 500)

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(_: RequestEntityTooLarge) -> tuple[str, int, dict[str, str]]:
        return _sentence(f"The photo is too large: at most {_MAX_MEBIBYTES} MiB are taken.", 413)

    @app.errorhandler(HTTPException)
    def refusal(error: HTTPException) -> tuple[str, int, dict[str, str]]:
        return _sentence(error.description or error.name, error.code or 500)

    @app.after_request
    def secure(response: flask.Response) -> flask.Response:
        response.headers.update(_HEADERS)
        return response

    return app


def _sentence(text: str, status: int) -> tuple[str, int, dict[str, str]]:
    return text, status, {"Content-Type": "text/plain; charset=utf-8"}


def _at_most(photo: np.ndarray, max_side: int) -> np.ndarray:
    height, width = photo.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return photo
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def listen(app: flask.Flask, port: int) -> tuple[BaseWSGIServer, str]:
    """Takes a port of this machine for an application; nothing is answered before ``run()``.

    Waitress reads a request whole, within its bounds, before it takes a thread for it, drops those
    who are too slow, and needs nothing else; Werkzeug's own server is meant for development only.

    Args:
      app: The application.
      port: To listen on; 0 for any that is free.

    Returns:
      The server, and its address.

    Raises:
      DemoError: Where the port cannot be had.
    """
    try:
        server = waitress.create_server(
            app,
            host=_HOST,
            port=port,
            # One to predict, the others to show the page meanwhile.
            threads=3,
            max_request_body_size=_MAX_MEBIBYTES * 2**20,
            ident=None,
        )
    except OSError as error:
        raise DemoError(
            f"--port {port} cannot be listened on: {error.strerror}. Name another one, or 0 for "
            "any that is free."
        ) from error
    assert isinstance(server, BaseWSGIServer)  # It listens at one address only.
    return server, f"http://{_HOST}:{server.effective_port}/"
