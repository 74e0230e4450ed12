"""The same mini-batch work in torch-geometric: neighbours by distances, two GATConv layers, training, one scoring pass.

``gais_torch.py FOLDER ROWS THREADS``: reads the shards' features and labels, trains 150 steps on 18 batches of 1,024
rows, then scores every batch: probabilities and the attention received in both layers. No selection step. Prints CPU
seconds as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch  # type: ignore[import-not-found, unused-ignore]
from torch_geometric.nn import GATConv  # type: ignore[import-not-found, unused-ignore]

BATCH, NEIGHBOURS, STEPS, BATCHES = 1024, 10, 150, 18


class Network(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Two layers: 4 heads of 8, then one head to the classes."""

    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.first = GATConv(dimension, 8, heads=4)
        self.second = GATConv(32, classes, heads=1, concat=False)

    def forward(self, x: Any, edges: Any) -> tuple[Any, Any, Any]:
        """Return logits, and edges and attention of both layers."""
        z, first = self.first(x, edges, return_attention_weights=True)
        logits, second = self.second(torch.nn.functional.elu(z), edges, return_attention_weights=True)
        return logits, first, second


def edges_of(x: Any) -> Any:
    """Return edges from each row's nearest neighbours to it."""
    distances = torch.cdist(x, x)
    distances.fill_diagonal_(float("inf"))
    sources = distances.topk(NEIGHBOURS, largest=False).indices
    targets = torch.arange(len(x)).repeat_interleave(NEIGHBOURS)
    return torch.stack([sources.reshape(-1), targets])


def main() -> None:
    """Run it once."""
    torch.set_num_threads(int(sys.argv[3]))
    torch.manual_seed(0)
    start = time.process_time()
    tables = [pq.read_table(file) for file in sorted(Path(sys.argv[1]).glob("*.parquet"))]
    features = np.concatenate(
        [table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1) for table in tables]
    )[: int(sys.argv[2])]
    names = np.concatenate([table["label"].to_numpy(zero_copy_only=False) for table in tables])[: len(features)]
    codes = np.unique(names.astype(str), return_inverse=True)[1]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    order = np.random.default_rng(0).permutation(len(features))
    x, y = torch.from_numpy(features[order]), torch.from_numpy(codes[order])
    read = time.process_time()
    network = Network(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=5e-4)
    batches = [slice(b * BATCH, (b + 1) * BATCH) for b in range(BATCHES)]
    graphs = [edges_of(x[batch]) for batch in batches]
    for step in range(STEPS):
        batch, edges = batches[step % BATCHES], graphs[step % BATCHES]
        edges = edges[:, torch.rand(edges.shape[1]) > 0.1]
        optimizer.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(network(x[batch], edges)[0], y[batch])
        loss.backward()
        optimizer.step()
    trained = time.process_time()
    received = torch.zeros(len(x))
    own = torch.zeros(len(x))
    with torch.no_grad():
        for begin in range(0, len(x), BATCH):
            part = x[begin : begin + BATCH]
            logits, first, second = network(part, edges_of(part))
            own[begin : begin + BATCH] = torch.softmax(logits, 1).gather(1, y[begin : begin + BATCH, None])[:, 0]
            for edges, alpha in (first, second):
                received[begin : begin + BATCH].index_add_(0, edges[0], alpha.mean(1))
    end = time.process_time()
    print(json.dumps({"read": read - start, "train": trained - read, "score": end - trained, "whole": end - start}))


if __name__ == "__main__":
    main()
