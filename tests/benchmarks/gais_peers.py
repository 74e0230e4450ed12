"""Condensed and edited nearest neighbours of imbalanced-learn, in a virtual environment of their own.

``gais_peers.py FOLDER``: reads ``x.npy`` and ``y.npy`` (standardised training rows), writes ``cnn.npy`` and
``enn.npy``, the rows kept, and prints their CPU seconds as JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from imblearn.under_sampling import (  # type: ignore[import-not-found, unused-ignore]
    CondensedNearestNeighbour,
    EditedNearestNeighbours,
)


def main() -> None:
    """Run both."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    spent = {}
    for name, sampler in (
        ("cnn", CondensedNearestNeighbour(sampling_strategy="all", random_state=0, n_jobs=1)),
        ("enn", EditedNearestNeighbours(sampling_strategy="all", n_jobs=1)),
    ):
        start = time.process_time()
        sampler.fit_resample(x, y)
        spent[name] = time.process_time() - start
        np.save(folder / f"{name}.npy", np.unique(sampler.sample_indices_))
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
