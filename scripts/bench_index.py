"""The index beside its peers: quality, speed, memory, bytes, in one run with rounds interleaved.

    scripts/peers/env.sh DATA                                     # once: the peers' environments
    python scripts/bench_index.py DATA --build-only 1200          # once: their indexes, hours
    python scripts/bench_index.py DATA [--sets 10k,50k] [--peers ours,tachiom] [--only "4 bits"]

Sets: see index_data.py. Recall is against exact float32 MaxSim. One query at a time: every peer's
process is held to one thread and one core, and the rows take turns, a few queries each, so that
what disturbs the machine disturbs all of them; CPU milliseconds are of all threads of the
process. Batches: one call with many queries, two threads on two cores. Memory: growth of the
resident size over the process before it opened the index. A row stops after --seconds, and says
how many queries it answered. Peers' indexes are kept on disk with what building them took (and
when, and the machine's load then); ours are built again whenever its sources have changed.

The last line is JSON, and goes to scripts/results/bench_index.jsonl. Results of each set are
kept in DATA/bench_index/results; --resume takes those made with the same sources and options.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import index_data
import numpy as np
from results import record

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from host import PEERS, Built, Peer, Server, Unavailable, build, source_state

K = 100
CHUNK = 5  # queries in a turn
PASSES = 3  # over all queries, where the time allows
ELSEWHERE = {  # of ours, what larger sets are measured with; everything is at 10k
    "50k": ("4 bits", "2 bits"),
    "pages": ("4 bits", "2 bits", "16 bits"),
    "200k": ("4 bits",),
}
GROWTH = ("10k", "50k", "200k")  # documents of one length: what growth is fitted over


class Row:
    """One setting of one index while it is measured."""

    def __init__(self, server: Server, setting: str) -> None:
        self.server, self.setting = server, setting
        self.found: dict[int, list[int]] = {}
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.asked = 0
        self.error = ""

    def turn(self, queries: int, patience: float) -> None:
        numbers = [i % queries for i in range(self.asked, self.asked + CHUNK)]
        answer = self.server.ask(patience, setting=self.setting, queries=numbers, k=K)
        self.asked += CHUNK
        self.found.update(zip(numbers, answer["found"], strict=True))
        self.wall += answer["wall_s"]
        self.cpu += answer["cpu_s"]

    def done(self, queries: int, seconds: float) -> bool:
        spent = max(sum(self.cpu), sum(self.wall) / 4)  # a row that others disturb gets more
        return bool(self.error) or self.asked >= PASSES * queries or spent >= seconds

    def numbers(self, truth: Any) -> dict[str, Any]:
        if not self.wall:
            return {"missing": self.error or "no query answered"}
        return {
            "recall10": recall(self.found, truth, 10),
            "recall100": recall(self.found, truth, 100),
            "queries": len(self.found),
            "p50_ms": milliseconds(self.wall, 50),
            "p95_ms": milliseconds(self.wall, 95),
            "cpu_ms": milliseconds(self.cpu, 50),
        }


def recall(found: dict[int, list[int]], truth: Any, k: int) -> float:
    """Mean share of the k truly best documents among the first k found."""
    kept = [len(set(row[:k]) & set(truth[i, :k].tolist())) / k for i, row in found.items()]
    return round(float(np.mean(kept)), 4)


def milliseconds(seconds: list[float], percentile: int) -> float:
    return round(1e3 * float(np.percentile(seconds, percentile)), 2)


def measure(
    builds: list[Built], data: Path, tokens: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row of numbers for each setting of each index."""
    truth = np.load(tokens / "truth.npy")
    count, cpus = len(truth), sorted(os.sched_getaffinity(0))
    patience = 60 + 10 * options.seconds
    table: list[dict[str, Any]] = []
    rows: list[Row] = []
    with ExitStack() as stack:
        for built in builds:
            try:
                server = Server(built, data, tokens, 1, {cpus[-1]}, patience)
            except Unavailable as error:
                table.append({**name_of(built), "missing": f"cannot open: {error}"})
                continue
            stack.enter_context(server)
            rows += [Row(server, setting) for setting in server.opened["settings"]]
        for row in rows:  # warm up: pages of the index, pools, caches of compiled code
            try:
                row.server.ask(patience, setting=row.setting, queries=[0, 1], k=K)
            except Unavailable as error:
                row.error = str(error)
        while waiting := [row for row in rows if not row.done(count, options.seconds)]:
            for row in waiting:
                try:
                    row.turn(count, patience)
                except Unavailable as error:
                    row.error = str(error)
        memory: dict[int, dict[str, float]] = {}
        for row in rows:
            numbers = {**name_of(row.server.built), "setting": row.setting, **row.numbers(truth)}
            if id(row.server) not in memory:
                try:
                    memory[id(row.server)] = row.server.ask(patience, memory=True)
                except Unavailable:
                    memory[id(row.server)] = {}
            if memory[id(row.server)]:
                numbers.update(memory_of(row.server, memory[id(row.server)]))
            numbers["open_ms"] = round(row.server.opened["open_ms"], 1)
            table.append(numbers)
    batches(builds, table, data, tokens, options, count, cpus, patience)
    by_index = {(b.peer.name, b.variant): b.report for b in builds}
    documents = len(np.load(tokens / "offsets.npy")) - 1
    total = int(np.load(tokens / "offsets.npy")[-1])
    for numbers in table:
        report = by_index[numbers["peer"], numbers["variant"]]
        numbers["build"] = report
        numbers["bytes_token"] = round(report["bytes"] / total, 1)
        numbers["bytes_document"] = round(report["bytes"] / documents)
    return table


