"""The networks by name, each with the objective it is trained for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy.typing as npt

from model.article import article
from model.losses import ColorRegression, CrossEntropy, Objective
from model.pspnet import pspnet


def _options(*functions: Callable) -> frozenset[str]:
    """Names of the parameters that have a default, so that a network's options are said once."""
    return frozenset(
        parameter.name
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    )


OPTIONS = {"pspnet": _options(pspnet, CrossEntropy), "article": _options(article)}
"""The networks that can be built, and the options each takes."""


def build(
    name: str,
    *,
    num_classes: int,
    class_colors: npt.ArrayLike,
    mean: Sequence[float],
    std: Sequence[float],
    **options: Any,
) -> tuple[keras.Model, Objective]:
    """Builds a network and its objective for a data set.

    Args:
      name: ``pspnet`` or ``article``.
      num_classes: Number of classes, K.
      class_colors: Colour of each class, RGB in 0 to 255, [K, 3]; only ``article`` reads it.
      mean: Mean of the red, green and blue of the training pixels; only ``pspnet`` reads it.
      std: Their standard deviation; only ``pspnet`` reads it.
      **options: For ``pspnet`` the options of `pspnet` and `CrossEntropy`; else none.

    Returns:
      The model and its objective.

    Raises:
      ValueError: If the name or an option is unknown, or the network refuses an option's value.
    """
    if name not in OPTIONS:
        raise ValueError(f"The network must be one of {sorted(OPTIONS)}. Received: {name!r}")
    unknown = sorted(options.keys() - OPTIONS[name])
    if unknown:
        raise ValueError(
            f"The network {name!r} takes the options {sorted(OPTIONS[name])}. Received: {unknown}"
        )
    if name == "article":
        return article(), ColorRegression(class_colors)
    loss_options = {key: options.pop(key) for key in _options(CrossEntropy) & options.keys()}
    return pspnet(num_classes, mean=mean, std=std, **options), CrossEntropy(**loss_options)
