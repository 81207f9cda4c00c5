"""Our own folders, as a row of LAYOUTS: `LateInteractionModel.save` and `.load`."""

from __future__ import annotations

from pathlib import Path

import torch

from lateint.checkpoints.layouts import LoadOptions
from lateint.model import LateInteractionModel


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """In the dtype it was saved in, unless options.dtype says another than the default."""
    model = LateInteractionModel.load(folder)
    if options.dtype != LoadOptions.dtype:
        model.to(getattr(torch, options.dtype))
    return model


def save(model: LateInteractionModel, folder: Path) -> None:
    model.save(folder)
