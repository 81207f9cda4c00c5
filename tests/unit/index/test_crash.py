"""A writer is killed at random instants: the index is always in a state that a commit left.

A server process imports the package once and forks a writer per kill, so that a kill costs a fork,
some commits and a look at what is left. The writer goes through steps of which each result is known
beforehand, and says so before and after each; it starts from a copy of an index that has gone
through some of them, so that kills fall on all of them alike however fast the machine is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from index_helpers import matrix, python
from index_steps import CYCLE, WIDTH, expected, take

from lateint.index import Index, IndexMissing

KINDS = {"fp16": 16, "compressed": 4}  # nbits
BASES = range(-1, 2 * len(CYCLE))  # steps that were done before the writer starts; -1: none at all


class Killer:
    """Forks writers and kills them."""

    def __init__(self, server: subprocess.Popen[str], bases: Path, nbits: int) -> None:
        self.server = server
        self.bases = bases
        self.nbits = nbits
        self.seconds = {-1: 0.0}  # how long each step takes
        index: Index | None = None
        for step in BASES[1:]:
            start = time.perf_counter()
            index = take(index, bases / "now", step, nbits)
            self.seconds[step] = time.perf_counter() - start
            index.close()
            shutil.copytree(bases / "now", bases / str(step))
            index = Index.open(bases / "now", write=True)
        assert index is not None
        index.close()

    def kill(self, path: Path, base: int, step: int, share: float) -> tuple[int, int]:
        """A writer goes on from a copy of the index after step `base`, and is killed when `share` of
        the usual time of `step` has gone by; returns (last step done, last step begun)."""
        if base >= 0:
            shutil.copytree(self.bases / str(base), path)
        fifo = f"{path}.fifo"
        os.mkfifo(fifo)
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([str(path), fifo, base, self.nbits]) + "\n")
        self.server.stdin.flush()
        with open(fifo, encoding="ascii") as said:  # noqa: PTH123 a pipe
            writer = int(self.server.stdout.readline())
            lines = [""]
            while lines[-1] != f"begin {step}\n":
                lines.append(said.readline())
                assert lines[-1], "the writer failed"
            time.sleep(share * self.seconds.get(step, 0.01))
            os.kill(writer, signal.SIGKILL)
            lines += said.readlines()
        assert self.server.stdout.readline() == "gone\n"
        words = [line.split() for line in lines if line.endswith("\n")]
        begun = max(int(n) for word, n in words if word == "begin")
        return max([base, *(int(n) for word, n in words if word == "done")]), begun


@contextmanager
def killer(bases: Path, nbits: int) -> Iterator[Killer]:
    bases.mkdir()
    with python("import index_steps; index_steps.serve()") as server:
        yield Killer(server, bases, nbits)
        assert server.stdin
        server.stdin.close()
        assert server.wait(10) == 0


def look(path: Path, done: int, begun: int, nbits: int) -> int:
    """Opens what a killed writer left, and compares it with the states it may be in; returns the
    last step of that state."""
    try:
        index = Index.open(path, write=True)
    except IndexMissing:
        assert done == -1  # killed inside the creation, which had not returned
        Index.create(path, WIDTH).close()
        return -1
    with index:
        ids = index.ids()
        found = {i: m["step"] for i, m in zip(ids, index.metadata(ids), strict=True)}
        states = {step: expected(step) for step in range(max(done, 0), begun + 1)}
        fits = [
            step
            for step, state in states.items()
            if found == {name: held.step for name, held in state.items()}
        ]
        assert fits, f"after steps {done} to {begun}"
        state = states[fits[0]]
        texts = {name: held.text for name, held in state.items()}
        assert dict(zip(ids, index.texts(ids), strict=True)) == texts
        for name, tokens in zip(ids, index.reconstruct(ids), strict=True):
            if nbits == 16:
                np.testing.assert_array_equal(tokens, state[name].tokens)
            else:
                assert tokens.shape == state[name].tokens.shape
                assert (tokens * state[name].tokens).sum(axis=1).min() > 0.5
        index.verify()
        index.add(["after"], [matrix(np.random.default_rng(0), 2, WIDTH)], texts=["and it goes on"])
        assert [hit.id for hit in index.search_hybrid(None, ["goes"], fusion="bm25")[0]] == [
            "after"
        ]
        index.verify()
        return fits[0]


def check_kills(tmp_path: Path, nbits: int, times: int) -> None:
    chance = random.Random(7)
    with killer(tmp_path / "bases", nbits) as killing:
        ends = []
        for i in range(times):
            base = BASES[i % len(BASES)]
            step = base + chance.choice([1, 1, 2])
            done, begun = killing.kill(tmp_path / str(i), base, step, chance.uniform(0, 1.3))
            ends.append((done, begun, look(tmp_path / str(i), done, begun, nbits)))
            shutil.rmtree(tmp_path / str(i))
    inside = [state == begun for done, begun, state in ends if done < begun]
    assert len(inside) > times // 2  # killed in a step, not between two
    if times >= 200:  # and on either side of its commit
        assert min(sum(inside), len(inside) - sum(inside)) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_killed_writers(tmp_path: Path, kind: str) -> None:
    check_kills(tmp_path, KINDS[kind], len(BASES))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_writers_killed_200_times(tmp_path: Path, kind: str) -> None:
    check_kills(tmp_path, KINDS[kind], 200)
