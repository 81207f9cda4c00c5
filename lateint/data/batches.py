"""Which examples make a step: several data sets, several processes, no duplicates.

Every process computes the same plan out of (seed, epoch) and takes its own part of each step, so
nothing has to be sent, a run goes on where it stopped, and two processes train on the very examples
that one with twice the batch would.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np

from lateint.data.columns import Example
from lateint.data.sets import TrainingSet

Mix = Literal["proportional", "round_robin", "mixed"]
LOOKAHEAD = 1000  # examples that wait for a batch without their duplicate


class JoinedSets:
    """Several training sets end to end: number i is of the first, then of the second ..."""

    def __init__(self, sets: Sequence[TrainingSet]) -> None:
        if not sets:
            raise ValueError("no training set")
        self.sets = tuple(sets)
        self.lengths = [len(part) for part in sets]
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Example:
        which = int(np.searchsorted(self._ends, i, side="right"))
        return self.sets[which][i - int(self._ends[which]) + self.lengths[which]]


class Batches:
    """Numbers of the examples of each step, for one process: a batch sampler.

    Args:
        data: the sets.
        size: examples a process has in a step.
        mix: "proportional": a step has examples of one set, and each set as many steps as it has
            batches (an epoch sees everything once); "round_robin": the sets take turns, until the
            first has no more batch; "mixed": a step has examples of all sets, as they come.
        no_duplicates: a step has no query and no document twice, as far as the next LOOKAHEAD
            examples allow (pairs that must repeat are left to the loss's exclusions).
        shuffle: False: in order.
        drop_last: leave out a set's last step if it is smaller.
        processes, rank: of this run. seed: with the epoch, what everything depends on.
    """

    def __init__(
        self,
        data: JoinedSets,
        size: int,
        *,
        mix: Mix = "proportional",
        no_duplicates: bool = False,
        shuffle: bool = True,
        drop_last: bool = False,
        processes: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        if mix not in get_args(Mix):
            raise ValueError(f"mix must be one of {get_args(Mix)}, got {mix!r}")
        if size < 1:
            raise ValueError(f"a batch has at least one example, got {size}")
        self.data = data
        self.size = size * processes
        self.mix = mix
        self.no_duplicates = no_duplicates
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.processes, self.rank = processes, rank
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Each epoch has its own order."""
        self.epoch = epoch

    def __len__(self) -> int:
        counts = [self._steps(length) for length in self._lengths()]
        return min(counts) * len(counts) if self.mix == "round_robin" else sum(counts)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps():
            yield step[self.rank :: self.processes]

    def steps(self) -> Iterator[list[int]]:
        """The joint steps of all processes."""
        generator = random.Random(f"{self.seed} {self.epoch}")
        lengths = self._lengths()
        starts = np.cumsum([0, *lengths]).tolist()
        order = np.random.default_rng(generator.getrandbits(64))
        sources = []
        for start, length in zip(starts, lengths, strict=False):
            numbers = order.permutation(length) if self.shuffle else np.arange(length)
            sources.append(self._chunks(deque((numbers + start).tolist()), self._steps(length)))
        counts = [self._steps(length) for length in lengths]
        if self.mix == "round_robin":
            turns = list(range(len(counts))) * min(counts)
        else:
            turns = [which for which, count in enumerate(counts) for _ in range(count)]
            if self.shuffle:
                generator.shuffle(turns)
        for which in turns:
            yield next(sources[which])

    def _lengths(self) -> list[int]:
        return [len(self.data)] if self.mix == "mixed" else self.data.lengths

    def _steps(self, length: int) -> int:
        """Steps of a set. A last one that cannot give each process an example is left out."""
        whole, rest = divmod(length, self.size)
        return whole + int(rest >= self.processes and not self.drop_last)

    def _chunks(self, waiting: deque[int], steps: int) -> Iterator[list[int]]:
        for _ in range(steps):
            if not self.no_duplicates:
                yield [waiting.popleft() for _ in range(min(self.size, len(waiting)))]
            else:
                yield self._without_duplicates(waiting)

    def _without_duplicates(self, waiting: deque[int]) -> list[int]:
        size = min(self.size, len(waiting))
        batch: list[int] = []
        seen: set[int] = set()
        passed: list[int] = []
        while len(batch) < size and waiting and len(passed) < LOOKAHEAD:
            number = waiting.popleft()
            keys = _keys(self.data[number])
            if keys & seen:
                passed.append(number)
            else:
                seen |= keys
                batch.append(number)
        waiting.extendleft(reversed(passed))  # they come first in the next step
        return batch + [waiting.popleft() for _ in range(size - len(batch))]


def batch_loader(
    batches: Batches, collate: Callable[[list[Example]], Any], *, workers: int = 0, **options: Any
) -> Any:
    """A torch DataLoader of these steps; options as it has them."""
    from torch.utils.data import DataLoader

    data: Any = batches.data
    sampler: Any = batches
    return DataLoader(
        data, batch_sampler=sampler, collate_fn=collate, num_workers=workers, **options
    )


def _keys(example: Example) -> set[int]:
    return {example.query.key, *(document.key for document in example.documents)}
