"""Lists of neighbours of the rows of a batch, as attention reads them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SELF = 0
"""The slot of a node's list of neighbours that holds the node itself."""


class Graph(NamedTuple):
    """A batch's lists of neighbours, the node itself in slot `SELF`."""

    neighbours: NDArray[np.int32]  # [n, slots], rows of the batch; any row where there is none
    log_weights: Floats  # [n, slots], added to the attention logits; -inf: no edge
