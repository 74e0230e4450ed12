"""The worker's parts: settings, the entry of a computing process, messages, the job process without a supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tamis.native import source_digest
from tamis.selectors.errors import DataError, Infeasible, Invalid, TamisError
from tamis.service.problem_details import problem_of
from tamis.service.settings import BadSettings, Keep, Settings
from tamis.service.worker.protocol import Lines, encode

# Settings


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.home == Path("~/.local/share/tamis").expanduser()
    assert settings.database_url == f"sqlite:///{settings.home}/tamis.sqlite3"
    assert (settings.data_roots, settings.engine) == (None, "local")
    assert settings.threads == len(os.sched_getaffinity(0))


def test_everything_set() -> None:
    settings = Settings.from_environment(
        {
            "TAMIS_HOME": "/srv/tamis",
            "TAMIS_DATABASE_URL": "postgresql://db/tamis",
            "TAMIS_DATA_ROOTS": "/data:s3://pool/raw:/more data/:s3://other",
            "AWS_ENDPOINT_URL": "http://store:8333",
            "TAMIS_ENGINE": "local",
            "TAMIS_THREADS": "3",
            "TAMIS_LEASE_SECONDS": "4",
            "TAMIS_RUNNING_PER_OWNER": "2",
            "TAMIS_KEEP_SECONDS": "5",
            "TAMIS_KEEP_SIGNALS_BYTES": "6",
        }
    )
    assert (settings.lease_seconds, settings.running_per_owner) == (4, 2)
    assert (settings.keep, settings.keep_signals) == (Keep(seconds=5), Keep(bytes=6))
    assert settings.data_roots == ("/data", "s3://pool/raw", "/more data/", "s3://other")
    assert settings.s3_endpoint == "http://store:8333"
    assert (settings.database_url, settings.threads) == ("postgresql://db/tamis", 3)
    assert settings.job_dir("job_1") == Path("/srv/tamis/jobs/job_1")


def test_home_follows_the_desktops_rules() -> None:
    assert Settings.from_environment({"XDG_DATA_HOME": "/x"}).home == Path("/x/tamis")
    assert Settings.from_environment({"XDG_DATA_HOME": "relative"}).home.name == "tamis"


def test_empty_variables_are_unset_ones() -> None:
    names = [f"TAMIS_{name}" for name in ("HOME", "DATABASE_URL", "DATA_ROOTS", "ENGINE", "THREADS")]
    names.append("AWS_ENDPOINT_URL")
    assert Settings.from_environment(dict.fromkeys(names, "")) == Settings.from_environment({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAMIS_ENGINE", "ray"),
        ("TAMIS_ENGINE", "Local"),
        ("TAMIS_THREADS", "0"),
        ("TAMIS_THREADS", "-1"),
        ("TAMIS_THREADS", "two"),
        ("TAMIS_THREADS", "²"),
        ("TAMIS_THREADS", "100000"),
        ("TAMIS_LEASE_SECONDS", "0"),
        ("TAMIS_RUNNING_PER_OWNER", "0"),
        ("TAMIS_KEEP_BYTES", "1e9"),
        ("TAMIS_DATA_ROOTS", "relative"),
        ("TAMIS_DATA_ROOTS", "gs://bucket/prefix"),
        ("TAMIS_DATA_ROOTS", "/data:s3://"),
        ("TAMIS_DATA_ROOTS", "s3://bucket/*"),
        ("AWS_ENDPOINT_URL_S3", "store:8333"),
    ],
)
def test_bad_settings_name_their_variable(name: str, value: str) -> None:
    with pytest.raises(BadSettings, match=name):
        Settings.from_environment({name: value})


def test_folders_are_private(tmp_path: Path) -> None:
    settings = Settings.from_environment({"TAMIS_HOME": str(tmp_path / "a" / "b")})
    settings.create_folders()
    settings.create_folders()
    assert {folder.name for folder in settings.home.iterdir()} == {"jobs", "signals", "cache"}
    assert settings.home.stat().st_mode & 0o777 == 0o700


def test_a_home_that_can_not_be() -> None:
    with pytest.raises(BadSettings, match="TAMIS_HOME"):
        Settings.from_environment({"TAMIS_HOME": "/dev/null/home"}).create_folders()


# The entry of a computing process


def python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TAMIS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )


PREPARE = """
from tamis.service.process_setup import prepare_process
from tamis.service.settings import Settings
prepare_process(Settings.from_environment())
"""


def test_the_entry_sets_up_the_numeric_libraries(tmp_path: Path) -> None:
    look = "import numba, pyarrow, json, sys; json.dump([numba.config.CACHE_DIR, numba.config.NUMBA_NUM_THREADS,"
    look += " bool(numba.config.DISABLE_INTEL_SVML), pyarrow.cpu_count()], sys.stdout)"
    done = python(PREPARE + look, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(tmp_path / "home" / "cache" / f"numba-{source_digest()}"), 1, True, 1]


def test_the_entry_refuses_to_come_too_late(tmp_path: Path) -> None:
    done = python("import numpy" + PREPARE, tmp_path / "home")
    assert done.returncode != 0 and "before numpy is imported" in done.stderr


def test_the_supervisor_stays_light(tmp_path: Path) -> None:
    """It would carry the numeric libraries' memory for nothing."""
    look = "import sys, tamis.service.worker.supervisor\n"
    look += "print([name for name in ('numba', 'numpy', 'pyarrow') if name in sys.modules])"
    assert python(look, tmp_path).stdout == "[]\n"


