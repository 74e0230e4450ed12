"""The released loop of Quad, written anew from its description: plain dictionaries, a sort of all clusters a round.

For every pull it walks the list of the cluster's neighbours; what the authors' code adds to that, files read anew for
every pull and a scan of a row of the distance matrix, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

EXHAUSTED = -9999999.0


def run(
    documents: Sequence[Sequence[float]],
    near: Sequence[Sequence[tuple[int, float]]],
    rules: dict[str, Any],
) -> list[int]:
    """Pull clusters; return them in the order they were pulled in.

    Parameters
    ----------
    documents : sequence of sequence of float
        Influences of every cluster's documents.
    near : sequence of sequence of (int, float)
        Every cluster's neighbours, itself among them, with their distance.
    rules : dict
        ``batch``, ``probe``, ``tau``, ``alpha``, ``threshold``, ``worth``, ``rounds``.
    """
    clusters = range(len(documents))
    scores = dict.fromkeys(clusters, 0.0)
    sums, updates = dict.fromkeys(clusters, 0.0), dict.fromkeys(clusters, 0)
    pulls, accepted = dict.fromkeys(clusters, 0), dict.fromkeys(clusters, 0)
    total = 0
    order: list[int] = []
    for _ in range(rules["rounds"]):
        chosen: list[int] = []
        for cluster, _score in sorted(scores.items(), key=lambda item: item[1], reverse=True):
            if len(documents[cluster]) < (pulls[cluster] + 1) * rules["worth"]:
                sums[cluster] = scores[cluster] = EXHAUSTED
                continue
            chosen.append(cluster)
            if len(chosen) == rules["batch"]:
                break
        for cluster in chosen:
            first = pulls[cluster] * rules["probe"]
            probed = documents[cluster][first : first + rules["probe"]]
            reward = sum(probed) / len(probed) - rules["tau"]
            pulls[cluster] += 1
            accepted[cluster] += reward > 0
            for other, distance in near[cluster]:
                sums[other] += reward * (1 - distance / rules["threshold"])
                updates[other] += 1
                total += 1
        for cluster in clusters:
            mean = sums[cluster] / updates[cluster] if updates[cluster] else 0.0
            scores[cluster] = mean + rules["alpha"] * math.sqrt(2 * math.log(total) / (updates[cluster] + 1))
        order += chosen
    return order
