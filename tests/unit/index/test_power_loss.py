"""The power goes at any moment: what had been acknowledged is there, and verifies.

The test has teeth: with one kind of sync taken out of the recording it finds damage.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import index_power
import pytest
from index_power import Disk, Event, build, record
from index_steps import expected

from lateint.index import Index, IndexMissing, LateintIndexError

WRITER = """
import os, sys
from pathlib import Path
from index_steps import take
path, steps, nbits = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
index = None
for step in range(steps):
    index = take(index, path, step, nbits)
    os.write(1, f"done {step}".encode())
index.close()
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """Creation, add, upsert, delete, compact, extend, train, and once more add."""
    if why := index_power.usable():
        pytest.skip(why)
    return record(WRITER, tmp_path_factory.mktemp("power") / "i", "8", "4")


def replay(
    events: list[Event], scratch: Path, every: int, enough: int = 100
) -> tuple[int, list[str]]:
    """Cuts the power after every so many events; returns how many images of the disk were looked at,
    and what was wrong with those that were not as they should be (at most `enough`)."""
    chance, disk, done = random.Random(3), Disk(), -1
    seen: set[int] = set()
    problems = []
    for count, event in enumerate(events):
        disk.apply(event)
        if event.kind == "said":
            done = int(event.data.split()[1])
        if count % every:
            continue
        for image in disk.images(chance):
            key = hash((done, *sorted(image.items())))
            if key in seen:
                continue
            seen.add(key)
            build(image, scratch)
            if problem := look(scratch, done):
                problems.append(f"after event {count} ({event.kind} {event.path}): {problem}")
                if len(problems) == enough:
                    return len(seen), problems
    shutil.rmtree(scratch, ignore_errors=True)
    return len(seen), problems


def look(path: Path, done: int) -> str:
    """What is wrong with an index of which steps up to `done` were acknowledged; "": nothing."""
    try:
        with Index.open(path) as index:
            index.verify()
            ids = index.ids()
            found = {i: m["step"] for i, m in zip(ids, index.metadata(ids), strict=True)}
    except IndexMissing:
        return "" if done < 0 else "the index is gone"
    except LateintIndexError as error:
        return f"{error}"
    for step in range(max(done, 0), done + 2):
        if found == {name: held.step for name, held in expected(step).items()}:
            return ""
    return f"neither what step {done} left nor what the next one makes"


def test_power_loss(events: list[Event], tmp_path: Path) -> None:
    images, problems = replay(events, tmp_path / "i", every=10)
    assert not problems, problems[:5]
    assert images > 60


@pytest.mark.slow
def test_power_loss_after_every_event(events: list[Event], tmp_path: Path) -> None:
    images, problems = replay(events, tmp_path / "i", every=1)
    assert not problems, problems[:5]
    assert images > 600


@pytest.mark.parametrize("name", ["segments/1.safetensors", "segments", "index.sqlite-wal"])
def test_a_missing_sync_is_found(events: list[Event], tmp_path: Path, name: str) -> None:
    def skipped(event: Event) -> bool:
        alike = event.path == name or (
            name.endswith("1.safetensors") and event.path.startswith("segments/")
        )
        return event.kind == "sync" and alike

    mutant = [event for event in events if not skipped(event)]
    assert len(mutant) < len(events)
    _, problems = replay(mutant, tmp_path / "i", every=9, enough=1)
    assert problems
