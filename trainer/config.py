"""The configuration of a run: presets, changes by name, JSON. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.errors import UserError
from pipeline.options import CLASS_WEIGHTS, Augmentation


class ConfigError(UserError):
    """A configuration, or a change to one, that cannot be used."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network; see `model.networks`. Its decoder may not take all that follows the name.

    Attributes:
      name: Of the decoder, or ``article`` or ``article_classes``.
      input_upsampling: Factors of the height and the width before the backbone; ``[1, 2]`` for
        photos that were squeezed to half their width.
      backbone: Its name, of `model.backbones`.
      backbone_weights: What a run starts it from: nothing for random weights, ``imagenet``, or a
        .h5 or .weights.h5 file; see `trainer.backbone_weights`.
      output_stride: Pixels, after upsampling, per feature, 8, 16 or 32.
      width_multiplier: Factor of the backbone's channels.
      deep_stem: Three 3x3 convolutions in place of a ResNet's 7x7.
      first_block_dilation: Of a dilated stage's first block: the rate ``before`` the stride it
        replaces (torchvision) or ``after`` it (hszhao/semseg).
      normalization: Of a ResNet's pixels, by the mean and deviation of the ``data`` or of
        ``imagenet``.
      align_corners: Resize so that corner pixels coincide, as hszhao/semseg does.
      auxiliary_channels: Of the auxiliary head; 0 for none.
      bins: Of PSPNet's pyramid pooling module.
      atrous_rates: Of DeepLab's pyramid, at an output stride of 16.
      head_channels: Of the decoder's convolutions.
      dropout: Rate before the classifier.
      freeze_batch_norm: Keep the backbone's batch normalisations as the run's start has them:
        statistics, scales and offsets. Not for random weights.
    """

    name: str = "pspnet"
    input_upsampling: tuple[int, ...] = (1, 1)
    backbone: str = "resnet18"
    backbone_weights: str = ""
    output_stride: int = 8
    width_multiplier: float = 1.0
    deep_stem: bool = False
    first_block_dilation: str = "before"
    normalization: str = "data"
    align_corners: bool = False
    auxiliary_channels: int = 256
    bins: tuple[int, ...] = (1, 2, 3, 6)
    atrous_rates: tuple[int, ...] = (6, 12, 18)
    head_channels: int = 512
    dropout: float = 0.1
    freeze_batch_norm: bool = False


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss of networks that give classes; see `model.losses.CrossEntropy`.

    Attributes:
      auxiliary_weight: Of the auxiliary head's loss; at 0 there is no such head.
      class_weights: Of the classes' pixels, from the records' counts: ``none``, ``enet``,
        ``fourth_root``, ``sqrt`` or ``inverse``; see
        `pipeline.dataset_info.DatasetInfo.class_weights`.
      label_smoothing: Share of the truth that is spread over all classes.
      ohem_threshold: Probability of the true class up to which a pixel trains (online hard example
        mining), e.g. 0.7; 0 for all pixels.
      ohem_min_kept: Share of each picture's valid pixels that trains at least, the hardest.
    """

    auxiliary_weight: float = 0.4
    class_weights: str = "none"
    label_smoothing: float = 0.0
    ohem_threshold: float = 0.0
    ohem_min_kept: float = 1 / 16

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(
                f"`class_weights` must be one of {', '.join(CLASS_WEIGHTS)}. "
                f"Received: {self.class_weights!r}"
            )


