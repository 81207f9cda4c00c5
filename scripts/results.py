"""Where measured numbers go: one JSON line a run in scripts/results/<name>.jsonl.

Every line carries what is needed to read it later: the commit, the machine, the versions, the day.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "transformers", "timm", "pypdfium2", "safetensors")


def record(name: str, **numbers: Any) -> dict[str, Any]:
    """Appends `numbers` (JSON values) to scripts/results/<name>.jsonl and returns the whole line.

    Lines are only ever added: an older measurement stays, with the commit that it was made at."""
    line = {"bench": name, **numbers, **circumstances()}
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    # what others' errors say of files, without where they lie on this machine
    text = text.replace(f"{FOLDER.parent.parent}/", "")
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return line


def circumstances() -> dict[str, Any]:
    """commit ("+" after it: with changes that are not committed), time, machine and versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "commit": _commit(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": _cores(), "load": _load()},
        "versions": versions,
    }


def _commit() -> str | None:
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(FOLDER.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _load() -> float | None:
    """Runnable processes over the last minute, before this one mattered: noise in a timing."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
