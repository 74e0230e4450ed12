"""Condensed and edited nearest neighbours of imbalanced-learn, in a virtual environment of their own.

``gais_peers.py CNN|ENN FOLDER``: reads ``x.npy`` and ``y.npy`` (standardised training rows), writes ``kept.npy``, the
rows kept, and prints its CPU seconds as JSON. CNN keeps the whole smallest class, as imbalanced-learn defines it.
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
    """Run one of them."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[2])
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    sampler = (
        CondensedNearestNeighbour(random_state=0)
        if sys.argv[1] == "CNN"
        else EditedNearestNeighbours(sampling_strategy="all")
    )
    start = time.process_time()
    sampler.fit_resample(x, y)
    print(json.dumps({"cpu": time.process_time() - start}))
    np.save(folder / "kept.npy", np.unique(sampler.sample_indices_))


if __name__ == "__main__":
    main()