OPTIMIZERS = ("sgd", "adamw", "muon")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and the poly schedule with warm-up.

    Attributes:
      name: ``sgd``, ``adamw`` or ``muon``; see `trainer.muon`.
      learning_rate: Its peak, reached at the end of the warm-up.
      head_rate_factor: Of the learning rate of all but the backbone.
      warmup_steps: Steps of linear growth.
      power: Of the poly schedule, (1 - step / steps) ** power.
      momentum: Of ``sgd``.
      weight_decay: Of kernels; not of biases and batch normalisation. With ``sgd`` it is the
        factor of an L2 penalty's gradient, with the others it is decoupled.
      clip_norm: Largest global norm of the gradients; 0 for none.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    head_rate_factor: float = 1.0
    warmup_steps: int = 100
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(
                f"`optimizer.name` must be one of {', '.join(OPTIMIZERS)}. Received: {self.name!r}"
            )
        for name in ("learning_rate", "head_rate_factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive. Received: {getattr(self, name)}")
        for name in ("warmup_steps", "power", "weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {self.momentum}")


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides what a run computes.

    How it is computed (strategy, number of devices) and where the files lie is not part of it.

    Attributes:
      preset: The name it was made from.
      initial_model: A run's folder, or one of its SavedModels, whose weights the run starts from;
        nothing for none. See `trainer.initial_model`.
      seed: Of weights, order, augmentation and dropout.
      steps: Of training.
      batch_size: Examples of a step, over all replicas.
      accumulation_steps: Parts that each replica takes its share of a batch in, one after the
        other, which needs less memory.
      precision: What training computes in: ``float32``, or, with weights in float32, ``bfloat16``
        or ``float16``, the last with a scaled loss; ``auto`` is bfloat16 where the processor has
        instructions for it, else float32.
      jit_compile: Whether XLA compiles the network and its gradient.
      ema_decay: Of the moving average of the weights that is evaluated and exported in place of
        the weights, e.g. 0.999; 0 for none.
      early_stopping: Evaluations without a better validation mIoU after which a run ends; 0 for
        none.
      log_every: Steps between lines of the logs.
      evaluate_every: Steps between evaluations, at which checkpoints are written too; 0 for a
        tenth of the run.
      evaluation_batch_size: Examples of an evaluation step, over all replicas.
      pictures: Validation pictures shown in TensorBoard.
      train_split: Name of the split to train on.
      validation_split: Name of the split to evaluate on.
    """

    preset: str = "pspnet_resnet18"
    initial_model: str = ""
    seed: int = 0
    steps: int = 3000
    batch_size: int = 8
    accumulation_steps: int = 1
    precision: str = "float32"
    jit_compile: bool = False
    ema_decay: float = 0.0
    early_stopping: int = 0
    log_every: int = 10
    evaluate_every: int = 0
    evaluation_batch_size: int = 8
    pictures: int = 4
    train_split: str = "train"
    validation_split: str = "val"
    data: Augmentation = dataclasses.field(default_factory=Augmentation)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in (
            "steps", "batch_size", "accumulation_steps", "log_every", "evaluation_batch_size",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be positive. Received: {getattr(self, name)}")
        for name in ("early_stopping", "evaluate_every", "pictures"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {self.precision!r}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in [0, 1). Received: {self.ema_decay}")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                "`accumulation_steps` must divide `batch_size`. "
                f"Received: {self.accumulation_steps} and {self.batch_size}"
            )
        if self.accumulation_steps > 1 and self.loss.ohem_threshold:
            raise ValueError(
                "With `accumulation_steps` the hard pixels of `loss.ohem_threshold` are not known "
                "in time; choose one of them"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be in [0, 2**32). Received: {self.seed}")

    @property
    def evaluation_interval(self) -> int:
        return self.evaluate_every or max(1, math.ceil(self.steps / 10))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Config:
        """The reverse of `to_json`.

        Raises:
          ConfigError: Where the text is no configuration; `source` names it.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{source} is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{source} must hold a JSON object.")
        start = preset(value.pop("preset", cls().preset))
        return override_all(start, _leaves(value), source)


_SMALL = Config(
    preset="small",
    steps=2250,
    batch_size=4,
    precision="auto",
    ema_decay=0.995,
    data=Augmentation(min_scale=0.75, max_scale=1.5, paste_rate=0.5),
    model=ModelConfig(
        name="ladder",
        input_upsampling=(1, 2),
        output_stride=32,
        width_multiplier=0.5,
        head_channels=64,
    ),
    loss=LossConfig(auxiliary_weight=0.0, class_weights="sqrt"),
    optimizer=OptimizerConfig(name="muon", learning_rate=6e-3),
)

PRESETS = {
    # Ten minutes of two cores, and an hour; BUILD_NOTES.md says what was tried.
    "small": _SMALL,
    "medium": dataclasses.replace(
        _SMALL,
        preset="medium",
        steps=10_000,
        ema_decay=0.998,
        data=Augmentation(color_strength=0.4, paste_rate=0.5),
        model=dataclasses.replace(_SMALL.model, width_multiplier=0.75),
    ),
    "pspnet_resnet18": Config(),
    "pspnet_resnet50": Config(
        preset="pspnet_resnet50",
        model=ModelConfig(backbone="resnet50"),
        steps=30_000,
        batch_size=16,
    ),
    "semseg_pspnet50": Config(
        preset="semseg_pspnet50",
        model=ModelConfig(
            backbone="resnet50",
            deep_stem=True,
            first_block_dilation="after",
            normalization="imagenet",
            align_corners=True,
        ),
        steps=30_000,
        batch_size=16,
        data=Augmentation(color_strength=0.0),
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=0.01, head_rate_factor=10.0, warmup_steps=0
        ),
    ),
    # The others at their published output strides and widths, all else as above.
    **{
        f"{model.name}_resnet18": Config(preset=f"{model.name}_resnet18", model=model)
        for model in (
            ModelConfig(name="fcn32s", output_stride=32),
            ModelConfig(name="fcn8s", output_stride=32),
            ModelConfig(name="unet", output_stride=32),
            ModelConfig(name="deeplabv3", output_stride=16, head_channels=256),
            ModelConfig(name="deeplabv3plus", output_stride=16, head_channels=256),
        )
    },
    "demo": Config(
        preset="demo",
        steps=1200,
        data=Augmentation(crop_size=128, min_scale=1.0, max_scale=1.25),
        model=ModelConfig(width_multiplier=0.25, head_channels=64, auxiliary_channels=32),
        optimizer=OptimizerConfig(learning_rate=3e-3),
    ),
    **{
        name: Config(
            preset=name,
            model=ModelConfig(name=name),
            data=Augmentation(min_scale=1.0, max_scale=1.0, flip=False, color_strength=0.0),
            optimizer=OptimizerConfig(weight_decay=0.0, warmup_steps=0, power=0.0),
        )
        for name in ("article", "article_classes")
    },
}