def name_of(built: Built) -> dict[str, Any]:
    return {"peer": built.peer.name, "variant": built.variant}


def memory_of(server: Server, held: dict[str, float]) -> dict[str, float]:
    """rss_mib: growth since before opening; touched_mib: pages of the index's files among them,
    the whole index where a peer reads it into memory of its own."""
    touched = held["mapped_mib"] or server.built.report["bytes"] / 2**20
    return {
        "rss_mib": round(held["rss_mib"] - server.opened["before_mib"], 1),
        "touched_mib": round(touched, 1),
    }


def batches(
    builds: list[Built],
    table: list[dict[str, Any]],
    data: Path,
    tokens: Path,
    options: argparse.Namespace,
    count: int,
    cpus: list[int],
    patience: float,
) -> None:
    """Adds batch_qps, and the faster of two openings, to the rows."""
    for built in builds:
        mine = [r for r in table if name_of(built).items() <= r.items() and "p50_ms" in r]
        if not mine:
            continue
        try:
            with Server(built, data, tokens, 2, set(cpus[-2:]), patience) as server:
                for row in mine:
                    row["open_ms"] = min(row["open_ms"], round(server.opened["open_ms"], 1))
                    fit = int(options.seconds / 2 / (row["p50_ms"] / 1e3))
                    numbers = list(range(min(count, max(4, fit))))
                    order = {"setting": row["setting"], "queries": numbers, "k": K, "batch": True}
                    walls = [server.ask(patience, **order)["wall_s"] for _ in range(2)]
                    row["batch_qps"] = round(len(numbers) / min(walls), 2)
        except Unavailable as error:
            for row in mine:
                row.setdefault("batch_missing", str(error))


