"""Fits labels to a colour mask as its JPEG stores it: analysis by synthesis.

A JPEG keeps 8x8 DCT coefficients, of the luma at full and of the chroma often at half resolution,
each rounded to a multiple of its quantisation step. So labels can be judged by what they would
become: paint them, subsample the chroma as the encoder does, and compare coefficient by
coefficient, trusting each as far as its step is small. The energy of labels L is

    E(L) = sum over planes and coefficients of 12 / (step^2 + noise) * (stored - painted(L))^2
           + smoothness * sum over neighbours whose labels differ

where step^2 / 12 is the variance of a rounding error, so that the first sum is twice a negative
log likelihood; the second is a Potts prior (Geman and Geman 1984). It is lowered pixel by pixel
(iterated conditional modes, Besag 1986, "On the Statistical Analysis of Dirty Pictures"), first
with much noise allowed, so that a poor start can be left, then with little. Pixels some way apart
barely touch each other and move at once.
"""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
from threadpoolctl import ThreadpoolController

from pipeline.jpeg import Planes

_SMOOTHNESS = 2.5
_DIAGONAL = 2 / 3
"""Weight of a diagonal neighbour against one beside or above."""

_EVIDENCE = 400.0
"""Energy that a colour must save against the second best, or it is not in the mask at all."""

_EVEN_PIXEL = 10.0
"""Energy that a pixel amid pixels of its own colour counts for, without being looked at."""

_BLEND_DISTANCE = 5.0
"""Levels from the straight line between two colours within which a colour may be their blend."""

_BLEND_PRICE = 12.0
"""Energy that each pixel of such a colour must save before it counts."""

_MIN_PIXELS = 3
"""Pixels that must be near a colour for it to be considered."""

_BLOCK = 8

_APART = 4
"""Distance of pixels that move at once. Each moving alone gives no better labels, and takes 1.7
times as long: numpy's cost is a call's more than a pixel's."""

_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


@dataclasses.dataclass(frozen=True)
class _Round:
    """Settings of one round of the descent.

    Attributes:
      noise: Allowed beside the rounding, 12 times its variance.
      chroma_trust: Factor of the chroma's part of the energy.
      sweeps: How often every pixel is looked at.
    """

    noise: float
    chroma_trust: float
    sweeps: int


_ROUNDS = (_Round(noise=100.0, chroma_trust=0.5, sweeps=2), _Round(10.0, 1.0, sweeps=3))


