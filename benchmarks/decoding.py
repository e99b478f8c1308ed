"""The floor: decodes pairs and throws them away.

python -m benchmarks.decoding PAIRS WORKERS
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

import cv2

from pipeline import pairs


def decode(path: Path) -> None:
    pairs.decode_image(path.read_bytes())


def main(input_dir: str, workers: str) -> None:
    paths = sorted(Path(input_dir).rglob("*.jpg"))
    with multiprocessing.Pool(int(workers), partial(cv2.setNumThreads, 1)) as pool:
        for _ in pool.imap_unordered(decode, paths, chunksize=256):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
