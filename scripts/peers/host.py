"""The benchmark's side of protocol.py: which peers there are, their builds, their processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OWN = ".venv"  # the environment of the project itself: where this program runs


@dataclass(frozen=True)
class Peer:
    """script: its file; environment: DATA/envs/<environment>; variants: what is built of it."""

    name: str
    script: str
    environment: str
    variants: tuple[str, ...]


PEERS = (
    Peer("ours", "ours.py", OWN, ("4 bits", "2 bits", "1 bit", "4 bits, originals", "16 bits")),
    Peer("exact", "exact.py", OWN, ("fp16",)),
    Peer("tachiom", "tachiom_peer.py", "tachiom", ("pq32",)),
    Peer("fast-plaid", "fast_plaid_peer.py", "fast-plaid", ("4 bits", "2 bits")),
    Peer("xtr-warp", "xtr_warp_peer.py", "xtr-warp", ("4 bits",)),
    Peer("qdrant-edge", "qdrant_peer.py", "qdrant-edge", ("exact", "turbo 4 bits", "pooled")),
    Peer("lancedb", "lancedb_peer.py", "lancedb", ("exact", "ivf-pq")),
    Peer("pylate", "pylate_peer.py", "pylate", ("plaid", "scann", "voyager")),
)
POOLS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "TOKIO_WORKER_THREADS", "LANCE_CPU_THREADS", "LANCE_IO_THREADS",
)  # fmt: skip


class Unavailable(RuntimeError):
    """A peer that cannot be measured, and why."""


def python_of(peer: Peer, data: Path) -> str:
    """The interpreter of a peer's environment; Unavailable with the reason why there is none."""
    if peer.environment == OWN:
        return sys.executable
    envs = data / "envs"
    python = envs / peer.environment / "bin" / "python"
    if python.exists():
        return str(python.absolute())
    reason = envs / f"{peer.environment}.failed"
    told = " ".join(reason.read_text().split()[-30:]) if reason.exists() else "peers/env.sh not run"
    raise Unavailable(f"not installed: {told}")


def surroundings(threads: int) -> dict[str, str]:
    """Environment variables that hold every library's pool to `threads` threads."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    pools = dict.fromkeys(POOLS, str(threads))
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **pools, **quiet, "PYTHONDONTWRITEBYTECODE": "1"}


def source_state() -> str:
    """A digest of the index's own sources: our indexes are built again when it changes."""
    digest = hashlib.sha256()
    files = [*(ROOT / "lateint" / "index").rglob("*"), HERE / "ours.py"]
    for file in sorted(files):
        if file.suffix in (".py", ".cpp", ".h", ".hpp", ".so", ".txt"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Built:
    """One variant's index in a folder; report: what building it took."""

    peer: Peer
    variant: str
    folder: Path
    report: dict[str, Any]


def build(
    peer: Peer, variant: str, data: Path, tokens: Path, key: str, budget: float, nice: int
) -> Built:
    """The index of a variant: the one on disk if it was built for `key`, else a new one if it is
    ready within `budget` CPU seconds, and twice as many of wall time (a busy machine). Raises
    Unavailable with the reason."""
    python = python_of(peer, data)
    name = f"{peer.name} {variant}".replace(" ", "-")
    folder = data / "bench_index" / "indexes" / tokens.name / name
    note, report = folder.with_name(name + ".json"), folder / "build.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("key") == key:
        if report.exists():
            return Built(peer, variant, folder, json.loads(report.read_text()))
        if known.get("budget", 0) >= budget:
            raise Unavailable(known["reason"])
    if budget <= 0:
        raise Unavailable("not built, and no time for building was given")
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [python, str(HERE / peer.script), "build", str(tokens), str(folder), variant]
    log = folder.with_name(name + ".log")
    reason = ""
    with log.open("w") as out:
        process = subprocess.Popen(
            ["nice", "-n", str(nice), *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=surroundings(len(os.sched_getaffinity(0))),
            start_new_session=True,
        )
        began, spent = time.monotonic(), 0.0
        try:
            while process.poll() is None and not reason:
                time.sleep(0.2)
                spent = max(spent, cpu_of(process.pid))
                if spent > budget or time.monotonic() - began > 2 * budget:
                    wall = time.monotonic() - began
                    reason = f"not built within {spent:.0f} CPU s, {wall:.0f} s"
            if process.returncode:
                reason = f"building failed: {last_line(log)}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    note.write_text(json.dumps({"key": key, "budget": budget, "reason": reason}))
    if reason:
        raise Unavailable(reason)
    return Built(peer, variant, folder, json.loads(report.read_text()))


def cpu_of(group: int) -> float:
    """CPU seconds of the living processes of a process group (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


class Server:
    """A peer's process that has its index open. A context manager; raises Unavailable."""

    def __init__(
        self, built: Built, data: Path, tokens: Path, threads: int, cpus: set[int], patience: float
    ) -> None:
        self.built = built
        self._log = built.folder.with_name(built.folder.name + ".serve.log")
        command = [
            python_of(built.peer, data), str(HERE / built.peer.script), "serve", str(tokens),
            str(built.folder), built.variant, str(threads),
        ]  # fmt: skip
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=surroundings(threads),
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )
        try:
            self.opened = self._answer(patience)
        except Unavailable:
            self.close()
            raise

    def ask(self, patience: float, **order: Any) -> dict[str, Any]:
        """The answer to one order, waited for at most `patience` seconds."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Unavailable(f"its process died: {last_line(self._log)}") from None
        return self._answer(patience)

    def _answer(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout
        timer = threading.Timer(patience, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            late = self._process.wait() == -signal.SIGKILL
            told = f"no answer in {patience:.0f} s" if late else last_line(self._log)
            raise Unavailable(f"its process ended: {told}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
