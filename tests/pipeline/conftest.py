"""Fixtures of the pipeline's tests."""

import dataclasses
from collections.abc import Callable

import pytest

from pipeline.dataset_info import ShardSummary


@pytest.fixture(scope="session")
def empty_summary() -> Callable[..., ShardSummary]:
    """Makes the summary of a shard without records, but for what is given."""

    def make(split: str, index: int, **values) -> ShardSummary:
        summary = ShardSummary(
            split=split,
            index=index,
            file="",
            sha256="",
            record_bytes=[],
            label_pixels=[0] * 256,
            label_records=[0] * 256,
            unsure_pixels=0,
            unknown_pixels=0,
            channel_sum=[0] * 3,
            channel_square_sum=[0] * 3,
            sizes={},
            codings={},
            samples=[],
            worst=[],
            bad=[],
            duplicates=[],
        )
        return dataclasses.replace(summary, **values)

    return make
