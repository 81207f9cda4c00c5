"""Batches side by side: in order, without gradients, and torch's threads as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from lateint.model import LateInteractionModel
from lateint.streams import AHEAD, side_by_side
from modalities.text import TransformerText
from modalities.text_config import TextConfig


@pytest.mark.parametrize("streams", [1, 3])
def test_order_gradients_and_threads(streams: int) -> None:
    drawn: list[int] = []
    caller, workers = threading.get_ident(), set()
    before = torch.get_num_threads()

    def batches() -> Iterator[int]:
        for i in range(20):
            assert threading.get_ident() == caller
            drawn.append(i)
            yield i

    def work(batch: int) -> tuple[int, int, bool]:
        workers.add(threading.get_ident())
        return batch, torch.get_num_threads(), torch.is_inference_mode_enabled()

    made = []
    for each in side_by_side(work, batches(), streams):
        made.append(each)
        assert len(drawn) - len(made) < streams * AHEAD
        assert not torch.is_inference_mode_enabled()
    assert [i for i, _, _ in made] == list(range(20)) and all(inside for *_, inside in made)
    assert {threads for _, threads, _ in made} == {before if streams == 1 else 1}
    assert (workers == {caller}) == (streams == 1)
    assert torch.get_num_threads() == before


def test_an_error_arrives_and_leaves_nothing_behind() -> None:
    def work(batch: int) -> int:
        if batch == 3:
            raise ValueError("batch 3")
        return batch

    before, running = torch.get_num_threads(), threading.active_count()
    with pytest.raises(ValueError, match="batch 3"):
        list(side_by_side(work, range(10), 2))
    assert (torch.get_num_threads(), threading.active_count()) == (before, running)


def test_a_model_gives_the_same_with_any_number_of_threads() -> None:
    from tiny_text import bert

    torch.manual_seed(1)
    text = TransformerText(*bert(), TextConfig(dim=8, document_length=32)).eval()
    text.cpu_tokens = 40
    model = LateInteractionModel({"text": text}).eval()
    texts = ["the loss goes up " * (i % 7) for i in range(40)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(model.encode_documents(texts))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].offsets, found[1].offsets)
    torch.testing.assert_close(found[0].values, found[1].values, atol=1e-6, rtol=0)
    assert not found[1].values.is_inference()
