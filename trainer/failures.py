"""TensorFlow's errors that the user can mend, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from pipeline import dataset_info
from pipeline.errors import UserError
from trainer.run_folder import reason


class TensorFlowFailure(UserError):
    """Too little memory, a damaged shard, or a file that cannot be read or written."""


@contextmanager
def tensorflow_errors(data_dir: str | None = None) -> Iterator[None]:
    """Names what stands behind TensorFlow's errors in the block.

    Args:
      data_dir: The records folder that is read in it, if one is.

    Raises:
      TensorFlowFailure: In place of them.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        damaged = dataset_info.damaged_shards(data_dir) if data_dir else []
        raise TensorFlowFailure(
            f"The records are damaged: {', '.join(damaged) or reason(error)}. Write them again "
            "with pipeline.preprocess --overwrite."
        ) from error
    except tf.errors.ResourceExhaustedError as error:
        raise TensorFlowFailure(
            f"Memory or disk ran out: {reason(error)}. A smaller --batch_size, crop or picture "
            "needs less memory."
        ) from error
    except (
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.FailedPreconditionError,
    ) as error:
        raise TensorFlowFailure(f"A file cannot be read or written: {reason(error)}.") from error
