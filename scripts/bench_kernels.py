"""The index's kernels against what this core can do at all: ceilings first, then the kernels.

    python scripts/bench_kernels.py [--record]

The physics. Scoring T query tokens against N document tokens of D dimensions is 2 T N D integer
operations on N D bits / 8 bytes (64 a token at 4 bits and 128 dimensions: for 16 query tokens 64
operations a byte, so arithmetic bounds it and not memory). The ceilings, measured on one thread:

    int8     a large int8 matrix product through torch (the fastest of its ways here)
    float32  a large float32 matrix product through torch
    memory   bytes a second of a sum over an array that no cache holds

The kernels, on one thread: `score` (residuals decoded and multiplied, in operations a second,
as a share of the int8 ceiling), in small calls of 40 documents that stay in the second-level
cache (some 40 microseconds of each go into the call itself) and in one call over tokens that come
from memory; `scan` in tokens a second; `product` (query times centroids, 16-bit where the
processor has that), as a share of float32. Every number is the median of interleaved rounds. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from lateint.index import kernels
from lateint.index.codec import LEVELS, level_sets
from lateint.index.kernels import Query

DIM = 128
LENGTH = 80  # tokens a document
CENTROIDS = 8192
ROUNDS = 9
CACHED, STREAMED = 3_200, 2_000_000  # tokens: 200 KiB at 4 bits, and 128 MB

Timed = tuple[str, float, Callable[[], Any]]  # name, work, what does it


def ceilings() -> list[Timed]:
    size = 1024
    rng = np.random.default_rng(0)
    a8 = torch.from_numpy(rng.integers(-100, 100, (size, size), dtype=np.int8))
    b8 = torch.from_numpy(rng.integers(-100, 100, (size, size), dtype=np.int8))
    a32, b32 = a8.float(), b8.float()
    operations = 2.0 * size**3
    found: list[Timed] = [("float32", operations, lambda: a32 @ b32)]
    found.append(("int8 torch._int_mm", operations, lambda: torch._int_mm(a8, b8)))
    for engine in torch.backends.quantized.supported_engines:
        if engine in ("fbgemm", "x86", "onednn", "qnnpack"):
            run = _quantised(engine, a32, b32)
            if run is not None:
                found.append((f"int8 {engine}", operations, run))
    memory = np.ones(32 << 20, np.int64)  # 256 MiB
    found.append(("memory", float(memory.nbytes), lambda: int(memory.sum())))
    return found


def _quantised(engine: str, a: torch.Tensor, b: torch.Tensor) -> Callable[[], Any] | None:
    """torch's quantised linear layer on one of its engines; None where it does not run."""
    try:
        torch.backends.quantized.engine = engine
        weight = torch.quantize_per_tensor(b.T.contiguous(), 1.0, 0, torch.qint8)
        given = torch.quantize_per_tensor(a, 1.0, 128, torch.quint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)

        def run() -> Any:
            torch.backends.quantized.engine = engine
            return torch.ops.quantized.linear(given, packed, 1000.0, 128)

        run()
    except RuntimeError:
        return None
    return run


def scored(nbits: int, tokens: int, count: int, name: str) -> Timed:
    """Scoring `count` document tokens with a query of `tokens`."""
    rng = np.random.default_rng(1)
    packed = rng.integers(0, 256, (count, DIM * nbits // 8), dtype=np.uint8)
    codes = rng.integers(0, CENTROIDS, count, dtype=np.uint16)
    factor = rng.random(count, dtype=np.float32)
    offsets = np.arange(0, count + 1, LENGTH)
    query = asked(tokens)
    levels = level_sets(LEVELS[nbits][0])

    def run() -> Any:
        return kernels.score(query, codes, packed, offsets, None, levels, factor, threads=1)

    return (name, 2.0 * tokens * count * DIM, run)


def asked(tokens: int) -> Query:
    rng = np.random.default_rng(2)
    query = rng.standard_normal((tokens, DIM)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    return kernels.prepare(query, *centroids(), np.full(DIM, 0.001, np.float32))


def centroids() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    whole = np.random.default_rng(5).integers(-127, 128, (CENTROIDS, DIM), dtype=np.int8)
    return whole, np.full(CENTROIDS, 0.001, np.float32)


def scanned(tokens: int, count: int, name: str) -> Timed:
    codes = np.random.default_rng(3).integers(0, CENTROIDS, count, dtype=np.uint16)
    offsets = np.arange(0, count + 1, LENGTH)
    table = kernels.table(asked(tokens)).bytes
    return (name, float(count), lambda: kernels.scan(table, codes, offsets, threads=1))


def product(tokens: int, name: str) -> Timed:
    rng = np.random.default_rng(4)
    query = rng.standard_normal((tokens, DIM)).astype(np.float32)
    given, scale = centroids(), np.ones(DIM, np.float32)
    return (
        name,
        2.0 * tokens * CENTROIDS * DIM,
        lambda: kernels.prepare(query, *given, scale),
    )


def measure(timed: list[Timed], rounds: int = ROUNDS) -> dict[str, float]:
    """Work a second of each, the median over rounds in which all take turns."""
    for _, _, run in timed:
        run()
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in timed}
    for _ in range(rounds):
        for name, _, run in timed:
            repeats, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < 0.02:
                run()
                repeats += 1
            seconds[name].append(spent / repeats)
    return {name: work / median(seconds[name]) for name, work, _ in timed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="append to scripts/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    limits = ceilings()
    timed = list(limits)
    for nbits in (4, 2, 1):
        for tokens in (8, 16, 32):
            for where, count in (("small calls", CACHED), ("from memory", STREAMED)):
                name = f"score {nbits} bits, {tokens} query tokens, {where}"
                timed.append(scored(nbits, tokens, count, name))
    timed += [scanned(t, STREAMED, f"scan, {t} query tokens") for t in (8, 16, 32)]
    timed += [product(t, f"product, {t} query tokens") for t in (16, 32)]
    rates = measure(timed)
    int8 = max(rate for name, rate in rates.items() if name.startswith("int8"))
    print(f"instruction set of the kernels: {kernels.native()}")
    for name, rate in rates.items():
        unit = "B/s" if name == "memory" else "tokens/s" if name.startswith("scan") else "op/s"
        share = f"  {rate / int8:6.1%} of int8" if name.startswith("score") else ""
        if name.startswith("product"):
            share = f"  {rate / rates['float32']:6.1%} of float32"
        print(f"{name:42} {rate / 1e9:8.1f} G{unit}{share}")
    line: dict[str, Any] = {
        "isa": kernels.native(),
        "int8_ceiling_gops": round(int8 / 1e9, 1),
        "giga_per_second": {name: round(rate / 1e9, 3) for name, rate in rates.items()},
        "share_of_int8": {
            name: round(rate / int8, 3) for name, rate in rates.items() if name.startswith("score")
        },
    }
    if options.record:
        from results import record

        line = record("bench_kernels", **line)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
