"""Texts to token matrices on the CPU: lateint against sentence-transformers 6.2 and PyLate 1.6.

    scripts/peers/env.sh .data torch pylate sbert     # once: the peers' environments
    python scripts/bench_encoding.py .data --record

The physics. MiniLM (six layers, 384 wide) takes 21 Mflop a token in its products and a twenty-fifth of
that in attention at these lengths: 55 Gflop for 32 descriptions of 80 tokens. What can be won is padding (a
batch of mixed lengths multiplies zeros), what leaves the caches between two layers, and cores that
wait for each other; in 8-bit integers a product takes half the time or less.

One checkpoint, written by PyLate (all-MiniLM-L6-v2 with a projection to 128), is read by all three;
the texts are Debian's long package descriptions in a seeded order, at most 180 tokens each. Each
library runs in a process of its own with the same number of threads, through its own call for
documents, and all take turns, in another order in each round, so that whatever else the machine does
falls on all alike. The peers get the best batch size of a few, tried before; the ratio is the median
over rounds of the better peer's time divided by ours. Equal output: the largest difference of any
number in any token of the first texts. int8: nDCG@10 of short descriptions against long ones, by exact
MaxSim, beside that of 32-bit floats.

Sides: ours (torch), onnx and int8 (the same through onnxruntime), sbert, pylate. Prints one JSON line;
--record appends it to scripts/results/bench_encoding.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from host import OWN, Peer, python_of, surroundings  # noqa: E402
from token_data import descriptions, weights  # noqa: E402

SIDES = {
    "ours": Peer("ours", "encode_ours.py", OWN, ("torch",)),
    "onnx": Peer("onnx", "encode_ours.py", OWN, ("onnx",)),
    "int8": Peer("int8", "encode_ours.py", OWN, ("int8",)),
    "sbert": Peer("sbert", "encode_sbert.py", "sbert", ("torch",)),
    "pylate": Peer("pylate", "encode_pylate.py", "pylate", ("torch",)),
}
PEERS = ("sbert", "pylate")
COMPARED = 100  # texts whose tokens are compared
TRIED = 200  # texts with which batch sizes are tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of downloads, weights, environments")
    parser.add_argument("--texts", type=int, default=1500, help="documents a round")
    parser.add_argument("--queries", type=int, default=500, help="for nDCG")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--record", action="store_true", help="append to scripts/results")
    options = parser.parse_args()
    folder = prepare(options.data, max(options.texts, options.queries))
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Process(SIDES[name], options.data, folder, options.threads))
            for name in options.sides
        }
        for side in sides.values():
            side.tune(min(TRIED, options.texts))
        rounds = measure(sides, options.texts, options.rounds)
        line = {
            "texts": options.texts,
            "threads": options.threads,
            **report(sides, rounds),
            "max_abs_difference": differences(sides, folder, min(COMPARED, options.texts)),
            "ndcg@10": quality(sides, folder, options.texts, min(options.queries, options.texts)),
        }
    if options.record:
        from results import record

        line = record("bench_encoding", **line)
    print(json.dumps(line))


def prepare(data: Path, count: int) -> Path:
    """DATA/bench_encoding with the texts and, if it is not there yet, the checkpoint."""
    folder = data / "bench_encoding"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = descriptions(data)[:count]
    texts = {"documents": [long for _, _, long in chosen], "queries": [s for _, s, _ in chosen]}
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    if not (folder / "checkpoint" / "modules.json").exists():
        projection = data / "tokens" / "projection.safetensors"
        if not projection.exists():
            sys.exit(f"{projection} is missing: run scripts/token_data.py {data} first")
        shutil.copy(projection, folder)
        if not (folder / "backbone").exists():
            (folder / "backbone").symlink_to(weights(data).resolve())
        python = python_of(SIDES["pylate"], data)
        command = [python, str(HERE / "peers" / "encode_pylate.py"), str(folder), "make", "1"]
        subprocess.run(command, check=True, env=surroundings(1))
    return folder


class Process:
    """A library with the model loaded, in a process of its own. A context manager."""

    def __init__(self, peer: Peer, data: Path, folder: Path, threads: int) -> None:
        self.peer, self.batch = peer, 0
        script = str(HERE / "peers" / peer.script)
        command = [python_of(peer, data), script, str(folder), peer.variants[0], str(threads)]
        self._log = folder / f"{peer.name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**surroundings(threads), "TOKENIZERS_PARALLELISM": "true"},
            )
        self.facts = self._answer()

    def encode(self, role: str, last: int, **more: Any) -> dict[str, Any]:
        """What it says of encoding the first `last` texts of a role."""
        order = {"role": role, "first": 0, "last": last, "batch": self.batch, **more}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def tune(self, count: int) -> None:
        """Sets the batch size that encodes `count` documents fastest, the better of two tries."""
        times: dict[int, float] = {}
        for _ in range(2):
            for size in self.facts["batches"]:
                self.batch = size
                wall = self.encode("document", count)["wall_s"]
                times[size] = min(wall, times.get(size, wall))
        self.batch = min(times, key=times.__getitem__)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            sys.exit(f"{self.peer.name}: {answer['error']}; see {self._log}")
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def measure(sides: dict[str, Process], count: int, rounds: int) -> list[dict[str, Any]]:
    """For each round what each side took for the documents; sides take turns in another order."""
    order, found = random.Random(7), []
    for number in range(rounds):
        names = list(sides)
        order.shuffle(names)
        found.append({name: sides[name].encode("document", count) for name in names})
        walls = {name: round(found[-1][name]["wall_s"], 2) for name in sides}
        print(f"round {number + 1}: {walls}", file=sys.stderr, flush=True)
    return found


def report(sides: dict[str, Process], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of each side, and how many times the better peer's speed ours have."""
    table = {}
    for name, side in sides.items():
        wall = statistics.median(each[name]["wall_s"] for each in rounds)
        tokens = rounds[0][name]["tokens"]
        table[name] = {
            "tokens_per_s": round(tokens / wall),
            "wall_s": round(wall, 2),
            "cpu_s": round(statistics.median(each[name]["cpu_s"] for each in rounds), 2),
            "batch": side.batch,
            "tokens": tokens,
            "versions": side.facts["versions"],
        }
    peers = [name for name in PEERS if name in sides]
    ratios = {}
    for name in sides.keys() - set(PEERS) if peers else ():
        each = [min(r[p]["wall_s"] for p in peers) / r[name]["wall_s"] for r in rounds]
        ratios[name] = {
            "median": round(statistics.median(each), 3),
            "lowest": round(min(each), 3),
            "highest": round(max(each), 3),
        }
    return {"sides": table, "times_better_peer": ratios}


