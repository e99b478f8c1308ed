"""The flags --preset, --config and --set, and the configuration that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags

from pipeline.errors import UserError
from trainer import config as config_lib
from trainer.config import Config

_PRESET = flags.DEFINE_enum(
    "preset", config_lib.DEFAULT_PRESET, list(config_lib.PRESETS), "Configuration to start from."
)
_CONFIG = flags.DEFINE_string("config", None, "config.json of a run to start from instead.")
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other value of the configuration, such as --set model.dropout=0.2; repeatable."
)


def configuration(values: Mapping[str, Any] | None = None) -> Config:
    """The configuration that the flags describe.

    Args:
      values: Of the command's own flags by the field's name, such as ``optimizer.learning_rate``
        for --learning_rate; None for a flag that was not given. Of two values for a field the one
        of --set counts.

    Raises:
      UserError: Where a value cannot be used.
    """
    if _CONFIG.value and _PRESET.present:
        raise UserError("--config and --preset both say where to start from; give one of them.")
    config = _read(_CONFIG.value) if _CONFIG.value else config_lib.preset(_PRESET.value)
    given = {name: value for name, value in (values or {}).items() if value is not None}
    changes = [*given.items(), *(config_lib.parse_assignment(text) for text in _SET.value)]
    sources = [f"--{name.rpartition('.')[2]}" for name in given] + ["--set"] * bool(_SET.value)
    return config_lib.override_all(config, changes, ", ".join(sources))


def is_given(name: str, value: Any) -> bool:
    """Whether a field is set, by its own flag, whose value that is, or by --set."""
    return value is not None or name in (
        config_lib.parse_assignment(text)[0] for text in _SET.value
    )


def _read(path: str) -> Config:
    try:
        with open(path, encoding="utf-8") as file:
            return Config.from_json(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path!r} cannot be read: {error}.") from error