# Problems


def test_a_problem_tells_everything() -> None:
    error = DataError("the page can't be decoded", shard="a.parquet", row_group=3, column="text", line=None)
    assert problem_of(error) == {
        "type": "urn:tamis:problem:bad-data",
        "title": "A shard holds data that can't be used",
        "status": 422,
        "detail": "the page can't be decoded",
        "code": "bad-data",
        "shard": "a.parquet",
        "row_group": 3,
        "column": "text",
    }
    assert problem_of(Infeasible("no", pointer="/budget"))["errors"] == [{"pointer": "/budget", "detail": "no"}]
    many = [{"pointer": "/a", "detail": "x"}, {"pointer": "/b", "detail": "y"}]
    assert problem_of(Invalid("no", pointer="/", errors=many))["errors"] == many
    assert problem_of(TamisError())["code"] == "internal"
    assert problem_of(TamisError(status=1, code="2"))["status"] == 500  # a place named like a field does not win


# Messages


def test_lines_come_whole_however_they_were_cut() -> None:
    data = encode({"text": "a\nb é"}) + b"\n" + encode({"n": 2})
    for step in (1, 2, 3, 7, len(data)):
        lines = Lines()
        seen = [line for start in range(0, len(data), step) for line in lines.feed(data[start : start + step])]
        assert [json.loads(line) if line else None for line in seen] == [{"text": "a\nb é"}, None, {"n": 2}]


def test_lines_without_end_are_cut() -> None:
    lines = Lines(longest=4)
    assert list(lines.feed(b"abcdefghij")) == [b"abcd", b"efgh"]
    assert list(lines.feed(b"kl\nmnop\n")) == [b"ijkl", b"mnop"]
    assert list(lines.feed(b"q\n")) == [b"q"]


# The job process


def start_job_process(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tamis.service.worker.job_process", *arguments],
        env={**os.environ, "TAMIS_HOME": str(home), "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def test_the_job_process_ends_when_its_input_does(home: Path) -> None:
    with start_job_process(home, "--parent", str(os.getpid()), "--runner", "runners:run") as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"kind": "ready"}
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL


def test_the_job_process_does_not_outlive_a_parent_that_is_gone(home: Path) -> None:
    with start_job_process(home, "--parent", str(2**22 - 1), stderr=subprocess.DEVNULL) as process:
        assert process.wait(60) == -signal.SIGKILL


def test_the_job_process_leaves_signals_to_the_supervisor(home: Path) -> None:
    with start_job_process(home, "--parent", str(os.getpid()), "--runner", "runners:run") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()


def test_a_job_process_opens_datasets_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard's footer is read once between the order of a job and its result."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tamis.selectors.datasets import Dataset, LocalStorage
    from tamis.selectors.jobs.open import Environment, open_job
    from tamis.selectors.run.observer import Unobserved
    from tamis.selectors.run.questions import Answers
    from tamis.selectors.schema.request import JobSpec
    from tamis.service.worker.execution import execute

    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "pool.parquet")
    spec = JobSpec.model_validate(
        {"dataset": {"shards": [str(tmp_path / "pool.parquet")]}, "selector": {"name": "random"}, "budget": {"rows": 2}}
    )
    environment = Environment(LocalStorage(), tmp_path / "cache", 1)
    accepted = open_job(spec, environment)
    opened: list[str] = []
    really = Dataset.open

    def open_counted(*arguments: Any, **options: Any) -> Dataset:
        opened.append(options["pointer"])
        return really(*arguments, **options)

    monkeypatch.setattr(Dataset, "open", open_counted)
    execute(accepted.spec, accepted.fingerprint, tmp_path / "out", environment, Unobserved(), Answers())
    assert opened == ["/dataset"]
    assert (tmp_path / "out" / "result.json").is_file()
