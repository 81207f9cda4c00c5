"""CLAP (Wu et al. 2022, arXiv:2211.06687): recordings and texts in one space, frame by word.

Both towers of a transformers ClapModel: frames of the audio tower and words of the text tower, each
through its tower's own projection, in the manner of FILIP (Yao et al. 2021, arXiv:2111.07783); and
as `pooled` the vectors that the model was trained on. Nothing here has fresh weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modalities.audio import AudioConfig, AudioEncoder, fitted, mean_by
from modalities.audio_families import FAMILIES
from modalities.audio_files import (
    BACKBONE,
    FEATURES,
    load_backbone,
    read_backbone_config,
    read_features,
)
from modalities.encoder import Batch, Encoder, Role, from_config
from modalities.grid import TokenGrid
from modalities.text import TOKENIZER, TextConfig, TransformerText

if TYPE_CHECKING:
    from typing_extensions import Self

FAMILY = "clap_audio_model"
VOCABULARIES = ("tokenizer.json", "vocab.json")
# Temperatures of the training loss: known, and not part of what a token is.
DROPPED = ("logit_scale_a", "logit_scale_t")


@dataclass(frozen=True)
class ClapConfig(AudioConfig):
    """As AudioConfig, of CLAP's audio tower; dim is the width of the joint space.

    text_length: tokens of a text, beginning and end included; the rest is cut off. CLAP was trained
        with 77. Larger: more of the text is read.
    """

    family: str = FAMILY
    text_length: int = 77


class _Words(TransformerText):
    """CLAP's text tower. The model projects what its pooler makes of the first token; here every
    token takes that way, so the first one is the model's own vector of the text."""

    def __init__(self, clap: Any, tokenizer: Any, config: ClapConfig) -> None:
        length = config.text_length
        plain = TextConfig(
            dim=config.dim,
            query_length=length,
            document_length=length,
            query_marker=None,
            document_marker=None,
            query_expansion=False,
            skiplist=(),
            dtype=config.dtype,
        )
        pooler = clap.text_model.pooler  # which the text encoder would throw away
        super().__init__(clap.text_model, tokenizer, plain)
        head = nn.Sequential(pooler.dense, pooler.activation, clap.text_projection)
        self.projection = head.to(getattr(torch, config.dtype))


class Clap(AudioEncoder):
    """Recordings and texts -> tokens of CLAP's joint space.

    Raw items: all texts (str), or all recordings (media.Audio, a Path, or (samples, rate)); a mix
    is a ValueError. Recordings as in `AudioEncoder`: one token a frame, the mean of its bands, with
    its seconds. Texts: one token a piece, special tokens included; never no token.

    `pooled` is what transformers' get_audio_features and get_text_features give (unit vectors; of a
    recording longer than a window their mean over windows). One thing differs from transformers: of
    a fused checkpoint its feature extractor calls one short recording in each batch "longer" by
    lot; here none is, so that no item depends on its neighbours.
    """

    name = "clap"

    def __init__(self, clap: Any, tokenizer: Any, features: Any, config: ClapConfig) -> None:
        """clap: a transformers ClapModel; its text tower's pooler is taken out of it."""
        if config.dim != clap.config.projection_dim:
            wide = clap.config.projection_dim
            raise ValueError(f"CLAP's joint space has {wide} numbers, dim is {config.dim}")
        super().__init__(clap.audio_model, features, config, clap.audio_projection)
        self._whole = clap.config
        self.words = _Words(clap, tokenizer, config)

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("audio", "text")

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        dim: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """A ClapModel of a hub or a folder; in eval mode, on the CPU.

        dim: None; the joint space has its own. options: other fields of `ClapConfig`. Raises
        ValueError for another model, and for weights that are missing or that nothing takes.
        """
        source = str(name_or_folder)
        features = read_features(FAMILIES[FAMILY], source)
        clap = load_backbone("ClapModel", source, dtype, DROPPED)
        wide = clap.config.projection_dim
        if dim not in (None, wide):
            raise ValueError(
                f"{source}: CLAP's joint space has {wide} numbers: leave dim={dim} out"
            )
        values = fitted(FAMILY, features, clap.audio_model, dim=wide, dtype=dtype, **options)
        tokenizer = _tokenizer(source)
        return cls(clap, tokenizer, features, from_config(ClapConfig, values)).eval()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """Of recordings as AudioEncoder, of texts as TransformerText."""
        return self.words.prepare(raw, role) if _texts(raw) else super().prepare(raw, role)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return self.words.cost(raw, role) if _texts(raw) else super().cost(raw, role)

    def labels(self, item: Any, role: Role) -> list[str]:
        if _texts([item]):
            return self.words.labels(item, role)
        return super().labels(item, role)

    def forward(self, batch: Batch) -> TokenGrid:
        if "ids" not in batch.inputs:
            return super().forward(batch)
        words: TokenGrid = self.words(batch)
        pooled = nn.functional.normalize(words.tokens[:, 0], dim=-1)
        return TokenGrid(words.tokens, words.mask, words.shape, pooled)

    def save(self, folder: Path) -> None:
        """As every encoder; the model's config, feature extractor and tokenizer beside."""
        self._whole.save_pretrained(Path(folder) / BACKBONE)
        self.features.save_pretrained(str(Path(folder) / FEATURES))
        self.words.tokenizer.save_pretrained(str(Path(folder) / TOKENIZER))
        Encoder.save(self, folder)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        from transformers import ClapModel

        settings = from_config(ClapConfig, config)
        clap = ClapModel(read_backbone_config(Path(folder) / BACKBONE, "clap"))
        features = read_features(FAMILIES[FAMILY], Path(folder) / FEATURES)
        words = Path(folder) / TOKENIZER
        if not words.is_dir():
            raise ValueError(f"{words} is missing: the encoder is incomplete")
        return cls(clap, _tokenizer(str(words)), features, settings)

    def _pooled(self, vectors: Tensor, owner: Tensor, count: int) -> Tensor:
        return mean_by(nn.functional.normalize(self.projection(vectors), dim=-1), owner, count)


def _tokenizer(source: str) -> Any:
    """The tokenizer of a folder or of a name on the hub. Raises ValueError for a folder without a
    vocabulary: transformers would make up a tokenizer that knows no word."""
    from transformers import AutoTokenizer

    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in VOCABULARIES):
        raise ValueError(f"{source}: no tokenizer; looked for {' or '.join(VOCABULARIES)}")
    return AutoTokenizer.from_pretrained(source)


def _texts(raw: Sequence[Any]) -> bool:
    """Whether items are texts; a mix is a ValueError."""
    texts = sum(isinstance(item, str) for item in raw)
    if 0 < texts < len(raw):
        raise ValueError(f"{texts} texts among {len(raw)} items: give texts and recordings apart")
    if isinstance(raw, str):
        raise TypeError("items come as a sequence, not as one str")
    return texts > 0
