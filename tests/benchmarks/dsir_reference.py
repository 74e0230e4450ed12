"""One leg of the benchmark: the DSIR authors' package, timed stage by stage. Runs in a virtual environment of its own.

    python dsir_reference.py RAW.jsonl TARGET.jsonl WORK_FOLDER ROWS

Prints one JSON object: CPU seconds of fit, weights and resampling, the whole, and peak RSS in bytes.
"""

import itertools
import json
import os
import sys
from pathlib import Path

from data_selection import HashedNgramDSIR


def cpu_seconds() -> float:
    """CPU seconds of this process and its children."""
    return sum(os.times()[:4])


def main(raw: str, target: str, work: str, rows: int) -> None:
    """Fit, weigh, resample."""
    start = cpu_seconds()
    dsir = HashedNgramDSIR([raw], [target], cache_dir=f"{work}/cache", num_proc=1, ngrams=2, num_buckets=10_000)
    stages = [cpu_seconds()]
    dsir.fit_importance_estimator(num_tokens_to_fit="all")
    stages.append(cpu_seconds())
    dsir.compute_importance_weights()
    stages.append(cpu_seconds())
    dsir.resample(out_dir=f"{work}/out", num_to_sample=rows, cache_dir=f"{work}/resampled")
    stages.append(cpu_seconds())
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    fit, weights, resample = (later - earlier for earlier, later in itertools.pairwise(stages))
    print(
        json.dumps(
            {
                "fit": fit,
                "weights": weights,
                "resample": resample,
                "whole": stages[-1] - start,
                "peak_rss": peak * 1024,
                "selected": sum(1 for path in Path(f"{work}/out").rglob("*.jsonl") for _ in path.open()),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
