"""Checkpoints of other libraries as `LateInteractionModel`s, and back.

    folder or hub name -> layout (found by its files) -> loader -> LateInteractionModel
    LateInteractionModel -> writer -> folder that the other library opens

Which layouts there are stands in `layouts.LAYOUTS`, one row each. A weight that is missing or that
nothing takes is an error, never a random projection. Nothing that a folder holds is run: weights
come from safetensors, or from `.bin` and `.pt` files through torch's weights-only reader; code that
comes with a model runs only with `remote_code=True`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.checkpoints.layouts import LAYOUTS, Layout, LoadOptions, SmallFiles
from lateint.config import ConfigError, check_keys, nearest

if TYPE_CHECKING:
    from lateint.model import LateInteractionModel

__all__ = ["LAYOUTS", "LoadOptions", "load", "save", "sniff"]


def load(
    path: Path | str | None = None, *, layout: str | None = None, **options: Any
) -> LateInteractionModel:
    """A model from a folder, a name on the hub, or None: the model that ships.

    The shipped model reads pages ("page": rendered pages, scans) and puts text ("text") into the
    same space, width 128; its query rows carry learned weights as their lengths. It comes with
    the package and needs no network.

    Args:
        path: a folder that `LateInteractionModel.save` or another library wrote (`LAYOUTS` has
            the list), else "owner/name" on the hub, which is fetched into the hub's cache.
        layout: a row of LAYOUTS by name; None: the first that fits the folder.
        options: fields of `LoadOptions`: dtype="bfloat16", revision="main" ...

    Returns:
        On the CPU, in eval mode.

    Raises:
        ConfigError (a ValueError): no layout fits (the message says what each looks for), a file
            is broken or too large, a weight is missing or left over, an unknown option; no such
            folder, and the hub has no such model or cannot be reached.
    """
    check_keys(options, LoadOptions.__dataclass_fields__, "load")
    chosen = LoadOptions(**options)
    _check_dtype(chosen.dtype)
    if path is None:
        from lateint.model import load as shipped

        return shipped(None)
    folder = find(path, chosen)
    row = sniff(folder) if layout is None else _named(layout)
    model: LateInteractionModel = _function(row.loader)(folder, replace(chosen, source=str(path)))
    return model.eval()


def save(model: LateInteractionModel, path: Path | str, layout: str = "lateint") -> None:
    """Writes a model in a layout that has a writer, into a folder that is new or empty.

    Args:
        layout: "lateint", "pylate", "sentence-transformers", "stanford", "transformers"; LAYOUTS
            has the list.

    Raises:
        ValueError: what the layout cannot express is named; nothing is written then.
        FileExistsError: the folder is not empty.
    """
    row = _named(layout)
    if row.writer is None:
        known = [row.name for row in LAYOUTS if row.writer is not None]
        raise ConfigError(f"layout {layout!r} can be read, not written; written are {known}")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, wanted a folder")
    if folder.is_dir() and any(folder.iterdir()) and layout != "lateint":
        raise FileExistsError(f"{folder} is not empty: not touched, give a new folder")
    _function(row.writer)(model, folder)


def sniff(folder: Path) -> Layout:
    """The first row of LAYOUTS that fits a folder; ConfigError says what each looked for."""
    files = SmallFiles(folder)
    for row in LAYOUTS:
        if all(files.has(name) for name in row.files) and row.fits(files):
            return row
    tried = "\n".join(f"  {row.name}: {', '.join((*row.files, row.looks_for))}" for row in LAYOUTS)
    held = sorted(p.name for p in folder.iterdir())[:20]
    raise ConfigError(
        f"{folder}: no known layout; it holds {held or 'nothing'}. Looked for:\n{tried}"
    )


def find(path: Path | str, options: LoadOptions) -> Path:
    """The folder of a checkpoint: `path` itself where it is one, else a snapshot from the hub
    (fetched unless its cache has it). ConfigError says why there is none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: a checkpoint is a folder")
    from lateint.checkpoints.hub import snapshot

    return snapshot(str(path), options.revision)


def _named(layout: str) -> Layout:
    rows = {row.name: row for row in LAYOUTS}
    if layout not in rows:
        raise ConfigError(f"unknown layout {layout!r}{nearest(layout, rows)}")
    return rows[layout]


def _check_dtype(name: str) -> None:
    import torch

    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"unknown dtype {name!r}: wanted float32, bfloat16, float16 or float64")


def _function(address: str) -> Any:
    module, name = address.split(":")
    return getattr(import_module(module), name)
