"""Stage "pack": the reader's and the context's checkpoints to the package's weights, in fp16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modalities.page import PageReader, PageText

WEIGHTS = Path(__file__).parent.parent / "modalities" / "weights" / "page.safetensors"


def sides(text: PageText, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """A context's checkpoint, with meanings that count for nothing where it knows none yet."""
    start = {k: v for k, v in text.state_dict().items() if "sense." in k}
    return start | stored


def pack(reader: Path, context: Path | None, target: Path = WEIGHTS) -> None:
    """Writes reader.*, layout.* and query.* into one file. Without a context, an untrained one:
    words then match as they are spelt, all with the same weight."""
    torch.manual_seed(0)
    text = PageText()
    text.query.word.weight.data.copy_(text.layout.word.weight.data)
    torch.nn.init.zeros_(text.query.weight.weight)
    stored = {f"reader.{k}": v for k, v in load_file(str(reader)).items()}
    trained = text.state_dict() if context is None else sides(text, load_file(str(context)))
    stored |= {k: v for k, v in trained.items() if k.startswith(("layout.", "query."))}
    expected = PageReader().state_dict().keys() | text.state_dict().keys()
    if stored.keys() != expected:
        raise ValueError(f"weights that do not fit: {sorted(stored.keys() ^ expected)}")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in stored.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in halves.items()}, str(target))
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")
