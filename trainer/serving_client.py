"""Asks TensorFlow Serving over REST for the classes in photos, and for pictures of them.

It follows TensorFlow Serving's documentation (tensorflow.org/tfx/serving/api_rest) and needs no
TensorFlow. It was run against a stand-in that answers as documented and computes with a SavedModel
of ours (tests/trainer/test_serving_client.py), never against the model server itself.

    tensorflow_model_server --rest_api_port=8501 --model_name=street --model_base_path=RUN/export
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import UserError

_Answer = TypeVar("_Answer")


class ServingError(UserError):
    """A server that cannot be reached, or does not answer a request."""


def class_ids(url: str, photos: Sequence[bytes], timeout: float = 60.0) -> list[np.ndarray]:
    """The classes in photos.

    Args:
      url: Of the model, such as ``http://127.0.0.1:8501/v1/models/street``, where
        ``/versions/3000`` may follow.
      photos: A JPEG or PNG each, of any sizes.
      timeout: Seconds to wait for the answer.

    Returns:
      Of each photo, uint8 [H, W].

    Raises:
      ServingError: Where the server cannot be reached, or refuses one of the photos.
    """

    def ids(answer: Any) -> np.ndarray:
        return np.array(answer["class_ids"], np.uint8)[: answer["height"], : answer["width"]]

    return _predict(url, "serving_default", photos, timeout, ids)


def overlays(url: str, photos: Sequence[bytes], timeout: float = 60.0) -> list[bytes]:
    """The photos tinted with their classes' colours, a PNG each; see `class_ids`."""
    return _predict(url, "overlay", photos, timeout, lambda answer: base64.b64decode(answer["b64"]))


def _predict(
    url: str,
    signature: str,
    photos: Sequence[bytes],
    timeout: float,
    read: Callable[[Any], _Answer],
) -> list[_Answer]:
    """What a signature of encoded photos answers, read for each of them."""
    instances = [{"b64": base64.b64encode(photo).decode()} for photo in photos]
    body = json.dumps({"signature_name": signature, "instances": instances}).encode()
    try:
        request = urllib.request.Request(
            f"{url}:predict", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return [read(answer) for answer in json.load(response)["predictions"]]
    except urllib.error.HTTPError as error:
        raise ServingError(f"{url!r} refused the request: {_reason(error)}.") from error
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        said = str(error).strip() or type(error).__name__
        raise ServingError(
            f"{url!r} does not answer as a model server: {said}. The address of a model is such as "
            "http://127.0.0.1:8501/v1/models/street."
        ) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return json.load(error)["error"].partition("\n")[0].rstrip(".")
    except (
        OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError,
    ):  # fmt: skip
        return f"{error.code} {error.reason}"
