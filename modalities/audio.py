"""Recordings through audio backbones: one token a frame, with the seconds it stands for.

AST, Whisper's encoder, wav2vec 2.0, HuBERT and CLAP's audio tower from transformers, and a log-mel
baseline without a backbone: rows of `audio_families.FAMILIES` under one class. A long recording is
read in overlapping windows; each instant keeps the token of the window in which it lies further
from the edge. Knows windows, frames and seconds; nothing of retrieval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modalities.audio_families import FAMILIES, MAX_WINDOW, Family, Lattice
from modalities.audio_files import (
    BACKBONE,
    FEATURES,
    load_backbone,
    read_backbone_config,
    read_features,
)
from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid
from modalities.media import Audio, as_audio, audio_facts, resample

if TYPE_CHECKING:
    from typing_extensions import Self

WINDOWS = 16  # through the backbone at once, so that an hour needs no more memory than a minute
MAX_STRIDE = 10_000


@dataclass(frozen=True)
class AudioConfig:
    """What an AudioEncoder is, apart from its backbone and its weights.

    family: a row of FAMILIES, by transformers' model_type, or "log-mel".
    dim: width of the tokens.
    window: seconds that the backbone reads at once, at most what it was made for (Whisper 30, AST
        10.24, CLAP 10). Smaller: less context for a token, less memory.
    overlap: seconds that neighbouring windows share, at most half a window. Larger: tokens near
        the cuts know more of what surrounds them; more to compute.
    stride: frames averaged into one token. Larger: fewer tokens, coarser in time. 1: all frames.
    bands: keep a token for each frequency band of a frame, where the backbone has several (AST 12,
        CLAP 2), instead of their mean.
    dtype: of the weights.
    """

    family: str
    dim: int = 128
    window: float = 30.0
    overlap: float = 2.0
    stride: int = 1
    bands: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}; known: {sorted(FAMILIES)}")
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if not 0.05 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window must be 0.05 to {MAX_WINDOW} seconds, not {self.window}")
        if not 0 <= self.overlap <= self.window / 2:
            raise ValueError(
                f"overlap must be 0 to half of the window of {self.window} s, not {self.overlap}"
            )
        if not 1 <= self.stride <= MAX_STRIDE:
            raise ValueError(f"stride must be 1 to {MAX_STRIDE} frames, not {self.stride}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {self.dtype!r}")


@dataclass(frozen=True)
class Window:
    """A stretch that the backbone reads at once. start, stop: its samples in the recording; first,
    count: its frames that are kept."""

    start: int
    stop: int
    first: int
    count: int


class AudioEncoder(Encoder):
    """Recordings -> one token a frame (or a few frames, see `stride`), projected to `dim`.

    Raw items: `media.Audio`, the path of a recording's file, or (samples, rate). They are resampled
    to the backbone's rate. Families whose windows have a fixed length (Whisper, AST, CLAP) read
    padding too, as they were trained to; only frames in which there is sound become tokens. The
    grid's `seconds` say where each token begins and ends; the last one ends with the recording. Its
    shape is (1, frames), or (frames, bands) with `bands`: bands of one frame stand side by side.
    `pooled` is the backbone's own vector for the recording (mean over windows), projected, where
    it has one (AST, CLAP), else None: heads take the mean.
    """

    name = "audio"
    modality = "audio"

    def __init__(
        self,
        backbone: Any,
        features: Any,
        config: AudioConfig,
        projection: nn.Module | None = None,
    ) -> None:
        """backbone: a transformers model of the family (None: of log-mel); features: its feature
        extractor; projection: hidden states to `dim`, None: a fresh one. Raises ValueError where
        they and the config do not go together."""
        super().__init__()
        self.settings = config
        self.dim = config.dim
        self.features = features
        dtype = getattr(torch, config.dtype)
        self.backbone: Any = backbone if backbone is None else backbone.to(dtype)
        if config.window > (longest := self.lattice.most / self.lattice.rate):
            raise ValueError(f"window {config.window} s is longer than this backbone's {longest} s")
        fresh = nn.Linear(self.lattice.width, config.dim, bias=False)
        self.projection: nn.Module = (fresh if projection is None else projection).to(dtype)

    @property
    def family(self) -> Family:
        """The row of FAMILIES."""
        return FAMILIES[self.settings.family]

    @property
    def lattice(self) -> Lattice:
        """Rate, frames and bands of the backbone's windows."""
        return self.family.lattice(getattr(self.backbone, "config", None), self.features)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        dim: int = 128,
        *,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """A backbone of a hub or a folder, with a fresh projection; in eval mode, on the CPU.

        options: other fields of `AudioConfig`, e.g. stride=4; the family's defaults otherwise. Code
        that comes with a model is never run. Raises ValueError for a model of no known family, and
        for weights that are missing or that nothing takes (heads of the families' tasks are known).
        """
        from transformers import AutoConfig

        source = str(name_or_folder)
        kind = AutoConfig.from_pretrained(source).model_type
        if kind not in FAMILIES or FAMILIES[kind].backbone is None:
            known = sorted(name for name, row in FAMILIES.items() if row.backbone)
            hint = " (CLAP is modalities.clap.Clap)" if kind == "clap" else ""
            raise ValueError(f"{source}: model_type {kind!r} is none of {known}{hint}")
        family = FAMILIES[kind]
        features = read_features(family, source)
        backbone = load_backbone(family.backbone, source, dtype, family.dropped)
        backbone = getattr(backbone, family.part) if family.part else backbone
        values = fitted(kind, features, backbone, dim=dim, dtype=dtype, **options)
        return cls(backbone, features, from_config(AudioConfig, values)).eval()

    @classmethod
    def log_mel(cls, dim: int = 128, **options: Any) -> Self:
        """The baseline: log-mel spectrogram and a fresh projection. options: as above."""
        features = read_features(FAMILIES["log-mel"], "")
        values = fitted("log-mel", features, None, dim=dim, dtype=torch.float32, **options)
        return cls(None, features, from_config(AudioConfig, values)).eval()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """samples (B,): of each item, at the backbone's rate; features (W, ...), lengths (W,):
        what the backbone reads of each window, and its samples; owner (W,): the item it is of;
        window, frame (B, F): where each frame of an item comes from, and mask (B, F).

        Raises MediaError naming a file that cannot be read, TypeError for other items.
        """
        check_role(role)
        lattice = self.lattice
        sounds = [resample(as_audio(item), lattice.rate) for item in raw]
        plans = [self.windows(len(sound)) for sound in sounds]
        read: list[Tensor] = []
        lengths: list[int] = []
        owner: list[int] = []
        places: list[Tensor] = []
        for i, (sound, plan) in enumerate(zip(sounds, plans, strict=True)):
            own = []
            for part in plan:
                piece = sound[part.start : part.stop]
                piece = np.pad(piece, (0, max(0, lattice.least - len(piece))))
                frames = torch.arange(part.first, part.first + part.count)
                own.append(torch.stack([torch.full_like(frames, len(read)), frames]))
                read.append(self.family.extract(self.features, piece, lattice.most))
                lengths.append(len(piece))
                owner.append(i)
            places.append(torch.cat(own, dim=1).T)  # (F_i, 2)
        counts = torch.tensor([len(own) for own in places], dtype=torch.long)
        padded = _padded(places, torch.zeros(0, 0, 2, dtype=torch.long))  # (B, F, 2)
        inputs = {
            "samples": torch.tensor([len(sound) for sound in sounds], dtype=torch.long),
            "features": _padded(read, torch.zeros(0)),
            "lengths": torch.tensor(lengths, dtype=torch.long),
            "owner": torch.tensor(owner, dtype=torch.long),
            "window": padded[..., 0],
            "frame": padded[..., 1],
            "mask": torch.arange(padded.shape[1]) < counts[:, None],
        }
        return Batch(inputs, tuple(self._shape(int(count)) for count in counts), role)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        shape = batch.shape or ()
        if not len(batch):
            return self._nothing(x["mask"])
        hidden, pooled = self._hidden(x["features"].to(self.dtype), x["lengths"])
        if not self.settings.bands:
            hidden = hidden.mean(1, keepdim=True)  # (W, 1, F, H)
        frames = hidden.transpose(1, 2)[x["window"], x["frame"]]  # (B, F, bands, H)
        frames, mask = _strided(frames, x["mask"], self.settings.stride)  # (B, T, bands, H)
        tokens = self.projection(frames).flatten(1, 2)  # (B, T * bands, D)
        seconds = self._seconds(x["samples"], mask)  # (B, T, 2)
        bands = frames.shape[2]
        mask = mask.repeat_interleave(bands, dim=1)
        return TokenGrid(
            tokens.masked_fill(~mask[..., None], 0),
            mask,
            shape,
            None if pooled is None else self._pooled(pooled, x["owner"], len(batch)),
            seconds=seconds.repeat_interleave(bands, dim=1),
        )

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Frames that the backbone computes, padding of its windows included. Of files the header
        is read; raises MediaError as `prepare` does."""
        check_role(role)
        lattice = self.lattice
        plans = [self.windows(max(1, round(_length(item) * lattice.rate))) for item in raw]
        return [
            sum(lattice.cost(part.stop - part.start) for part in plan) * lattice.bands
            for plan in plans
        ]

    def labels(self, item: Any, role: Role) -> list[str]:
        """The second at which each token begins, "12.30s"; with bands also which, "12.30s b0"."""
        check_role(role)
        samples = len(resample(as_audio(item), self.lattice.rate))
        count = sum(part.count for part in self.windows(samples))
        starts = [t * self._step for t in range(math.ceil(count / self.settings.stride))]
        if not self.settings.bands:
            return [f"{start:.2f}s" for start in starts]
        return [f"{start:.2f}s b{band}" for start in starts for band in range(self.lattice.bands)]

    def config(self) -> dict[str, Any]:
        return {**asdict(self.settings), "dtype": str(self.dtype).removeprefix("torch.")}

    def save(self, folder: Path) -> None:
        """As every encoder; the configs of backbone and feature extractor in folders beside."""
        if self.family.backbone is not None:
            self.backbone.config.save_pretrained(Path(folder) / BACKBONE)
            self.features.save_pretrained(str(Path(folder) / FEATURES))
        super().save(folder)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        settings = from_config(AudioConfig, config)
        family = FAMILIES[settings.family]
        if family.backbone is None:
            return cls(None, read_features(family, ""), settings)
        form = read_backbone_config(Path(folder) / BACKBONE, settings.family)
        features = read_features(family, Path(folder) / FEATURES)
        module, kind = family.alone.split(":")
        return cls(getattr(import_module(module), kind)(form), features, settings)

    def _pooled(self, vectors: Tensor, owner: Tensor, count: int) -> Tensor:
        """One vector a window (W, H) -> one an item (B, D), the mean over its windows."""
        return mean_by(self.projection(vectors), owner, count)

    def _hidden(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """All windows through the backbone: (W, bands, F, H), and (W, H) where it has one."""
        run, frames = self.family.run, self.lattice.frames
        parts = [
            run(self.backbone, some, own, frames)
            for some, own in zip(features.split(WINDOWS), lengths.split(WINDOWS), strict=True)
        ]
        longest = max(hidden.shape[2] for hidden, _ in parts)
        hidden = torch.cat(
            [nn.functional.pad(h, (0, 0, 0, longest - h.shape[2])) for h, _ in parts]
        )
        vectors = [vector for _, vector in parts if vector is not None]
        return hidden, torch.cat(vectors) if vectors else None

    # Where things stand in time.

    @property
    def _step(self) -> float:
        """Seconds from one token to the next."""
        return self.settings.stride * self.lattice.hop / self.lattice.rate

    def windows(self, samples: int) -> list[Window]:
        """Cuts a recording into windows that begin on one lattice of frames. The last is as long as
        the others, so that its frames have context too; each overlap is cut in its middle."""
        lattice, hop = self.lattice, self.lattice.hop
        most = min(lattice.most, round(self.settings.window * lattice.rate))
        shared = round(self.settings.overlap * lattice.rate)
        step = max(1, min(int((most - shared) / hop), lattice.frames(most)))
        starts = [0]
        while round(starts[-1] * hop) + most < samples:
            starts.append(min(starts[-1] + step, math.ceil((samples - most) / hop)))
        ends = []
        for start in starts:
            first = round(start * hop)
            ends.append(start + lattice.frames(min(samples, first + most) - first))
        cuts = [(b + e) // 2 for b, e in zip(starts[1:], ends, strict=False)]
        kept = zip(starts, [0, *cuts], [*cuts, ends[-1]], strict=True)
        return [
            Window(round(s * hop), min(samples, round(s * hop) + most), low - s, high - low)
            for s, low, high in kept
        ]

    def _shape(self, frames: int) -> tuple[int, int]:
        count = math.ceil(frames / self.settings.stride)
        return (count, self.lattice.bands) if self.settings.bands else (1, count)

    def _seconds(self, samples: Tensor, mask: Tensor) -> Tensor:
        """(B, T, 2) float32: where each token begins and ends. The last real one ends with its
        recording, and those behind it have no length."""
        tokens = mask.shape[1]
        edges = torch.arange(tokens + 1, device=samples.device, dtype=torch.float64) * self._step
        whole = (samples.double() / self.lattice.rate)[:, None]  # (B, 1)
        behind = torch.arange(1, tokens + 1, device=samples.device) >= mask.sum(1, keepdim=True)
        ends = torch.where(behind, whole, edges[1:].minimum(whole))
        return torch.stack([edges[:-1].minimum(whole), ends], dim=-1).float()

    def _nothing(self, mask: Tensor) -> TokenGrid:
        none = torch.zeros(0, 0, self.dim, dtype=self.dtype, device=self.device)
        return TokenGrid(
            none, mask[:0, :0], (), None, seconds=none.new_zeros(0, 0, 2, dtype=torch.float32)
        )


def fitted(
    kind: str, features: Any, backbone: Any, *, dtype: torch.dtype, **options: Any
) -> dict[str, Any]:
    """Values of an AudioConfig: the caller's options over the family's defaults, those fitted to a
    backbone with shorter windows."""
    family = FAMILIES[kind]
    lattice = family.lattice(getattr(backbone, "config", None), features)
    window = min(options.get("window", family.window), lattice.most / lattice.rate)
    return {
        "family": kind,
        "window": window,
        "overlap": min(family.overlap, window / 4),
        "stride": family.stride,
        "dtype": str(dtype).removeprefix("torch."),
        **options,
    }


def _length(item: Any) -> float:
    """Seconds of a raw item; of a file its header is read."""
    if isinstance(item, (str, Path)):
        return audio_facts(item).seconds
    return (item if isinstance(item, Audio) else as_audio(item)).seconds


def _padded(rows: list[Tensor], none: Tensor) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else none


def _strided(frames: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Means over runs of `stride` real frames: (B, F, bands, H), (B, F) -> (B, T, bands, H), (B, T)
    with T = ceil(F / stride); summed in float32 at least."""
    if stride == 1:
        return frames, mask
    rest = -frames.shape[1] % stride
    frames = frames.masked_fill(~mask[..., None, None], 0)
    frames = nn.functional.pad(frames, (0, 0, 0, 0, 0, rest)).unflatten(1, (-1, stride))
    counts = nn.functional.pad(mask, (0, rest)).unflatten(1, (-1, stride)).sum(2)  # (B, T)
    wide = frames if frames.dtype == torch.float64 else frames.float()
    means = wide.sum(2) / counts.clamp(min=1)[..., None, None]
    return means.to(frames.dtype), counts > 0


def mean_by(rows: Tensor, owner: Tensor, count: int) -> Tensor:
    """(W, D) rows of `count` owners -> (count, D), each owner's mean."""
    total = rows.new_zeros(count, rows.shape[1]).index_add(0, owner, rows)
    return total / owner.bincount(minlength=count)[:, None].to(rows.dtype)
