from __future__ import annotations

import torch
from torch import nn

from modalities.packed import GROUP, SCALE, pack, unpack


def test_what_is_unpacked_is_near_what_was_packed() -> None:
    torch.manual_seed(0)
    state = {
        "matrix": torch.randn(64, 80) * torch.logspace(-4, 2, 64)[:, None],
        "kernel": torch.randn(32, 16, 9),
        "bias": torch.randn(64),
        "count": torch.tensor([3, 4]),
        "zeros": torch.zeros(64, 64),
    }
    stored = pack(state)
    assert stored["matrix"].dtype == stored["kernel"].dtype == torch.int8
    assert stored["bias"].dtype == torch.float16 and stored["count"].dtype == torch.int64
    again = unpack(stored)
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        rows = tensor.flatten(1) if tensor.dim() > 1 else tensor[None]
        allowed = rows.abs().amax(1) * (0.5 / 127 + 1e-3) + 1e-7
        off = (again[name].view_as(rows) - rows).abs().amax(1)
        assert (off <= allowed).all(), name
        assert again[name].dtype == (tensor.dtype if name == "count" else torch.float32)


def test_a_packed_module_loads() -> None:
    torch.manual_seed(0)
    net = nn.Linear(128, 64)
    stored = pack(net.state_dict())
    assert set(stored) == {"weight", "weight" + SCALE, "bias"}
    again = nn.Linear(128, 64)
    again.load_state_dict(unpack(stored))
    x = torch.randn(5, 128)
    torch.testing.assert_close(again(x), net(x), atol=2e-2, rtol=0)


def test_matrices_in_half_bytes() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(50, 96) * torch.logspace(-3, 1, 50)[:, None]
    stored = pack({"m": matrix, "n": matrix}, half_bytes=["m"])
    assert stored["m"].shape == (50, 48) and stored["m"].dtype == torch.uint8
    assert stored["m" + SCALE].shape == (50, 96 // GROUP)
    again = unpack(stored)
    groups = matrix.unflatten(1, (-1, GROUP))
    off = (again["m"] - matrix).unflatten(1, (-1, GROUP)).abs().amax(2)
    assert (off <= groups.abs().amax(2) * (0.5 / 7 + 1e-3)).all()
    assert (again["n"] - matrix).abs().max() < (again["m"] - matrix).abs().max()
