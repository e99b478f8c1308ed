"""What a backbone hands to a decoder."""

from __future__ import annotations

from typing import Any, NamedTuple


class Features(NamedTuple):
    """Keras tensors [B, H / s, W / s, C], sizes rounded up, from early and fine to late and coarse.

    Stages 2 to 4 of a dilated backbone are finer than said here: s is at most its output stride.

    Attributes:
      stem: s = 2.
      stage1: s = 4.
      stage2: s = 8.
      stage3: s = 16.
      stage4: s = 32.
    """

    stem: Any
    stage1: Any
    stage2: Any
    stage3: Any
    stage4: Any
