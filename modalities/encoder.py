"""`Encoder`, the contract of everything that turns raw items into a `TokenGrid`.

    raw items -> prepare (CPU) -> Batch -> forward (any device) -> TokenGrid

An encoder owns its `projection`, so all tokens leave in one shared width. `check_encoder` is the
public test kit: a new backbone is done when it passes. This module knows no backbone, no head and
no retrieval.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from modalities.grid import TokenGrid

if TYPE_CHECKING:
    from typing_extensions import Self

Role = Literal["query", "document"]
FACTS = "encoder.json"
WEIGHTS = "model.safetensors"
MAX_FACTS_BYTES = 1_000_000  # of encoder.json, which comes from outside


@dataclass
class Batch:
    """Prepared items, ready for a device.

    inputs: tensors by name, padded at the right; the first has one row for each item.
    shape: (rows, cols) of each item's real tokens, where known before the forward pass.
    role: whether the items are queries or documents; never guessed.
    """

    inputs: dict[str, Tensor]
    shape: tuple[tuple[int, int], ...] | None = None
    role: Role = "document"

    def __len__(self) -> int:
        """Number of items."""
        if self.shape is not None:
            return len(self.shape)
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """On another device; floating point inputs in another dtype."""
        moved = {
            name: x.to(device=device, dtype=dtype if x.is_floating_point() else None)
            for name, x in self.inputs.items()
        }
        return Batch(inputs=moved, shape=self.shape, role=self.role)


class Encoder(nn.Module, ABC):
    """Raw items of one modality, or of several, to tokens in the shared width.

    Subclasses set `name` (the key in `modalities.ENCODERS`), `modality` (what raw items are:
    "text" | "page" | "image" | "audio"), `dim`, and write the four abstract methods. One that
    reads several modalities with shared weights (a vision-language model, two towers) lists them
    in `modalities`; a model then holds the same object under each of them, and `prepare` tells
    items apart by their type: a mix of types in one call is a ValueError. Two rules that
    `check_encoder` holds them to: an item's tokens do not depend on its neighbours in the batch,
    their order or the padding; and an empty list of items is a batch of none, not an error.
    """

    name: str
    modality: str
    dim: int
    cpu_tokens: int | None = None
    """Padded tokens of a batch beyond which a CPU gets slower, not faster; None: not known."""
    concurrent: bool = False
    """Whether several threads may be in `forward` at once."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """All that it reads, `modality` first."""
        return (self.modality,)

    @abstractmethod
    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """Raw items to tensors, padded to the longest, in order; CPU work only."""

    @abstractmethod
    def forward(self, batch: Batch) -> TokenGrid:
        """Tokens in the device and dtype of the encoder, wherever the batch lies."""

    @abstractmethod
    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Estimated tokens of each item, at least 1: what padding it alone would take. For
        batches sorted by length under a token budget, so it must be far cheaper than forward."""

    @abstractmethod
    def labels(self, item: Any, role: Role) -> list[str]:
        """What each real token of this item stands for, in order ("[CLS]", "word", "r3c4")."""

    def config(self) -> dict[str, Any]:
        """What `build` needs to make this encoder again without weights; must survive JSON."""
        return {}

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        """The encoder that `config` describes; its weights are loaded by the caller. `folder` is
        where further files that `save` wrote lie."""
        return cls(**config)

    def save(self, folder: Path) -> None:
        """Writes encoder.json and model.safetensors (weights in their own dtype)."""
        from safetensors.torch import save_model

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / WEIGHTS))
        facts = {"encoder": self.name, "config": self.config()}
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder saved in a folder, on the CPU, in eval mode. Raises ValueError where the
        folder holds another encoder, or weights that do not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        folder = Path(folder)
        name, config = read_facts(folder)
        if name != cls.name:
            raise ValueError(f"{folder / FACTS} is of encoder {name!r}, not {cls.name!r}")
        encoder = cls.build(config, folder)
        try:
            load_model(encoder, str(folder / WEIGHTS))
        except (RuntimeError, SafetensorError, OSError) as error:
            raise ValueError(f"{folder / WEIGHTS} does not fit {name!r}: {error}") from error
        return encoder.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.is_floating_point())


def read_facts(folder: Path) -> tuple[str, dict[str, Any]]:
    """Encoder name and config from a folder's encoder.json. Raises ValueError saying what is
    wrong with it, FileNotFoundError where there is none."""
    path = Path(folder) / FACTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no folder of a saved encoder")
    if path.stat().st_size > MAX_FACTS_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FACTS_BYTES} bytes: it is no {FACTS}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        name, config = facts["encoder"], facts["config"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{path} must be JSON {{"encoder": name, "config": {{...}}}}: {error!r}'
        ) from error
    if not isinstance(name, str) or not isinstance(config, dict):
        raise ValueError(f"{path}: encoder must be a string and config an object")
    return name, config


C = TypeVar("C")


