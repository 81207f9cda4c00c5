"""A text encoder for the study: the lower layers of a BERT are frozen and their output is kept on
the disk, the upper ones and the projection are trained.

Nine models are trained and tested on the same texts; the layers that all of them share are run once
for each text instead of nine times. Tokens and rules (markers, skiplist, lengths) are those of
`modalities.text.TransformerText`, which this wraps; with nothing trained both give the same tokens.
A text that is not in the store is run through the lower layers on the spot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid
from modalities.text import TransformerText

CHUNK = 512  # texts between two writes
BATCH = 4096  # padded tokens run together
PART = "part"


class Store:
    """Hidden states by token ids, float16, in a folder of parts; reading maps the files."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.width = width
        self._places: dict[bytes, tuple[int, int, int]] = {}  # key -> part, first row, rows
        self._parts: list[np.ndarray[Any, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.keys.npy")):
            self._open(path)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __getitem__(self, key: bytes) -> np.ndarray[Any, Any]:
        """(L, width) float16."""
        part, first, rows = self._places[key]
        return self._parts[part][first : first + rows]

    def add(self, items: Sequence[tuple[bytes, np.ndarray[Any, Any]]]) -> None:
        """Writes a part; its keys last, so that a part without them does not count."""
        number = len(self._parts)
        keys = np.frombuffer(b"".join(key for key, _ in items), np.uint8).reshape(len(items), -1)
        lengths = np.array([len(rows) for _, rows in items], np.int64)
        np.save(self.folder / f"{number:04d}.rows.npy", np.concatenate([r for _, r in items]))
        np.save(self.folder / f"{number:04d}.lengths.npy", lengths)
        path = self.folder / f"{number:04d}.keys.npy"
        np.save(path, keys)
        self._open(path)

    def _open(self, path: Path) -> None:
        stem = path.name.split(".", 1)[0]
        rows = np.load(self.folder / f"{stem}.rows.npy", mmap_mode="r", allow_pickle=False)
        lengths = np.load(self.folder / f"{stem}.lengths.npy", allow_pickle=False).tolist()
        keys = np.load(path, allow_pickle=False)
        first = 0
        for key, length in zip(keys, lengths, strict=True):
            self._places[key.tobytes()] = (len(self._parts), first, length)
            first += length
        self._parts.append(rows)


class UpperText(Encoder):
    """Texts through a BERT of which the first `frozen` layers never change."""

    name = "upper-text"
    modality = "text"

    def __init__(self, text: TransformerText, frozen: int, store: Store) -> None:
        super().__init__()
        self.dim = text.dim
        self.lower = [text]  # in a list: its weights are no parameters of this module
        text.eval().requires_grad_(False)
        layers = text.backbone.encoder.layer
        if not 0 <= frozen < len(layers):
            raise ValueError(f"frozen: got {frozen}; wanted 0 to {len(layers) - 1}")
        self.frozen = frozen
        self.upper = nn.ModuleList(layers[frozen:]).requires_grad_(True)
        self.projection = text.projection.requires_grad_(True)
        self.store = store

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """As the wrapped encoder, with hidden (B, L, H) float16 in place of the ids."""
        batch = self.lower[0].prepare(raw, role)
        ids, attend = batch.inputs["ids"], batch.inputs["attend"]
        lengths = attend.sum(1).tolist()
        hidden = torch.zeros(*ids.shape, self.store.width, dtype=torch.float16)
        missing = []
        for i, length in enumerate(lengths):
            key = _key(ids[i, :length])
            if key in self.store:
                hidden[i, :length] = torch.from_numpy(self.store[key].copy())
            else:
                missing.append(i)
        if missing:
            hidden[missing] = self._run(ids[missing], attend[missing]).half()
        inputs = {"hidden": hidden, **{k: batch.inputs[k] for k in ("attend", "keep", "mask")}}
        return Batch(inputs, batch.shape, role)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        if not len(batch):
            return TokenGrid(self.projection.weight.new_zeros(0, 0, self.dim), x["mask"], ())
        hidden = x["hidden"].to(self.dtype)
        allowed = x["attend"][:, None, None, :]
        for layer in self.upper:
            hidden = layer(hidden, allowed)
        chosen = hidden.gather(1, x["keep"][..., None].expand(-1, -1, hidden.shape[-1]))
        tokens = self.projection(chosen).masked_fill(~x["mask"][..., None], 0)
        return TokenGrid(tokens, x["mask"], batch.shape or ())

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return self.lower[0].cost(raw, role)

    def labels(self, item: Any, role: Role) -> list[str]:
        return self.lower[0].labels(item, role)

    def remember(self, texts: Iterable[str], role: Role) -> int:
        """Runs the lower layers over texts that the store lacks; returns over how many."""
        source, count = iter(texts), 0
        while chunk := list(islice(source, CHUNK)):
            batch = self.lower[0].prepare(chunk, role)
            ids, lengths = batch.inputs["ids"], batch.inputs["attend"].sum(1)
            keys = [_key(row[:n]) for row, n in zip(ids, lengths.tolist(), strict=True)]
            wanted = {key: i for i, key in enumerate(keys) if key not in self.store}
            order = sorted(wanted.values(), key=lambda i: int(lengths[i]))
            found: list[tuple[bytes, np.ndarray[Any, Any]]] = []
            while order:
                longest = int(lengths[order[-1]])
                some, order = order[-max(1, BATCH // longest) :], order[: -max(1, BATCH // longest)]
                cut = max(int(lengths[i]) for i in some)
                attend = batch.inputs["attend"][some, :cut]
                states = self._run(ids[some, :cut], attend).half().numpy()
                for row, i in enumerate(some):
                    found.append((keys[i], states[row, : int(lengths[i])]))
            if found:
                self.store.add(found)
            count += len(found)
        return count

    @torch.inference_mode()
    def _run(self, ids: Tensor, attend: Tensor) -> Tensor:
        """(B, L) -> (B, L, H) out of the frozen layers."""
        backbone = self.lower[0].backbone
        hidden = backbone.embeddings(input_ids=ids)
        for layer in backbone.encoder.layer[: self.frozen]:
            hidden = layer(hidden, attend[:, None, None, :])
        result: Tensor = hidden
        return result


def _key(ids: Tensor) -> bytes:
    return hashlib.blake2b(ids.numpy().tobytes(), digest_size=16).digest()
