"""A writer is killed at random instants: the index is always in a state that a commit left."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from index_helpers import python

from lateint.index import Index, IndexMissing

# Creates an index and goes through steps whose results are known; says so before and after each.
WRITER = """
import sys
import numpy as np
from lateint.index import Index
path = sys.argv[1]
print("begin 0", flush=True)
index = Index.create(path, 4)
print("done 0", flush=True)
step = 0
while True:
    step += 1
    print("begin", step, flush=True)
    kind = step % 4
    if kind == 1:
        new = [f"{step}-{i}" for i in range(20)]
        index.add(new, np.full((20, 3, 4), step % 100), metadata=[{"step": step}] * 20)
    elif kind == 2:
        old = [f"{step - 1}-{i}" for i in range(5, 10)]
        index.upsert(old, np.full((5, 2, 4), step % 100), metadata=[{"step": step}] * 5)
    elif kind == 3:
        index.delete([f"{step-2}-{i}" for i in range(5)])
    else:
        index.compact()
    print("done", step, flush=True)
"""


def expected(step: int) -> dict[str, tuple[int, int]]:
    """id -> (step that wrote it, tokens) when steps up to `step` are done."""
    state: dict[str, tuple[int, int]] = {}
    for s in range(1, step + 1):
        if s % 4 == 1:
            state |= {f"{s}-{i}": (s, 3) for i in range(20)}
        elif s % 4 == 2:
            state |= {f"{s - 1}-{i}": (s, 2) for i in range(5, 10)}
        elif s % 4 == 3:
            for i in range(5):
                del state[f"{s - 2}-{i}"]
    return state


def kill_and_look(path: Path, delay: float) -> int:
    """Kills a writer `delay` seconds after it began; returns the step it had reached."""
    with python(WRITER, path) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "begin 0\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split("\n")
    lines = [line.split() for line in said if line.startswith(("begin ", "done "))]
    begun = max([0, *(int(n) for word, n in lines if word == "begin")])
    done = max([-1, *(int(n) for word, n in lines if word == "done")])
    try:
        index = Index.open(path, write=True)
    except IndexMissing:
        assert done == -1  # killed inside the creation, which had not returned
        Index.create(path, 4).close()
        return 0
    with index:
        found = {
            i: m["step"] for i, m in zip(index.ids(), index.metadata(index.ids()), strict=True)
        }
        states = [expected(step) for step in range(max(done, 0), begun + 1)]
        assert found in [{name: step for name, (step, _) in state.items()} for state in states]
        state = states[[{n: s for n, (s, _) in state.items()} for state in states].index(found)]
        for name, matrix in zip(index.ids(), index.reconstruct(index.ids()), strict=True):
            step, tokens = state[name]
            np.testing.assert_array_equal(matrix, np.full((tokens, 4), step % 100))
        index.verify()
        index.add(["after"], np.ones((1, 1, 4)))  # and it goes on
        index.verify()
    return done


def check_kills(tmp_path: Path, times: int) -> None:
    chance = random.Random(7)
    # The first millisecond or so is the creation; the rest spreads over some hundred commits.
    delays = [chance.uniform(0, 0.2 if i % 3 == 0 else 0.4) for i in range(times)]
    reached = [kill_and_look(tmp_path / str(i), delay) for i, delay in enumerate(delays)]
    assert max(reached) > 8 and min(reached) < 8  # kills fell early and late


def test_killed_writers(tmp_path: Path) -> None:
    check_kills(tmp_path, 12)


@pytest.mark.slow
def test_writers_killed_200_times(tmp_path: Path) -> None:
    check_kills(tmp_path, 200)
