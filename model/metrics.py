"""Segmentation metrics of a confusion matrix [K, K]: rows for the truth, columns predictions.

Classes for which a metric is undefined are NaN, and left out of its mean: a class that occurs
neither in the truth nor in the predictions has no IoU, one that is not in the truth no accuracy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def _ratio(part: npt.NDArray, whole: npt.NDArray) -> npt.NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole != 0)


def _mean_of_defined(values: npt.NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def iou_per_class(matrix: npt.NDArray) -> npt.NDArray[np.float64]:
    """Intersection over union: pixels rightly given a class / pixels of it or given it, [K]."""
    correct = np.diag(matrix)
    return _ratio(correct, matrix.sum(axis=0) + matrix.sum(axis=1) - correct)


def accuracy_per_class(matrix: npt.NDArray) -> npt.NDArray[np.float64]:
    """Share of each class's pixels that were rightly given it, [K]."""
    return _ratio(np.diag(matrix), matrix.sum(axis=1))


def mean_iou(matrix: npt.NDArray) -> float:
    """Mean of `iou_per_class` over the classes that have one; NaN if none has."""
    return _mean_of_defined(iou_per_class(matrix))


def class_accuracy(matrix: npt.NDArray) -> float:
    """Mean of `accuracy_per_class` over the classes that have one; NaN if none has."""
    return _mean_of_defined(accuracy_per_class(matrix))


def pixel_accuracy(matrix: npt.NDArray) -> float:
    """Share of all pixels that were given the right class; NaN without a pixel."""
    return float(_ratio(np.trace(matrix), matrix.sum()))