def contest(data: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one set."""
    tokens = index_data.prepare(data, name)
    facts = json.loads((tokens / "facts.json").read_text())
    ours = source_state()
    builds: list[Built] = []
    missing: dict[str, str] = {}
    for peer, variant in chosen(options):
        mine = peer.name == "ours"
        if mine and variant not in ELSEWHERE.get(name, peer.variants):
            continue
        key = facts["signature"] + (ours if mine else "")
        budget = max(options.budget, 1200 if mine else 60 if peer.name == "exact" else 0)
        if peer.name == "exact" and name == "200k":
            missing["exact fp16"] = "left out: 4 GB of tokens, 2 s a query"
            continue
        try:
            began = time.perf_counter()
            builds.append(build(peer, variant, data, tokens, key, budget, options.nice))
            spent = time.perf_counter() - began
            print(f"{name}: {peer.name} {variant} at hand after {spent:.0f} s", file=sys.stderr)
        except Unavailable as error:
            missing[f"{peer.name} {variant}"] = str(error)
            print(f"{name}: {peer.name} {variant}: {error}", file=sys.stderr)
    rows = [] if options.build_only else measure(builds, data, tokens, options)
    return {"facts": facts, "rows": rows, "missing": missing}


def chosen(options: argparse.Namespace) -> list[tuple[Peer, str]]:
    wanted = options.peers.split(",") if options.peers else [peer.name for peer in PEERS]
    unknown = set(wanted) - {peer.name for peer in PEERS}
    if unknown:
        sys.exit(f"no such peer: {', '.join(sorted(unknown))}; there are {[p.name for p in PEERS]}")
    return [
        (peer, variant)
        for peer in PEERS
        for variant in peer.variants
        if peer.name in wanted and options.only in f"{peer.name} {variant}"
    ]


def growth(sets: dict[str, Any]) -> dict[str, Any]:
    """Exponents e of CPU time ~ tokens^e for each setting measured at two sizes or more."""
    points: dict[str, list[tuple[int, float]]] = {}
    for name in GROWTH:
        for row in sets.get(name, {}).get("rows", []):
            if row.get("cpu_ms"):
                key = f"{row['peer']} {row['variant']}, {row['setting']}"
                points.setdefault(key, []).append((sets[name]["facts"]["tokens"], row["cpu_ms"]))
    fitted = {}
    for key, found in points.items():
        if len(found) > 1:
            x, y = np.log(np.array(found)).T
            fitted[key] = round(float(np.polyfit(x, y, 1)[0]), 2)
    return fitted


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Our quickest row that is at least as good as each peer's (recall@10), and how many times
    quicker, cheaper to build and smaller it is; rows of peers that none of ours reaches."""
    ours = [r for r in rows if r["peer"] == "ours" and "p50_ms" in r]
    against, beyond = {}, []
    for row in rows:
        if row["peer"] in ("ours", "exact") or "p50_ms" not in row:
            continue
        name = f"{row['peer']} {row['variant']}, {row['setting']}"
        good = [r for r in ours if r["recall10"] >= row["recall10"]]
        if not good:
            beyond.append(f"{name}: {row['recall10']}")
            continue
        best = min(good, key=lambda r: r["p50_ms"])
        small = min(good, key=lambda r: r["build"]["bytes"])
        against[name] = {
            "by": f"{best['variant']}, {best['setting']}",
            "p50": ratio(row["p50_ms"], best["p50_ms"]),
            "cpu": ratio(row["cpu_ms"], best["cpu_ms"]),
            "batch": ratio(best.get("batch_qps"), row.get("batch_qps")),
            "build_cpu": ratio(row["build"]["cpu_s"], best["build"]["cpu_s"]),
            "bytes": ratio(row["build"]["bytes"], small["build"]["bytes"]),
        }
    least = {
        what: min((a[what], n) for n, a in against.items() if a[what] is not None)
        for what in ("p50", "cpu", "batch", "build_cpu", "bytes")
        if any(a[what] is not None for a in against.values())
    }
    return {"times_better": against, "least": least, "better_recall_than_ours": beyond}


def ratio(over: float | None, under: float | None) -> float | None:
    return round(over / under, 2) if over and under else None


COLUMNS = (
    ("recall10", "R@10"), ("recall100", "R@100"), ("p50_ms", "p50 ms"), ("p95_ms", "p95 ms"),
    ("cpu_ms", "CPU ms"), ("batch_qps", "batch q/s"), ("open_ms", "open ms"), ("rss_mib", "RSS"),
    ("touched_mib", "touched"), ("bytes_token", "B/token"), ("queries", "queries"),
)  # fmt: skip


def show(name: str, result: dict[str, Any]) -> None:
    """The set's table."""
    print(f"\n{name}: {json.dumps(result['facts'])}")
    heads = [head for _, head in COLUMNS] + ["build s", "CPU s", "peak MiB"]
    print(f"{'':58}" + "".join(f"{head:>10}" for head in heads))
    for row in result["rows"]:
        label = f"{row['peer']} {row['variant']}, {row.get('setting', '-')}"
        if "missing" in row:
            print(f"{label:58}  {row['missing']}")
            continue
        cells = [row.get(key, "-") for key, _ in COLUMNS]
        cells += [row["build"][key] for key in ("wall_s", "cpu_s", "peak_mib")]
        print(f"{label:58}" + "".join(f"{cell:>10}" for cell in cells))
    for peer, reason in result["missing"].items():
        print(f"{peer:58}  {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(index_data.SETS), help="of 10k,50k,pages,200k")
    parser.add_argument("--peers", default="", help="names, separated by commas")
    parser.add_argument("--only", default="", help="indexes whose 'peer variant' contains this")
    parser.add_argument("--seconds", type=float, default=6, help="of queries, for each row")
    parser.add_argument("--budget", type=float, default=0, help="seconds for a missing index")
    parser.add_argument("--build-only", type=float, metavar="BUDGET", help="build, measure nothing")
    parser.add_argument("--nice", type=int, default=0, help="of building")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    if options.build_only:
        options.budget = options.build_only
    names = options.sets.split(",")
    if unknown := set(names) - set(index_data.SETS):
        sys.exit(f"no such set: {', '.join(sorted(unknown))}; there are {index_data.SETS}")
    data = options.data.absolute()
    kept = data / "bench_index" / "results"
    kept.mkdir(parents=True, exist_ok=True)
    state = [source_state(), options.peers, options.only, options.seconds, options.budget]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    sets: dict[str, Any] = {}
    for name in names:
        file = kept / f"{name}-{key}.json"
        if options.resume and file.exists():
            sets[name] = json.loads(file.read_text())
        else:
            began = time.perf_counter()
            sets[name] = contest(data, name, options)
            sets[name]["seconds"] = round(time.perf_counter() - began)
            if not options.build_only:
                file.write_text(json.dumps(sets[name]))
        show(name, sets[name])
        sets[name]["verdict"] = verdict(sets[name]["rows"])
        print("at least so many times better than each peer:", sets[name]["verdict"]["least"])
    if options.build_only:
        return
    line: dict[str, Any] = {"sets": sets, "growth": growth(sets)}
    print("growth of CPU time with tokens, exponents:", line["growth"])
    if not options.no_record:
        line = record("bench_index", **line)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
