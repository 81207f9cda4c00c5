"""Batches through a function on all cores: one batch a core, instead of all cores on one batch.

A forward pass has many small steps between its large products, and each of them ends with all threads
waiting for the slowest; batches side by side never wait for each other. Knows threads and torch's
settings of them, not what is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")

AHEAD = 2  # batches prepared for each thread: more only take memory


def side_by_side(
    work: Callable[[Given], Made], batches: Iterable[Given], streams: int
) -> Iterator[Made]:
    """`work(batch)` of each batch, in order, without gradients.

    batches: drawn in the calling thread (tokenizers are not safe in several), a few ahead of the work.
    streams: threads that work, each with one thread of torch's; 1: the calling thread, with all of
    torch's. Floating point results do not depend on it beyond the last bits.
    """

    def alone(batch: Given) -> Made:
        with torch.inference_mode():  # a setting of the thread
            return work(batch)

    if streams <= 1:
        yield from map(alone, batches)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(streams, "lateint", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for batch in batches:
            waiting.append(pool.submit(alone, batch))
            if len(waiting) >= streams * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # the pool's setting is also that of threads yet to come