# Matrices this small only wait for each other in threads: that made it take four times as long.
@ThreadpoolController().wrap(limits=1, user_api="blas")
def fit(
    planes: Planes, left: int, start: np.ndarray, doubtful: np.ndarray, colors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits one colour of a palette to each pixel of a mask.

    Args:
      planes: The picture with the mask in it.
      left: The mask's first column in the picture.
      start: uint8 or uint16 [H, W], a first guess: rows of `colors`.
      doubtful: bool [H, W]: where that guess is far from what is stored.
      colors: float [N, 3], luma and chroma of each colour, 0 to 255.

    Returns:
      The rows of `colors`, [H, W] as `start`, and the energy by which each pixel's choice beats its
      second best, float32 [H, W], infinite amid pixels of one colour.
    """
    counts = np.bincount(start[~doubtful], minlength=len(colors))
    start = _without(start, counts < _MIN_PIXELS, colors)
    frame = _Frame(planes, left, start.shape)
    pixels = _Pixels(frame, _uneven(start) | doubtful)
    labels = frame.surround(start)
    margins = np.empty(0, np.float32)
    for settings in _ROUNDS:
        if settings is not _ROUNDS[0]:
            evidence = _evidence(labels[frame.inside], pixels, margins, colors)
            labels = _without(labels, evidence < _EVIDENCE, colors)
        descent = _Descent(frame, pixels, labels, colors, settings)
        for _ in range(settings.sweeps):
            descent.sweep()
        labels.reshape(-1)[pixels.position] = descent.labels
        margins = descent.margins()
    margin = np.full(start.shape, np.inf, np.float32)
    margin[pixels.row, pixels.column] = margins
    return labels[frame.inside], margin


def _uneven(labels: np.ndarray) -> np.ndarray:
    """Where the 3x3 pixels around are not all of one label: bool [H, W]."""
    square = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, square) != cv2.erode(labels, square)


def _evidence(
    labels: np.ndarray, pixels: _Pixels, margins: np.ndarray, colors: np.ndarray
) -> np.ndarray:
    """The energy that each colour saves against the second best: float [N]."""
    energy = np.full(labels.shape, _EVEN_PIXEL)
    energy[pixels.row, pixels.column] = margins
    counts = np.bincount(labels.ravel(), minlength=len(colors))
    saved = np.bincount(labels.ravel(), energy.ravel(), len(colors))
    for index in np.flatnonzero(saved > _EVIDENCE):
        if _may_be_blend(colors[index], colors[counts > counts[index]]):
            saved[index] -= _BLEND_PRICE * counts[index]
    return saved


def _may_be_blend(color: np.ndarray, others: np.ndarray) -> bool:
    """Whether a colour [3] lies between two others [M, 3]."""
    start, along = others[:, None], others[None] - others[:, None]
    length = np.maximum((along**2).sum(axis=-1, keepdims=True), 1)
    share = ((color - start) * along).sum(axis=-1, keepdims=True) / length
    distance = np.linalg.norm(start + share.clip(0, 1) * along - color, axis=-1)
    return bool((distance < _BLEND_DISTANCE).any())


def _without(labels: np.ndarray, dropped: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Gives the pixels of the dropped colours the nearest of those that stay, if any."""
    stay = np.flatnonzero(~dropped)
    if not len(stay):
        return labels
    distance = ((colors[:, None] - colors[stay]) ** 2 @ LUMA_FIRST).argmin(axis=1)
    return stay[distance].astype(labels.dtype)[labels]


LUMA_FIRST = np.array([3.0, 0.5, 0.5])
"""Weights of squared differences in luma and chroma: luma is stored finer and at every pixel."""


class _Frame:
    """The blocks that a mask lies in, and what is stored there.

    Attributes:
      planes: float32, luma and twice chroma, around zero.
      factors: Rows and columns of luma to one of chroma.
      inside: Where the mask is in labels with all that surrounds it.
    """

    def __init__(self, planes: Planes, left: int, shape: tuple[int, int]) -> None:
        height, width = shape
        self.coding = planes.coding
        self.factors = down, across = planes.coding.factors
        before = left % (_BLOCK * across)
        self._after = -(before + width) % (_BLOCK * across)
        self._below = -height % (_BLOCK * down)
        self._before = before
        self.shape = (height + self._below, before + width + self._after)
        # One pixel more all around, so that each has neighbours.
        self.inside = (slice(1, 1 + height), slice(1 + before, 1 + before + width))
        self._outside = np.ones(self.shape, bool)
        self._outside[:height, before : before + width] = False
        rows, columns = self.shape[0] // down, self.shape[1] // across
        self.planes = [
            _cut(planes.luma, left - before, self.shape),
            _cut(planes.blue, (left - before) // across, (rows, columns)),
            _cut(planes.red, (left - before) // across, (rows, columns)),
        ]

    def surround(self, labels: np.ndarray) -> np.ndarray:
        """Labels [H, W] with the rest of the frame around them."""
        rows, columns = (1, self._below + 1), (self._before + 1, self._after + 1)
        return np.pad(labels, (rows, columns), mode="edge")

    def residuals(self, labels: np.ndarray, colors: np.ndarray) -> list[np.ndarray]:
        """Stored less painted, for each plane: float32 [blocks, 64].

        What does not belong to the mask is taken for painted as it is stored.
        """
        inner = labels[1:-1, 1:-1]
        result = []
        for plane, levels in zip(self.planes, colors.T, strict=True):
            factors = (self.shape[0] // plane.shape[0], self.shape[1] // plane.shape[1])
            difference = _enlarge(plane, factors) - levels[inner]
            difference[self._outside] = 0
            result.append(_blocks(_shrink(difference, factors)))
        return result


def _cut(plane: np.ndarray, left: int, shape: tuple[int, int]) -> np.ndarray:
    part = plane[: shape[0], left : left + shape[1]].astype(np.float32) - 128
    missing = [(0, full - there) for full, there in zip(shape, part.shape, strict=True)]
    return np.pad(part, missing, mode="edge")


def _enlarge(plane: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    return plane.repeat(factors[0], axis=0).repeat(factors[1], axis=1)


def _shrink(plane: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    """The mean of each cell of pixels, which is how encoders subsample chroma."""
    if factors == (1, 1):
        return plane
    height, width = plane.shape
    size = (width // factors[1], height // factors[0])
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def _blocks(plane: np.ndarray) -> np.ndarray:
    """Plane [H, W] -> its 8x8 blocks [H * W / 64, 64]."""
    height, width = plane.shape
    blocks = plane.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, _BLOCK * _BLOCK)


class _Pixels:
    """The pixels in question, group by group.

    Attributes:
      row, column: In the mask, int [n].
      position: In the frame's labels, laid flat.
      groups: Slices of these pixels; those of one group move at once.
      neighbors: For each pixel, its eight neighbours' numbers, [n, 8]; n for all that are not
        among these pixels.
      luma_block, chroma_block: The blocks that its samples are stored in.
      luma_place, chroma_place: The samples' places there, 0 to 63.
      luma_sample, chroma_sample: Their numbers, counted through all blocks.
    """

    def __init__(self, frame: _Frame, wanted: np.ndarray) -> None:
        in_frame = np.zeros(frame.shape, bool)
        inside = tuple(slice(part.start - 1, part.stop - 1) for part in frame.inside)
        in_frame[inside] = wanted
        y, x = np.nonzero(in_frame)
        group = (y % _APART) * _APART + x % _APART
        order = np.argsort(group, kind="stable")
        y, x, group = y[order], x[order], group[order]
        self.row, self.column = y - inside[0].start, x - inside[1].start
        bounds = np.searchsorted(group, np.arange(_APART**2 + 1)).tolist()
        self.groups = [slice(*pair) for pair in itertools.pairwise(bounds) if pair[0] < pair[1]]
        down, across = frame.factors
        self.luma_block = _block(y, x, frame.shape[1])
        self.luma_place = _place(y, x)
        self.luma_sample = self.luma_block * _BLOCK**2 + self.luma_place
        y_chroma, x_chroma = y // down, x // across
        self.chroma_block = _block(y_chroma, x_chroma, frame.shape[1] // across)
        self.chroma_place = _place(y_chroma, x_chroma)
        self.chroma_sample = self.chroma_block * _BLOCK**2 + self.chroma_place
        stride = frame.shape[1] + 2
        self.position = (y + 1) * stride + x + 1
        number = np.full((frame.shape[0] + 2) * stride, len(y), np.int32)
        number[self.position] = np.arange(len(y), dtype=np.int32)
        self._offsets = np.array([dy * stride + dx for dy, dx in _AROUND])
        self.neighbors = number[self.around()]

    def around(self) -> np.ndarray:
        """Positions of the eight neighbours in the frame's labels, laid flat: [n, 8]."""
        return self.position[:, None] + self._offsets


def _block(y: np.ndarray, x: np.ndarray, width: int) -> np.ndarray:
    return (y // _BLOCK) * (width // _BLOCK) + x // _BLOCK


def _place(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (y % _BLOCK) * _BLOCK + x % _BLOCK


class _Descent:
    """Lowers the energy, keeping its gradient and each pixel's support by its neighbours.

    With B the DCT's basis and W the coefficients' weights, the energy of a residual r is r' A r,
    A = B' W B. Painting pixel p brighter by d changes it by d^2 A[p, p] - 2 d (A r)[p], and A r
    by -d A[p]. A pixel's change of chroma is its share of its cell's mean.
    """

    def __init__(
        self,
        frame: _Frame,
        pixels: _Pixels,
        labels: np.ndarray,
        colors: np.ndarray,
        settings: _Round,
    ) -> None:
        self._pixels = pixels
        self._candidates = np.unique(labels)
        centered = (colors - 128).astype(np.float32)
        self._colors = centered[self._candidates]
        squares = self._colors**2
        self._powers = np.stack(
            [*(-2 * self._colors.T), squares[:, 0], squares[:, 1] + squares[:, 2]]
        )
        self._luma_weights = _weights(frame.coding.luma_steps, settings.noise)
        # A pixel is but a share of its cell's sample.
        self._share = np.float32(1 / (frame.factors[0] * frame.factors[1]))
        chroma_weights = _weights(frame.coding.chroma_steps, settings.noise)
        chroma_weights *= settings.chroma_trust * self._share
        self._chroma_weights = chroma_weights
        self._own_chroma = (np.diag(chroma_weights) * self._share)[pixels.chroma_place]
        self._own_luma = np.diag(self._luma_weights)[pixels.luma_place]
        luma, blue, red = frame.residuals(labels, centered)
        self._luma = luma @ self._luma_weights
        self._blue, self._red = blue @ chroma_weights, red @ chroma_weights
        number = np.zeros(len(colors), np.intp)
        number[self._candidates] = np.arange(len(self._candidates))
        flat = labels.reshape(-1)
        self._choice = number[flat[pixels.position]]
        self._saving = np.array(
            [2 * _SMOOTHNESS * (1 if 0 in pair else _DIAGONAL) for pair in _AROUND], np.float32
        )
        self._prior = self._count_neighbors(number[flat[pixels.around()]])

    @property
    def labels(self) -> np.ndarray:
        """The pixels' labels now."""
        return self._candidates[self._choice]

    def _count_neighbors(self, around: np.ndarray) -> np.ndarray:
        """Energy of each candidate by the prior, less what all have in common: [n + 1, K].

        The last row takes what changes for neighbours that are never looked at.
        """
        prior = np.zeros((len(around) + 1, len(self._candidates)), np.float32)
        rows = np.arange(len(around))
        for neighbor, saving in zip(around.T, self._saving, strict=True):
            prior[rows, neighbor] -= saving
        return prior

    def sweep(self) -> None:
        """Lets every pixel once choose the candidate of the lowest energy."""
        for group in self._pixels.groups:
            best = self._energies(group).argmin(axis=1)
            moved = np.flatnonzero(best != self._choice[group])
            if len(moved):
                self._move(moved + group.start, best[moved])

    def margins(self) -> np.ndarray:
        """The energy by which each pixel's choice beats the second best: float32 [n].

        Where chroma is subsampled, a neighbour could make up for what a change does to it, and a
        neighbour's label must also be beaten without it.
        """
        pixels = np.arange(len(self._choice))
        energies = self._energies(slice(None))
        own = energies[pixels, self._choice]
        energies[pixels, self._choice] = np.inf
        margins = energies.min(axis=1, initial=np.inf) - own
        if self._share < 1:
            energies = self._energies(slice(None), chroma=False)
            own = energies[pixels, self._choice]
            energies[self._prior[:-1] > -_SMOOTHNESS * _DIAGONAL] = np.inf
            energies[pixels, self._choice] = np.inf
            margins = np.minimum(margins, energies.min(axis=1, initial=np.inf) - own)
        return margins

    def _energies(self, group: slice, chroma: bool = True) -> np.ndarray:
        """Each candidate's energy, less what all have in common: float32 [pixels, K].

        As a function of the painted colour it is a parabola in each plane: one matrix holds the
        pixels' factors, another the candidates' powers.
        """
        pixels = self._pixels
        now = self._colors[self._choice[group]]
        luma_weight, chroma_weight = self._own_luma[group], self._own_chroma[group]
        sample = pixels.chroma_sample[group]
        factors = np.empty((len(now), 5), np.float32)
        factors[:, 0] = luma_weight * now[:, 0] + self._luma.take(pixels.luma_sample[group])
        factors[:, 1] = chroma_weight * now[:, 1] + self._blue.take(sample)
        factors[:, 2] = chroma_weight * now[:, 2] + self._red.take(sample)
        factors[:, 3] = luma_weight
        factors[:, 4] = chroma_weight
        if not chroma:
            factors[:, [1, 2, 4]] = 0
        energies = factors @ self._powers
        energies += self._prior[:-1][group]
        return energies

    def _move(self, moved: np.ndarray, choice: np.ndarray) -> None:
        pixels, before = self._pixels, self._choice[moved]
        change = self._colors[choice] - self._colors[before]
        # Several pixels may lie in one block: plain indexing would count but one.
        rows = self._luma_weights[pixels.luma_place[moved]]
        np.subtract.at(self._luma, pixels.luma_block[moved], change[:, :1] * rows)
        block = pixels.chroma_block[moved]
        rows = self._share * self._chroma_weights[pixels.chroma_place[moved]]
        np.subtract.at(self._blue, block, change[:, 1:2] * rows)
        np.subtract.at(self._red, block, change[:, 2:] * rows)
        neighbors = pixels.neighbors[moved]
        self._prior[neighbors, before[:, None]] += self._saving
        self._prior[neighbors, choice[:, None]] -= self._saving
        self._choice[moved] = choice


def _weights(steps: np.ndarray, noise: float) -> np.ndarray:
    """Energy of a residual's pixels, in pairs, for one block: float32 [64, 64]."""
    basis = np.kron(_DCT, _DCT)
    weights = 12 / (steps.astype(np.float64) ** 2 + noise)
    return ((basis.T * weights.ravel()) @ basis).astype(np.float32)


def _dct_matrix() -> np.ndarray:
    """Orthonormal DCT-II of 8 samples, as ITU-T T.81 A.3.3 has it: float64 [8, 8]."""
    frequency, sample = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None]
    matrix = np.cos((2 * sample + 1) * frequency * np.pi / (2 * _BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


_DCT = _dct_matrix()