def from_config(kind: type[C], values: dict[str, Any]) -> C:
    """A dataclass from JSON values; lists become tuples. An unknown key is a ValueError that
    names the nearest known one, a missing key one that names what is missing."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1) or known
            raise ValueError(f"unknown key {key!r} of {kind.__name__}: did you mean {near}?")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def check_role(role: str) -> None:
    """Raises ValueError unless role is "query" or "document"."""
    if role not in get_args(Role):
        raise ValueError(f'role must be "query" or "document", not {role!r}')


def check_encoder(
    encoder: Encoder, items: Sequence[Any], *, role: Role = "document", atol: float = 1e-5
) -> None:
    """Holds an encoder to its contract; raises AssertionError saying what failed.

    Shapes, masks, dtype and device; the same tokens when encoded again; batch invariance (each
    item alone, in reverse order and beside the others gives the same tokens); cost and labels
    against tokens; an empty batch; save and load. Runs in eval mode without gradients and leaves
    the mode as it was.

    Args:
        encoder: on any device; in float32 unless `atol` is raised (bfloat16: about 3e-2).
        items: at least two raw items, best of different lengths, short enough to encode often.
        role: how they are encoded. Call once for each role that the encoder is used in.
        atol: largest difference allowed, as a share of the largest entry of an item's tokens
            (or absolute where that is below 1). Never 0: the same convolution of the same numbers
            differs in the last bit with where they lie in memory.
    """
    _expect(len(items) >= 2, "check_encoder needs at least two items")
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            _check_alone(encoder, list(items), role, atol)
            _check_empty(encoder, role)
            _check_saved(encoder, list(items), role, atol)
    finally:
        encoder.train(training)


def _check_alone(encoder: Encoder, items: list[Any], role: Role, atol: float) -> None:
    batch = encoder.prepare(items, role)
    _expect(len(batch) == len(items), f"prepare gave {len(batch)} rows for {len(items)} items")
    _expect(batch.role == role, f"prepare turned role {role!r} into {batch.role!r}")
    grid = encoder(batch)
    _check_grid(encoder, grid, len(items))
    _same(grid, encoder(encoder.prepare(items, role)), range(len(items)), atol, "encoded again")

    backwards = encoder(encoder.prepare(items[::-1], role))
    order = range(len(items) - 1, -1, -1)
    _same(grid, backwards, order, atol, "in reverse order")
    for i, item in enumerate(items):
        alone = encoder(encoder.prepare([item], role))
        _check_grid(encoder, alone, 1)
        _same(alone, grid, [i], atol, f"(number {i}) beside other items")

    cost = encoder.cost(items, role)
    _expect(
        len(cost) == len(items) and all(isinstance(c, int) and c >= 1 for c in cost),
        f"cost must be one int of at least 1 for each of {len(items)} items, not {cost}",
    )
    _expect(
        cost == [encoder.cost([item], role)[0] for item in items],
        "the cost of an item depends on its neighbours",
    )
    for i, (item, (rows, cols)) in enumerate(zip(items, grid.shape, strict=True)):
        labels = encoder.labels(item, role)
        _expect(
            len(labels) == rows * cols and all(isinstance(x, str) for x in labels),
            f"item {i} has {rows * cols} tokens and {len(labels)} labels (or some are no strings)",
        )


def _check_grid(encoder: Encoder, grid: TokenGrid, count: int) -> None:
    _expect(isinstance(grid, TokenGrid), f"forward gave {type(grid).__name__}, not a TokenGrid")
    _expect(len(grid) == count, f"forward gave {len(grid)} items for {count}")
    _expect(grid.dim == encoder.dim, f"tokens have width {grid.dim}, dim is {encoder.dim}")
    for what, tensor in (("tokens", grid.tokens), ("pooled", grid.pooled)):
        if tensor is not None:
            _expect(
                tensor.dtype == encoder.dtype and tensor.device == encoder.device,
                f"{what}: {tensor.dtype} on {tensor.device}; "
                f"the encoder is {encoder.dtype} on {encoder.device}",
            )
    try:
        grid.verify()
    except ValueError as error:
        raise AssertionError(f"TokenGrid: {error}") from error


def _check_empty(encoder: Encoder, role: Role) -> None:
    batch = encoder.prepare([], role)
    _expect(len(batch) == 0, f"prepare gave {len(batch)} rows for no items")
    _check_grid(encoder, encoder(batch), 0)
    _expect(encoder.cost([], role) == [], "cost of no items is not []")


def _check_saved(encoder: Encoder, items: list[Any], role: Role, atol: float) -> None:
    from modalities import ENCODERS, load_encoder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "encoder"
        encoder.save(folder)
        stored = read_facts(folder)[0]
        _expect(stored == encoder.name, f"saved as {stored!r}, its name is {encoder.name!r}")
        again = load_encoder(folder) if stored in ENCODERS else type(encoder).load(folder)
    _expect(type(again) is type(encoder), f"loaded as {type(again).__name__}")
    _expect(not again.training, "a loaded encoder must be in eval mode")
    again.to(encoder.device)
    _expect(again.dtype == encoder.dtype, f"saved in {encoder.dtype}, loaded in {again.dtype}")
    before, after = (e(e.prepare(items, role)) for e in (encoder, again))
    _same(before, after, range(len(items)), atol, "after save and load")


def _same(a: TokenGrid, b: TokenGrid, places: Sequence[int], atol: float, when: str) -> None:
    """Item i of `a` must equal item places[i] of `b`: shape, tokens, pooled, boxes and seconds."""
    for i, j in enumerate(places):
        (rows, cols), other = a.shape[i], b.shape[j]
        _expect((rows, cols) == other, f"item {i} {when}: shape {other} instead of {a.shape[i]}")
        count = rows * cols
        pairs = [("tokens", a.tokens[i, :count], b.tokens[j, :count])]
        for what in ("pooled", "boxes", "seconds"):
            one, two = getattr(a, what), getattr(b, what)
            _expect((one is None) == (two is None), f"item {i} {when}: {what} comes and goes")
            if one is not None:
                rest = slice(None) if what == "pooled" else slice(count)
                pairs.append((what, one[i][rest], two[j][rest]))
        for what, one, two in pairs:
            if not one.numel():
                continue
            allowed = atol * max(1.0, float(one.abs().max()))
            off = float((one.double() - two.double()).abs().max())
            _expect(off <= allowed, f"item {i} {when}: {what} differ by {off:.2e} > {allowed:.2e}")


def _expect(condition: bool, message: str) -> None:
    # not `assert`, which python -O removes
    if not condition:
        raise AssertionError(message)
