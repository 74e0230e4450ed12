"""Run inside the API's container by smoke.sh: the same job over files and over a bucket, run by two workers."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem, S3FileSystem, copy_files

URL = "http://127.0.0.1:8321"
DATA, BUCKET = Path("/data"), "tamis"


def ask(path: str, body: Any = None, **headers: str) -> bytes:
    headers["Authorization"] = f"Bearer {os.environ['TAMIS_TOKEN']}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(URL + path, data, headers | {"Content-Type": "application/json"})
    with urlopen(request, timeout=120) as answer:
        content: bytes = answer.read()
    return content


def select(pool: str, target: str, seed: int) -> pa.Table:
    job = json.loads(
        ask(
            "/v1/jobs",
            {
                "dataset": {"shards": [pool], "columns": {"text": "text", "id": "id"}},
                "target": {"datasets": [{"shards": [target]}]},
                "selector": {"name": "dsir"},
                "budget": {"rows": 400},
                "seed": seed,
            },
        )
    )
    while not job["terminal"]:
        job = json.loads(ask(f"/v1/jobs/{job['id']}", Prefer="wait=30"))
    if job["state"] != "succeeded":
        sys.exit(f"the job over {pool} {job['state']}: {job['error']}")
    return pq.read_table(io.BytesIO(ask(f"/v1/jobs/{job['id']}/selection.parquet")))


def main() -> None:
    scheme, _, host = os.environ["AWS_ENDPOINT_URL_S3"].partition("://")
    store = S3FileSystem(scheme=scheme, endpoint_override=host, allow_bucket_creation=True)
    store.create_dir(BUCKET)
    copy_files(str(DATA), f"{BUCKET}/demo", source_filesystem=LocalFileSystem(), destination_filesystem=store)
    files = select("/data/pool/*.parquet", "/data/targets/speeches.parquet", 1)
    objects = select(f"s3://{BUCKET}/demo/pool/*.parquet", f"s3://{BUCKET}/demo/targets/speeches.parquet", 1)
    if files.num_rows != 400 or not files.equals(objects):
        sys.exit(f"the selections differ: {files.num_rows} rows from files, {objects.num_rows} from the bucket")
    workers = [line for line in ask("/metrics").decode().splitlines() if line.startswith("tamis_workers ")]
    if workers != ["tamis_workers 2.0"]:
        sys.exit(f"there should be two workers: {workers}")
    sys.stdout.write("400 rows from files and the same 400 from the bucket, by two workers\n")


main()
