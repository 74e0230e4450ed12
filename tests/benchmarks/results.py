"""Records of runs: one line of JSON each under ``results/``, and the Markdown tables of README.md made from them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE / "README.md"
DIGITS = 4
"""Significant digits of a number that is kept."""
GENERATED = re.compile(
    r"(?P<begin><!-- results of (?P<name>[\w.]+) -->\n).*?(?P<end><!-- end of results -->)", re.DOTALL
)


@dataclass
class Block:
    """A table, with remarks below it."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Record:
    """One run of a benchmark: what was measured, on which machine, of which commit, when."""

    benchmark: str
    date: str  # ISO 8601, of the day
    commit: str
    machine: dict[str, Any]
    arguments: dict[str, Any]
    blocks: list[Block]
    skipped: dict[str, str]  # legs that did not run, with the reason

    @classmethod
    def now(cls, name: str, arguments: dict[str, Any], blocks: list[Block], skipped: dict[str, str]) -> Record:
        """Make a record of a run that ends now, here."""
        today = datetime.now(UTC).date().isoformat()
        return cls(name, today, commit(), machine(), arguments, blocks, skipped)


def machine() -> dict[str, Any]:
    """Describe this machine: processor, cores that this process may use, memory in GB."""
    cpu = "unknown"
    memory = 0.0
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = re.findall(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)[0].strip()
        vectors = [name for name in ("avx2", "avx512f", "avx512_vnni") if re.search(rf"\b{name}\b", info)]
        cpu = f"{cpu} ({', '.join(vectors)})" if vectors else cpu
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (OSError, IndexError, ValueError):
        pass  # another system: the figures are what matters
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gb": round(memory, 1)}


def commit() -> str:
    """Return the short hash of the commit that is measured, with a plus if files differ from it."""
    here = {"cwd": HERE, "capture_output": True, "text": True}
    try:
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, **here).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain"], check=True, **here).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # an unpacked archive
    return f"{name}+" if changed else str(name)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its floats to four significant digits."""
    return {
        name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
        for name, value in row.items()
        if not name.startswith("_")
    }


def append(record: Record) -> None:
    """Keep a record."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{record.benchmark}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def kept(name: str) -> list[Record]:
    """Return the records of a benchmark, the latest last."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for line in lines:
        data = json.loads(line)
        records.append(Record(**{**data, "blocks": [Block(**block) for block in data["blocks"]]}))
    return records


# -- Markdown


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and abs(value) >= 100 else f"{value:.6g}"
    return str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table; its columns are those of any row, in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell(row.get(name)) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def markdown(record: Record) -> str:
    """Return the tables of a record, and where and when they were made."""
    parts = []
    for block in record.blocks:
        parts += [f"**{block.title}**"] if block.title else []
        parts += [table(block.rows)] if block.rows else []
        parts += block.remarks
    parts += [f"Skipped: {name}: {reason}." for name, reason in record.skipped.items()]
    where = [str(record.machine["cpu"]), f"{record.machine['cores']} cores"]
    where += [f"{record.machine['memory_gb']:g} GB"] if record.machine.get("memory_gb") else []
    where += [record.machine["note"]] if record.machine.get("note") else []
    parts.append(f"<sub>{record.date}, commit {record.commit}; {', '.join(where)}.</sub>")
    return "\n\n".join(parts)


def generated(text: str) -> str:
    """Return a page with the tables between its marks made anew from the latest records."""

    def latest(found: re.Match[str]) -> str:
        records = kept(found["name"])
        body = f"\n{markdown(records[-1])}\n\n" if records else "\nNot measured yet.\n\n"
        return f"{found['begin']}{body}{found['end']}"

    return GENERATED.sub(latest, text)


def update_readme() -> None:
    """Put the tables of the latest records into README.md."""
    README.write_text(generated(README.read_text(encoding="utf-8")), encoding="utf-8")
