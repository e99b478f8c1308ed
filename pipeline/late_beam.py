"""Imports a job's module, and Beam with it, when a command's flags are found good."""

from __future__ import annotations

import importlib.util
import logging
from types import ModuleType

from pipeline.errors import UserError


def import_job(module: str) -> ModuleType:
    """Imports a module that needs Beam.

    Late, as Beam takes a second to import and --help should not wait for it; quietly, as it warns
    of Google Cloud packages that only its Google Cloud connectors need.

    Raises:
      UserError: Where packages that jobs need are not installed.
    """
    for package in ("apache_beam", "tensorflow_datasets"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"There is no {package}, which jobs need: pip install '.[pipeline]'.")
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module(module)
    finally:
        logging.disable(logging.NOTSET)
