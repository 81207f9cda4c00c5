"""Pages, texts and recordings through a vision-language model: ColPali and its kin, one class.

What tells one family from another (prompts, processor, lattice, names of weights) is a row of
`modalities.vlm_families.FAMILIES`. Knows transformers; nothing of heads, scores, files of other
libraries (see `lateint.checkpoints`) or retrieval.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid
from modalities.vlm_families import FAMILIES, Family
from modalities.vlm_inputs import ItemReader, collated, load_processor, padded
from modalities.vlm_lattice import WHOLE

if TYPE_CHECKING:
    from typing_extensions import Self

BACKBONE = "backbone"  # folder of the backbone's config.json
PROCESSOR = "processor"  # folder of the processor's files, its tokenizer's among them
UNITS = 1_000_000  # boxes travel as integers: a batch in half precision must not blur places


@dataclass(frozen=True)
class VisionLanguageConfig:
    """What a VisionLanguage is, apart from its backbone, its processor and its weights.

    family: a name of FAMILIES.
    dim: width of the tokens.
    tokens: "all": every token of the prompt is one of the page's, as the families' own libraries
        have it; "patches": image tokens alone, fewer and each with a place of its own. Texts keep
        all of theirs.
    projected: False: tokens are the backbone's hidden states as they are; for NeoMME, whose mean
        hidden state is a single vector of full width. dim must then be the backbone's.
    dtype: of the weights.
    """

    family: str
    dim: int
    tokens: Literal["all", "patches"] = "all"
    projected: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            near = get_close_matches(self.family, FAMILIES, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"unknown family {self.family!r}{hint}; known: {sorted(FAMILIES)}")
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if self.tokens not in ("all", "patches"):
            raise ValueError(f'tokens must be "all" or "patches", not {self.tokens!r}')
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {self.dtype!r}")


class VisionLanguage(Encoder):
    """Pages (PIL images or paths), texts (str) and, for some, recordings (Audio, or paths that end
    in one of `vlm_inputs.RECORDINGS`), in one space.

    All items of one call are of one kind, told by their type; a mix is a ValueError. A page is
    read with the family's prompt whatever its role; a text as a query gets the family's prefix
    and its augmentation tokens, as a document it stands alone (families whose processor writes
    the prompt keep the prefix). Tokens of the prompt are tokens of the page, as in the families'
    own libraries. So a page is (1, T) with boxes: an image token's cell of the page, and the whole
    page for the prompt's tokens and for a family's second look at the whole page that has no finer
    place. With tokens="patches" a page is (rows, cols) where its image tokens are one lattice.
    Of a text, what spells an image placeholder is replaced by a blank.

    A recording is heard with the family's prompt, too; what lies beyond the processor's longest is
    cut off, as in the family's own library. `seconds` says when each token is, the prompt's tokens
    last all the while.

    Each item goes through the processor alone; padding is at the right and never attended to.
    `pooled` is the mean hidden state's first `dim` numbers where the family was trained for that
    (NeoMME; Matryoshka), else None.
    """

    name = "vision-language"
    modality = "page"

    def __init__(self, backbone: Any, processor: Any, config: VisionLanguageConfig) -> None:
        """backbone: a transformers model of one of the family's types, without a head; processor:
        of the family's class. Raises ValueError where they do not go together."""
        super().__init__()
        self.settings = config
        self.family: Family = FAMILIES[config.family]
        self.dim = config.dim
        kind = backbone.config.model_type
        if kind not in self.family.backbones:
            raise ValueError(
                f"family {config.family!r} goes with a backbone of type "
                f"{' or '.join(self.family.backbones)}, not {kind!r}"
            )
        self.backbone = backbone
        self.processor = processor
        self._accepts = frozenset(inspect.signature(backbone.forward).parameters)
        self.reader = ItemReader(self.family, processor, self._accepts)
        dtype = getattr(torch, config.dtype)
        backbone.to(dtype)
        width = backbone.config.get_text_config().hidden_size
        if config.projected:
            self.projection: nn.Module = nn.Linear(
                width, config.dim, bias=self.family.bias, dtype=dtype
            )
        elif width != config.dim:
            raise ValueError(f"hidden states are {width} wide: without projection dim is that")
        else:
            self.projection = nn.Identity()
        self._pools = self.family.dense and width >= config.dim

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("page", "text", "audio") if self.family.audio else ("page", "text")

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        family: str,
        dim: int = 128,
        *,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """A backbone of a hub or a folder under a fresh projection, to train; in eval mode, on
        the CPU. Trained page models come through `lateint.load`.

        options: other fields of VisionLanguageConfig. Code that comes with a model is never run.
        """
        from transformers import AutoModel

        values = {"family": family, "dim": dim, "dtype": str(dtype).removeprefix("torch.")}
        config = from_config(VisionLanguageConfig, {**values, **options})
        source = str(name_or_folder)
        backbone = AutoModel.from_pretrained(source, dtype=dtype)
        return cls(backbone, load_processor(FAMILIES[family], source), config).eval()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """The backbone's inputs, what belongs to tokens padded at the right to (B, L); pixels and
        audio of all items one after another. For pages boxes (B, T, 4) in 1 / UNITS, for
        recordings seconds (B, T, 2) in milliseconds; with tokens="patches" keep (B, T), the
        places in L of the tokens that stay, and kept (B, T): which of them are real.

        Raises MediaError naming a file that cannot be read; TypeError for other items; ValueError
        for items of more than one kind.
        """
        check_role(role)
        kind = self.reader.kind(raw)
        if not len(raw):
            return Batch({"input_ids": torch.zeros(0, 0, dtype=torch.long)}, (), role)
        items = [self.reader.read(item, kind, role) for item in raw]
        pad = self.processor.tokenizer.pad_token_id or 0
        inputs = collated(items, self.family, pad)
        lengths = [item["input_ids"].shape[1] for item in items]
        shape = [(1, length) for length in lengths]
        if kind == "page":
            places = [self.reader.places(item, x) for item, x in zip(items, raw, strict=True)]
            boxes = []
            for length, (at, lattice) in zip(lengths, places, strict=True):
                own = torch.tensor(WHOLE).repeat(length, 1)
                own[at] = lattice.boxes
                boxes.append(own if self.settings.tokens == "all" else lattice.boxes)
            inputs["boxes"] = (padded(boxes, 0) * UNITS).round().int()
            if self.settings.tokens == "patches":
                inputs["keep"] = padded([at for at, _ in places], 0)
                inputs["kept"] = padded([torch.ones_like(at) for at, _ in places], 0).bool()
                shape = [lattice.shape for _, lattice in places]
        if kind == "audio":
            spans = [self.reader.seconds(item) for item in items]
            inputs["seconds"] = (padded(spans, 0) * 1000).round().int()
        return Batch(inputs, tuple(shape), role)

    def forward(self, batch: Batch) -> TokenGrid:
        shape = batch.shape or ()
        if not len(batch):
            none = next(self.parameters()).new_zeros(0, 0, self.dim, dtype=self.dtype)
            nobody = none.new_zeros(0, self.dim) if self._pools else None
            return TokenGrid(none, none.new_zeros(0, 0, dtype=torch.bool), shape, nobody)
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        inputs: dict[str, Any] = {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in x.items()
            if name in self._accepts
        }
        rows, length = inputs["input_ids"].shape
        if self.family.positions == "flat":
            flat = torch.arange(length, device=self.device).view(1, 1, -1)
            inputs["position_ids"] = flat.expand(3, rows, -1)
        if "use_cache" in self._accepts:
            inputs["use_cache"] = False
        hidden = self.backbone(**inputs).last_hidden_state  # (B, L, H)
        mask = x["attention_mask"].bool()
        pooled: Tensor | None = None
        if self._pools:  # before the choice of tokens: it was trained over all of them
            total = hidden.float().masked_fill(~mask[..., None], 0).sum(1)
            pooled = (total / mask.sum(1, keepdim=True)).to(hidden.dtype)[:, : self.dim]
        if "keep" in x:
            hidden = hidden.gather(1, x["keep"][..., None].expand(-1, -1, hidden.shape[-1]))
            mask = x["kept"]
        tokens = self.projection(hidden).masked_fill(~mask[..., None], 0)  # (B, T, D)
        boxes = x["boxes"].float() / UNITS if "boxes" in x else None
        seconds = x["seconds"].float() / 1000 if "seconds" in x else None
        return TokenGrid(tokens, mask, shape, pooled, boxes, seconds)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Texts exactly; pages from their size, which is read from the file's header."""
        check_role(role)
        kind = self.reader.kind(raw)
        if kind == "page":
            from modalities.media import image_size

            return [self.reader.page_tokens(*image_size(item)) for item in raw]
        return [self.reader.read(item, kind, role)["input_ids"].shape[1] for item in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        """Image tokens by row and column ("r0c0", see `vlm_lattice.Cells`), sounds by their time
        ("1.20s"), all others as in the vocabulary, its signs for beginnings of words made plain:
        the prompt's own ("<|im_start|>", "Describe") too."""
        check_role(role)
        kind = self.reader.kind([item])
        prepared = self.reader.read(item, kind, role)
        names = self.reader.labels(item, prepared, kind)
        if kind == "page" and self.settings.tokens == "patches":
            return [names[place] for place in self.reader.places(prepared, item)[0].tolist()]
        return names

    def config(self) -> dict[str, Any]:
        return {**asdict(self.settings), "dtype": str(self.dtype).removeprefix("torch.")}

    def save(self, folder: Path) -> None:
        """As every encoder; the backbone's config and the processor in folders beside."""
        self.backbone.config.save_pretrained(Path(folder) / BACKBONE)
        self.processor.save_pretrained(str(Path(folder) / PROCESSOR))
        super().save(folder)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        from transformers import AutoConfig, AutoModel

        settings = from_config(VisionLanguageConfig, config)
        source = Path(folder) / BACKBONE
        for path in (source / "config.json", Path(folder) / PROCESSOR / "tokenizer_config.json"):
            if not path.is_file():
                raise ValueError(f"{path} is missing: the encoder is incomplete")
        form = AutoConfig.from_pretrained(str(source), local_files_only=True)
        backbone = AutoModel.from_config(form, dtype=getattr(torch, settings.dtype))
        processor = load_processor(FAMILIES[settings.family], Path(folder) / PROCESSOR)
        return cls(backbone, processor, settings)