def differences(sides: dict[str, Process], folder: Path, count: int) -> dict[str, Any]:
    """Largest difference of any number of any token to ours in torch, queries and documents; as many
    tokens in each text, or None."""
    if "ours" not in sides:
        return {}
    found: dict[str, Any] = {}
    for role in ("query", "document"):
        kept = {name: matrices(side, folder, role, count) for name, side in sides.items()}
        values, offsets = kept["ours"]
        for name, (other, ends) in kept.items():
            same = np.array_equal(ends, offsets)
            far = float(np.abs(other - values).max()) if same else None
            if name != "ours":
                found.setdefault(name, {})[role] = far
    return found


def matrices(side: Process, folder: Path, role: str, count: int) -> tuple[Any, Any]:
    """Values (N, D) and offsets of the first texts of a role, by a side."""
    name = f"{side.peer.name}-{role}.npz"
    side.encode(role, count, save=name)
    with np.load(folder / name) as file:
        return file["values"], file["offsets"]


def quality(sides: dict[str, Process], folder: Path, count: int, asked: int) -> dict[str, float]:
    """nDCG@10 of each of ours: of a package's short description its long one is the document."""
    found = {}
    for name in sides.keys() - set(PEERS):
        tokens, ends = matrices(sides[name], folder, "query", asked)
        values, offsets = matrices(sides[name], folder, "document", count)
        gains = []
        for i in range(asked):
            best = np.maximum.reduceat(values @ tokens[ends[i] : ends[i + 1]].T, offsets[:-1])
            scores = best.sum(1)
            rank = int((scores > scores[i]).sum())
            gains.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
        found[name] = round(float(np.mean(gains)), 4)
    return found


if __name__ == "__main__":
    main()
