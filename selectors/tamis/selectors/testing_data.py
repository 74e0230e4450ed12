"""Generated data for `check_selector`: rows with a column for every role, and a log of training dynamics."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CLASSES = 4

VOCABULARIES = ("sail tide keel mast", "oven salt loaf soup", "loop queue stack heap", "moss fern bark leaf")


def make_table(rows: int, seed: int) -> pa.Table:
    """Return rows of four classes with a column for every role, named as the role."""
    draw, words = np.random.default_rng(seed), random.Random(seed)
    labels = draw.integers(0, CLASSES, rows)
    embeddings = draw.normal(size=(rows, 8)) + 3 * np.eye(8)[labels]
    logits = draw.normal(size=(rows, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return pa.table(
        {
            "text": [" ".join(words.choices(VOCABULARIES[label].split(), k=9)) for label in labels],
            "id": [f"row-{row}" for row in range(rows)],
            "group": [f"g{label % 3}" for label in labels],
            "label": labels,
            "size": draw.integers(1, 50, rows),
            "score": draw.normal(size=rows).astype(np.float32),
            "cutoff": draw.normal(size=rows).astype(np.float32),
            "embedding": list(embeddings.astype(np.float32)),
            "cluster": labels * 2 + draw.integers(0, 2, rows),
            "influence": draw.normal(size=rows) + labels,
            "activation": list(embeddings.astype(np.float32)),
            "output_gradient": list((draw.normal(size=(rows, 3)) + 1).astype(np.float32)),
            "gradient": list((embeddings @ np.diag(np.arange(1, 9))).astype(np.float32)),
            "logits": list(log_probs.astype(np.float32)),
        }
    )


def make_visits(labels: npt.NDArray[np.int64], epoch: int) -> pa.Table:
    """Return one epoch of a log of training dynamics, its rows in an order of their own."""
    draw = np.random.default_rng(100 + epoch)
    rows = draw.permutation(len(labels))
    logits = draw.normal(size=(len(rows), CLASSES)) + epoch * np.eye(CLASSES)[labels[rows]]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return pa.table(
        {
            "epoch": np.full(len(rows), epoch),
            "row": rows,
            "label": labels[rows],
            "logits": pa.array(list(log_probs.astype(np.float16)), pa.list_(pa.float16(), CLASSES)),
        }
    )
