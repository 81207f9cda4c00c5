"""Two real processes (gloo) against one process that has the joint batch."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from torch import Tensor
from two_processes import NEGATIVES, Case, Encoder, cases, given, keys, work

from lateint.distributed import gather, joint, spans_processes
from lateint.losses import Targets, duplicates
from lateint.ragged import Ragged


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of the two processes has found."""
    folder = tmp_path_factory.mktemp("processes")
    # the server imports torch once for both
    multiprocessing.get_context("forkserver").set_forkserver_preload(["two_processes"])
    start = torch.multiprocessing.start_processes
    start(work, (str(folder),), nprocs=2, start_method="forkserver")
    return [load_file(str(folder / f"{rank}.safetensors")) for rank in range(2)]


def together(case: Case) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one process with the joint batch, columns in the order of processes."""
    encoder = Encoder()
    sides = [given(case, process) for process in range(2)]
    queries = [item for side in sides for item in side[0]]
    documents = [item for side in sides for item in side[1]]
    candidates, teacher, first = [], [], 0
    for _, found, targets in sides:
        assert targets.candidates is not None and targets.teacher is not None
        candidates.append(targets.candidates + first)
        teacher.append(targets.teacher)
        first += len(found)
    ids = torch.cat(candidates)
    targets = Targets(ids[:, 0], ids, torch.cat(teacher))
    if case.repeated:
        excluded = duplicates(torch.arange(len(queries)), keys(documents), ids[:, 0])
        assert excluded.sum() == 2
        targets = Targets(ids[:, 0], ids, torch.cat(teacher), excluded)
    asked, found = encoder(queries, None), encoder(documents, None)
    loss = torch.stack([goal(asked, found, targets) for goal in case.goals]).sum()
    loss.backward()
    assert encoder.layer.weight.grad is not None
    return loss.detach(), encoder.layer.weight.grad


@pytest.mark.parametrize("name", list(cases()))
def test_two_processes_are_one_with_the_joint_batch(
    name: str, results: list[dict[str, Tensor]]
) -> None:
    loss, gradient = together(cases()[name])
    mean = (results[0][f"{name}/loss"] + results[1][f"{name}/loss"]) / 2
    torch.testing.assert_close(mean, loss, rtol=1e-9, atol=1e-9)
    for result in results:  # DistributedDataParallel leaves the mean in both
        torch.testing.assert_close(result[f"{name}/gradient"], gradient, rtol=1e-9, atol=1e-9)


def test_without_the_gather_they_are_not(results: list[dict[str, Tensor]]) -> None:
    """The cases must be such that other processes' documents matter."""
    case = cases()["infonce"]
    alone = []
    for process in range(2):
        queries, documents, targets = given(case, process)
        encoder = Encoder()
        sides = encoder(queries, None), encoder(documents, None)
        alone.append(torch.stack([goal(*sides, targets) for goal in case.goals]).sum())
    apart = torch.stack(alone).mean() - together(case)[0]
    assert abs(float(apart.detach())) > 0.1


def test_items_without_rows_are_gathered_too(results: list[dict[str, Tensor]]) -> None:
    for result in results:
        assert result["gather/offsets"].tolist() == [0, 0, 0, 0, 2]
        assert result["gather/values"].tolist() == [[1.0] * 3] * 2
    assert "gather/gradient" not in results[0] or not results[0]["gather/gradient"].numel()
    assert results[1]["gather/gradient"].tolist() == [[3.0] * 3] * 2  # 1 of process 0, 2 of 1


def test_one_process_gets_everything_back_as_it_came() -> None:
    rows = Ragged(torch.ones(3, 2), torch.tensor([0, 1, 3]))
    targets = Targets.by_column(1, NEGATIVES)
    step = joint({"multi": rows}, {"multi": rows}, targets)
    assert not spans_processes()
    assert gather(rows) is rows and step.documents["multi"] is rows
    assert step.targets is targets and step.weight == 1.0
