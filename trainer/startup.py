"""Starts TensorFlow without the notices it prints on the way."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it find its devices.

    TensorFlow 2.21 prints a dozen lines while it does, some of them called errors where a machine
    merely has no GPU, and TF_CPP_MIN_LOG_LEVEL comes too late for them. They are shown only where
    the start fails.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            importlib.import_module("tensorflow").config.list_physical_devices()
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
