"""How bench_index.py and one peer's process talk: files and lines of JSON, so that every peer can
live in an environment of its own. Needs numpy only.

    python <peer>.py build DATA FOLDER VARIANT           builds FOLDER, writes FOLDER/build.json
    python <peer>.py serve DATA FOLDER VARIANT THREADS   answers lines of JSON until stdin closes

DATA holds values.npy f16 (N, D), offsets.npy i64 (B + 1,), token_ids.npy u32 (N,), and
queries.npy f32 (T, D), query_offsets.npy i64 (Q + 1,). A document's name is its position.

The serving process opens the index (timed, with libraries imported before) and says what it
found. A line {"setting": name, "queries": [numbers], "k": k} asks them one at a time and gets the
found positions, wall and CPU seconds of each (CPU of all threads of the process); a line with
"batch": true asks them in one call. {"memory": true} gets resident sizes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

MIB = 2**20


class Documents:
    """Token matrices in files, read when asked for: what a peer holds in memory is its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets = np.load(folder / "offsets.npy")
        self._values = np.load(folder / "values.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def dim(self) -> int:
        return int(self._values.shape[1])

    def values(self, first: int, last: int) -> np.ndarray[Any, Any]:
        """Tokens of documents first to last (exclusive), f16, read from the file (a memory map
        would count the input among a peer's resident pages)."""
        start, end = self.offsets[first], self.offsets[last]
        row = self.dim * 2
        with (self.folder / "values.npy").open("rb") as file:
            file.seek(self._values.offset + int(start) * row)
            return np.fromfile(file, np.float16, int(end - start) * self.dim).reshape(-1, self.dim)

    def matrices(self, first: int, last: int) -> list[np.ndarray[Any, Any]]:
        values = self.values(first, last)
        ends = self.offsets[first : last + 1] - self.offsets[first]
        return [values[a:b] for a, b in pairwise(ends)]

    def batches(self, size: int) -> Iterator[tuple[int, int]]:
        """(first, last) of runs of `size` documents."""
        return ((first, min(first + size, len(self))) for first in range(0, len(self), size))

    def token_ids(self) -> np.ndarray[Any, Any]:
        return np.load(self.folder / "token_ids.npy")


class Peer:
    """What a peer's file fills in. VARIANTS: name -> options of build; SETTINGS: variant -> name
    of a setting -> options of search; the first setting of a variant is the peer's default."""

    DISTRIBUTION = ""
    VARIANTS: ClassVar[dict[str, dict[str, Any]]] = {}
    SETTINGS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {}

    def __init__(self, variant: str, threads: int) -> None:
        self.variant, self.threads = variant, threads

    def build(self, documents: Documents, folder: Path, **options: Any) -> None:
        raise NotImplementedError

    def open(self, folder: Path, documents: Documents) -> None:
        raise NotImplementedError

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        """Positions of the k best documents, best first."""
        raise NotImplementedError

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        """The same for many queries in one call on `self.threads` threads, where the peer can."""
        return [self.search(query, k, **setting) for query in queries]


def run(kind: type[Peer]) -> None:
    """The main program of a peer's file."""
    command, data, folder, variant, *rest = sys.argv[1:]
    if command == "build":
        _build(kind(variant, _cores()), Documents(Path(data)), Path(folder))
    else:
        _serve(kind(variant, int(rest[0])), Path(data), Path(folder))


def _build(peer: Peer, documents: Documents, folder: Path) -> None:
    part = folder.with_name(folder.name + ".part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    before = resident()["rss_mib"]
    wall, cpu = time.perf_counter(), _cpu()
    peer.build(documents, part / "index", **peer.VARIANTS[peer.variant])
    report = {
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(_cpu() - cpu, 2),
        "peak_mib": round(max(resident()["peak_mib"], _children_peak_mib())),
        "before_mib": round(before),  # interpreter and libraries
        "bytes": sum(f.stat().st_blocks * 512 for f in part.rglob("*") if f.is_file()),
        "threads": peer.threads,
        "version": version(peer.DISTRIBUTION),
        "day": time.strftime("%Y-%m-%d %H:%M"),
        "load": round(os.getloadavg()[0], 1),
    }
    (part / "build.json").write_text(json.dumps(report))
    part.rename(folder)
    print(json.dumps(report))


def _serve(peer: Peer, data: Path, folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    documents = Documents(data)
    tokens, ends = np.load(data / "queries.npy"), np.load(data / "query_offsets.npy")
    queries = [np.ascontiguousarray(tokens[a:b]) for a, b in pairwise(ends)]
    before = resident()["rss_mib"]
    wall, cpu = time.perf_counter(), _cpu()
    peer.open(folder / "index", documents)
    opened = {"open_ms": 1e3 * (time.perf_counter() - wall), "open_cpu_ms": 1e3 * (_cpu() - cpu)}
    _answer(answers, {**opened, "before_mib": before, "settings": list(_settings(peer))})
    for line in sys.stdin:
        try:
            _answer(answers, _obey(peer, json.loads(line), queries, folder))
        except Exception as error:
            traceback.print_exc()
            _answer(answers, {"error": f"{type(error).__name__}: {error}"[:300]})


def _settings(peer: Peer) -> dict[str, dict[str, Any]]:
    return peer.SETTINGS[peer.variant]


def _obey(peer: Peer, order: dict[str, Any], queries: list[Any], folder: Path) -> dict[str, Any]:
    if "memory" in order:
        return {**resident(), "mapped_mib": mapped_mib(folder)}
    setting, k = _settings(peer)[order["setting"]], order["k"]
    chosen = [queries[i] for i in order["queries"]]
    if order.get("batch"):
        wall, cpu = time.perf_counter(), _cpu()
        found = peer.search_batch(chosen, k, **setting)
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu}
        return {"found": [list(map(int, row)) for row in found], **spent}
    found, walls, cpus = [], [], []
    for query in chosen:
        wall, cpu = time.perf_counter(), _cpu()
        found.append(peer.search(query, k, **setting))
        walls.append(time.perf_counter() - wall)
        cpus.append(_cpu() - cpu)
    return {"found": [list(map(int, row)) for row in found], "wall_s": walls, "cpu_s": cpus}


def _answer(answers: Any, line: dict[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()


def _cpu() -> float:
    """CPU seconds of this process, all threads, and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _children_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def resident() -> dict[str, float]:
    """Resident and peak resident size of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = {n: int(v.split()[0]) / 1024 for n, v in (x.split(":", 1) for x in lines) if "kB" in v}
    return {"rss_mib": round(held["VmRSS"], 1), "peak_mib": round(held["VmHWM"], 1)}


def mapped_mib(folder: Path) -> float:
    """Resident pages of files below `folder`: what of the index the searches have touched."""
    total, inside, root = 0, False, str(folder.resolve())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/smaps").read_text().splitlines():
            head = line.split()
            if not head[0].endswith(":"):
                inside = len(head) > 5 and head[5].startswith(root)
            elif inside and head[0] == "Rss:":
                total += int(head[1])
    return round(total / 1024, 1)