DEFAULT_PRESET = "small"


def preset(name: str) -> Config:
    """A preset by its name.

    Raises:
      ConfigError: Where there is none.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}; there are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def parse_assignment(text: str) -> tuple[str, Any]:
    """``a.b=value`` -> name and value; the value is JSON where it can be, else a string.

    Raises:
      ConfigError: Where there is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes name=value, such as model.dropout=0.2. Received: {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def override(config: Config, name: str, value: Any, source: str = "--set") -> Config:
    """The configuration with one value changed; see `override_all`."""
    return override_all(config, [(name, value)], source)


def override_all(
    config: Config, changes: Sequence[tuple[str, Any]], source: str = "--set"
) -> Config:
    """The configuration with several values changed at once, as some only fit together.

    Args:
      config: What to change; it is left as it is.
      changes: Names such as ``model.dropout``, and values of the fields' types.
      source: Who asks, for the error's sentence.

    Raises:
      ConfigError: Where there is no such field, or it does not take the value.
    """
    by_group: dict[str, dict[str, Any]] = {}
    for name, value in changes:
        if name == "preset":
            raise ConfigError(f"{source}: a preset is chosen with --preset. Received: {value!r}.")
        group, _, field = name.rpartition(".")
        owner = getattr(config, group, None) if group else config
        try:
            by_group.setdefault(group, {})[field] = _typed(owner, field, value)
        except KeyError as error:
            names = ", ".join(key for key, _ in _leaves(dataclasses.asdict(config)))
            raise ConfigError(f"{source}: there is no {name!r}; there are: {names}.") from error
        except (TypeError, OverflowError) as error:
            raise ConfigError(f"{source}: {name}={value!r} cannot be used: {error}.") from error
    own = by_group.pop("", {})
    for group, values in by_group.items():
        with _refusal_named(source, changes, group):
            own[group] = dataclasses.replace(getattr(config, group), **values)
    with _refusal_named(source, changes, ""):
        return dataclasses.replace(config, **own)


@contextmanager
def _refusal_named(source: str, changes: Sequence[tuple[str, Any]], group: str) -> Iterator[None]:
    """Says which of the changes a part of the configuration refuses."""
    try:
        yield
    except ValueError as error:
        received = ", ".join(
            f"{name}={value!r}" for name, value in changes if name.rpartition(".")[0] == group
        )
        raise ConfigError(f"{source}: {received} cannot be used: {error}.") from error


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _typed(owner: Any, name: str, value: Any) -> Any:
    """The value as the field's type: whole numbers pass for floats, lists for tuples."""
    hints = typing.get_type_hints(type(owner)) if dataclasses.is_dataclass(owner) else {}
    if name not in hints or dataclasses.is_dataclass(hints[name]):
        raise KeyError(name)
    expected = hints[name]
    if isinstance(expected, types.GenericAlias):  # tuple[int, ...], the only one there is
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return tuple(value)
        raise TypeError("expected a list of whole numbers, such as [1,2,3,6]")
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise TypeError(f"expected {_TYPE_NAMES[expected]}")
    if expected is float and not math.isfinite(value):
        raise TypeError("expected a finite number")
    return value


def _leaves(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            leaves += _leaves(item, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, item))
    return leaves


def leaves(config: Config) -> dict[str, Any]:
    """Every value by its name, such as ``model.dropout``."""
    return dict(_leaves(dataclasses.asdict(config)))


HARMLESS = ("evaluation_batch_size", "log_every", "pictures")
"""Fields that may be others when a run goes on; not so of workers that train together."""


def differences(first: Config, second: Config) -> list[str]:
    """The fields that change what is computed and differ, as ``name: first, second``."""
    theirs = leaves(second)
    return [
        f"{name}: {value}, {theirs[name]}"
        for name, value in leaves(first).items()
        if value != theirs[name] and name not in HARMLESS
    ]
