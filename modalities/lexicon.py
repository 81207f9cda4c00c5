"""`Lexicon`: what words mean, found by how they look.

A vocabulary of folded words of several languages, each with a meaning: a row of numbers in which
words of one meaning are near each other whatever their language. A word's vector, spelt from
text, read from pixels or heard, looks up the words that are spelt like it (attention whose keys
are the sketches of `modalities.words`, made from the spelling and not stored) and gets their
meaning; a word that looks like none of them gets zeros. So meaning costs no tokenizer and no
table of ids, and a reader that is unsure of a letter still finds the word.

This module knows words and rows of numbers: no sentences, no layout, no retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import words

MEANING = 96  # numbers of a meaning
WEIGHTS = "lexicon.safetensors"
SHARP = 20.0  # of the attention over cosines; larger: only the word that looks most alike counts
NONE = 0.65  # cosine below which a word is rather none of the vocabulary's
PROBES = 4  # groups of like-spelt words that are looked through; more: slower, misses fewer
MAX_WORDS = 1_000_000  # of a file that comes from outside


class Lexicon(nn.Module):
    """Word vectors -> meanings.

    It has no parameters and its tables are not part of a state_dict: contexts share one of them,
    and what saves them saves `WEIGHTS` beside. They follow the vectors to their device.

    Args:
        spelling: V folded words, those of a group side by side.
        values: (V, MEANING) int8, times `scale` (V,) the meanings; a row's length, 1 at most, says
            how much a word means ("the" next to nothing).
        groups: (C,) how many words each group of like-spelt words has; their sum is V.
    """

    def __init__(
        self,
        spelling: Sequence[str] = (),
        values: Tensor | None = None,
        scale: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.spelling = tuple(spelling)
        self.values = torch.zeros(0, MEANING, dtype=torch.int8) if values is None else values
        self.scale = torch.zeros(0) if scale is None else scale
        self.groups = torch.zeros(0, dtype=torch.int32) if groups is None else groups
        count = len(self.spelling)
        if self.values.shape != (count, MEANING) or self.scale.shape != (count,):
            raise ValueError(
                f"{count} words with values {tuple(self.values.shape)} and scale "
                f"{tuple(self.scale.shape)}: wanted ({count}, {MEANING}) and ({count},)"
            )
        if self.groups.dim() != 1 or int(self.groups.sum()) != count or (self.groups < 1).any():
            raise ValueError(f"groups must be sizes that add up to the {count} words")
        self._tables: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Number of words, V."""
        return len(self.spelling)

    def __deepcopy__(self, memo: dict[int, Any]) -> Lexicon:
        return self  # nothing in it ever changes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}  # made again where it is unpickled

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., words.WIDTH) -> (..., MEANING) in their dtype; zeros for a vector of zeros.

        Softmax over SHARP times the cosines with the words of the PROBES nearest groups, and of
        "none of them", whose meaning is zeros. A spelt word always finds itself."""
        flat = F.normalize(vectors.reshape(-1, words.WIDTH).float(), dim=-1)
        total = flat.new_zeros(len(flat), MEANING)
        if len(self) and len(flat):
            keys, meanings, centres = self._on(flat.device)
            share = flat.new_full((len(flat), 1), _weight(torch.tensor(NONE)).item())
            probes = (flat.detach() @ centres.T).topk(min(PROBES, len(centres)), 1).indices
            group, order = probes.flatten().sort(stable=True)
            chosen, sizes = group.unique_consecutive(return_counts=True)
            asking = (order // probes.shape[1]).split(sizes.tolist())
            ends = self.groups.cumsum(0).tolist()
            for which, rows in zip(chosen.tolist(), asking, strict=True):
                part = slice(ends[which] - int(self.groups[which]), ends[which])
                alike = _weight(flat[rows] @ keys[part].T)
                total.index_add_(0, rows, alike @ meanings[part])
                share.index_add_(0, rows, alike.sum(1, keepdim=True))
            total = total / share
        return total.view(*vectors.shape[:-1], MEANING).to(vectors.dtype)

    def meanings(self) -> Tensor:
        """(V, MEANING) float32: the meaning of each word of `spelling`, on the CPU."""
        return self.values.float() * self.scale.float()[:, None]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Keys (V, WIDTH), meanings (V, MEANING) and the groups' centres (C, WIDTH), float32."""
        if device not in self._tables:
            with torch.inference_mode(False), torch.no_grad():
                if device.type == "cpu":
                    keys = words.vectors(self.spelling)
                    owner = torch.arange(len(self.groups)).repeat_interleave(self.groups)
                    sums = torch.zeros(len(self.groups), words.WIDTH).index_add_(0, owner, keys)
                    table = keys, self.meanings(), F.normalize(sums, dim=1)
                else:
                    keys, meanings, centres = self._on(torch.device("cpu"))
                    table = keys.to(device), meanings.to(device), centres.to(device)
            self._tables[device] = table
        return self._tables[device]

    @classmethod
    def make(cls, spelling: Sequence[str], meanings: Tensor, *, groups: int = 256) -> Lexicon:
        """Of folded words and their meanings (V, MEANING), quantised; words are put into groups
        of like spelling (spherical k-means of their vectors). More groups: each is looked
        through faster, and a misspelt word is missed sooner. Deterministic."""
        if len(set(spelling)) != len(spelling):
            raise ValueError("a word comes twice: a lexicon has one meaning for each spelling")
        keys, count = words.vectors(spelling), min(groups, len(spelling))
        if not count:
            return cls()
        generator = torch.Generator().manual_seed(0)
        centres = keys[torch.randperm(len(keys), generator=generator)[:count]]
        for _ in range(12):
            owner = (keys @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, owner, keys)
            centres = torch.where(
                sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centres
            )
        owner = (keys @ centres.T).argmax(1)
        order = owner.argsort(stable=True)
        sizes = owner.bincount(minlength=count)
        scale = meanings.float().abs().amax(1) / 127
        values = (meanings.float() / scale.clamp(min=1e-8)[:, None]).round().to(torch.int8)
        return cls(
            [spelling[i] for i in order.tolist()],
            values[order].contiguous(),
            scale[order].half(),
            sizes[sizes > 0].int(),
        )

    def save(self, path: Path) -> None:
        """Writes one safetensors file: spelling (UTF-8, a line a word), values, scale, groups."""
        from safetensors.torch import save_file

        spelt = "\n".join(self.spelling).encode()
        letters = torch.frombuffer(bytearray(spelt or b"\n"), dtype=torch.uint8)
        save_file(
            {
                "spelling": letters,
                "values": self.values,
                "scale": self.scale.half(),
                "groups": self.groups,
            },
            str(path),
        )

    @classmethod
    def of_bytes(cls, content: bytes, name: str) -> Lexicon:
        """What `save` wrote; ValueError naming the file where it is no lexicon."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            stored = load(content)
            spelt = stored["spelling"].numpy().tobytes().decode()
            if spelt.count("\n") > MAX_WORDS:
                raise ValueError(f"more than {MAX_WORDS} words")
            spelling = spelt.split("\n") if spelt != "\n" else []
            return cls(spelling, stored["values"], stored["scale"], stored["groups"])
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} is no lexicon: {error}") from error


@cache
def shipped() -> Lexicon:
    """The lexicon that comes with the package; one without words where the file is left out."""
    path = files("modalities") / "weights" / WEIGHTS
    return Lexicon.of_bytes(path.read_bytes(), WEIGHTS) if path.is_file() else Lexicon()


def _weight(cosine: Tensor) -> Tensor:
    return torch.exp(SHARP * (cosine - 1))
