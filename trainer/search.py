"""The values that a sweep tries: every combination of a grid, or draws."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import UserError
from trainer import config as config_lib

Values = dict[str, Any]
"""Values of a configuration by their names, such as ``optimizer.learning_rate``."""

_NAME_LENGTH = 120


class SearchError(UserError):
    """A grid or a range that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; whole ones where both are.

    Attributes:
      low: The least.
      high: The greatest.
      log: Whether the logarithm is drawn evenly, in place of the number.
    """

    low: float
    high: float
    log: bool

    def draw(self, rng: random.Random) -> float:
        """One of the numbers, rounded to three digits."""
        if self.log:
            number = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = rng.uniform(self.low, self.high)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return round(number)
        return min(max(float(f"{number:.3g}"), self.low), self.high)


def parse_choices(text: str) -> tuple[str, list[Any]]:
    """``name=1e-3,3e-3`` -> name and values, each JSON where it can be, else a string.

    Raises:
      SearchError: Where there is no ``=`` or no value.
    """
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise SearchError(
            f"--grid takes name=value,value, such as loss.class_weights=none,sqrt. Received: "
            f"{text!r}."
        )
    try:
        # All at once, as lists have commas of their own.
        return name, json.loads(f"[{values}]")
    except ValueError:
        assignments = [config_lib.parse_assignment(f"{name}={v}") for v in values.split(",")]
        return name, [value for _, value in assignments]


def parse_range(text: str) -> tuple[str, Range]:
    """``name=low:high`` or ``name=low:high:log`` -> name and range.

    Raises:
      SearchError: Where it is not of this form, or holds no number.
    """
    match = re.fullmatch(r"([\w.]+)=([^:]+):([^:]+?)(:log)?", text)
    try:
        if match is None:
            raise ValueError
        low, high = (json.loads(match[index]) for index in (2, 3))
        found = Range(low, high, log=match[4] is not None)
        if not -math.inf < low < high < math.inf or (found.log and low <= 0):
            raise ValueError
    except (ValueError, TypeError) as error:
        raise SearchError(
            "--range takes name=low:high or, of positive numbers, name=low:high:log, such as "
            f"optimizer.learning_rate=1e-4:1e-2:log. Received: {text!r}."
        ) from error
    return match[1], found


def grid(choices: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Every combination; the last name's values change fastest."""
    return [
        dict(zip(choices, combination, strict=True))
        for combination in itertools.product(*choices.values())
    ]


def draw(
    choices: Mapping[str, Sequence[Any]], ranges: Mapping[str, Range], count: int, seed: int
) -> list[Values]:
    """Independent draws, no two the same; the first of them do not depend on `count`.

    Args:
      choices: Names whose values are equally likely.
      ranges: Names whose values are drawn from a range.
      count: How many; there are fewer where there are not as many different ones.
      seed: Another one, other draws.
    """
    rng = random.Random(seed)
    drawn: list[Values] = []
    # A draw that was there before is not counted; the limit ends where there are no others.
    for _ in range(100 * count):
        values = {name: rng.choice(list(among)) for name, among in choices.items()}
        values |= {name: between.draw(rng) for name, between in ranges.items()}
        if values not in drawn:
            drawn.append(values)
        if len(drawn) == count:
            break
    return drawn


def folder_names(trials: Sequence[Values]) -> list[str]:
    """A folder's name for each: its number, and its values in short."""
    short = short_names(name for values in trials for name in values)
    return [
        f"{number:03d}-{_clean(values, short)}"[:_NAME_LENGTH]
        for number, values in enumerate(trials, start=1)
    ]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The names without their group, ``learning_rate`` for one, where that tells them apart."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[2], set()).add(name)
    return {
        name: last if len(owners) == 1 else name
        for last, owners in groups.items()
        for name in owners
    }


def text(value: Any) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _clean(values: Values, short: Mapping[str, str]) -> str:
    joined = ",".join(f"{short[name]}={text(value)}" for name, value in values.items())
    return re.sub(r"[^\w.,=+-]+", "-", joined)
