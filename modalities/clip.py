"""Both towers of an open_clip model: pictures as patch tokens, texts as word tokens, in one space.

    pictures -> ClipPictures ---> pixels --+                      +-> patches -+
                                           +-> clip_towers.Towers +            +-> TokenGrid
    texts ----> ClipTokenizer --> ids -----+                      +-> words ---+

The space is the one that the model was trained in, through each tower's own head (how: see
`modalities.clip_towers`), and `pooled` is what `encode_image` and `encode_text` give. Knows
open_clip; nothing of retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from modalities.clip_config import HUB, LOCAL, ClipConfig, check_size, make_model, model_config
from modalities.clip_pictures import ClipPictures, patch_boxes
from modalities.clip_tokenizer import ClipTokenizer
from modalities.clip_towers import Towers
from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid
from modalities.image import normalised, patch_labels
from modalities.media import as_image

if TYPE_CHECKING:
    from typing_extensions import Self

TEXT = "text"  # folder of the config of a transformers text tower


class OpenClip(Encoder):
    """Pictures (PIL images, or paths as `pathlib.Path`) and texts (str), as query and document
    alike. A str is always a text.

    A picture has one token a patch, (rows, cols) row by row, with boxes: the model may cut off what
    stands over at the long side (`ClipPictures`). A text has one token a word piece and its end
    token; what is longer than the model's context is cut off.
    """

    name = "open-clip"
    modality = "image"

    def __init__(
        self, model: Any, pictures: ClipPictures, tokenizer: ClipTokenizer, config: ClipConfig
    ) -> None:
        """model: a CLIP, CustomTextCLIP or CoCa of open_clip. Where config.dim is not its own width
        a projection follows both towers, fresh until weights are loaded. Raises ValueError where
        the parts do not go together."""
        super().__init__()
        self.settings = config
        self.dim = config.dim
        self.model = model
        self.pictures = pictures
        self.tokenizer = tokenizer
        self.towers = Towers(model)
        dtype = getattr(torch, config.dtype)
        model.to(dtype)
        self._check_texts()
        for name, parameter in model.named_parameters():  # scores and captions: not used here
            if name.startswith(("logit_scale", "logit_bias", "text_decoder.")):
                parameter.requires_grad_(False)
        training = model.training
        model.eval()
        with torch.no_grad():
            blank = torch.zeros(1, 3, *pictures.size, dtype=dtype)
            patches, self.lattice, _ = self.towers.pictures(blank)
            words, _ = self.towers.texts(tokenizer.ids([""]))
        model.train(training)
        width = patches.shape[-1]
        if words.shape[-1] != width:
            raise ValueError(
                f"pictures end in {width} numbers, texts in {words.shape[-1]}: no one space"
            )
        self.projection: nn.Module = nn.Identity()
        if width != config.dim:
            self.projection = nn.Linear(width, config.dim, bias=False, dtype=dtype)

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        pretrained: str | Literal[False] | None = None,
        *,
        dim: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """A model that open_clip knows, on the CPU, in eval mode.

        Args:
            name_or_folder: a folder in open_clip's layout (open_clip_config.json and weights;
                also written "local-dir:folder"), "hf-hub:owner/name", or a name of open_clip's own.
            pretrained: for a name of open_clip's own: a tag of its weights (fetched unless they are
                in the cache) or a file of weights; False: random weights, said explicitly.
            dim: None: the model's own space; another width: a fresh projection behind both towers,
                which must be trained.

        Raises:
            ValueError: no such model, tag or file; weights missing, left over or broken; a
                configuration that would run code or asks for more than any model has.
        """
        import open_clip

        source = str(name_or_folder)
        if not source.startswith((LOCAL, HUB)) and Path(source).expanduser().is_dir():
            source = f"{LOCAL}{Path(source).expanduser()}"
        whole = source.startswith((LOCAL, HUB))
        if whole and pretrained is not None:
            raise ValueError(
                f"{source} brings its own weights: pretrained goes with open_clip's names"
            )
        if not whole and pretrained is None:
            tags = open_clip.list_pretrained_tags_by_model(source)
            raise ValueError(
                f"{source}: say which weights: pretrained= one of {tags}, a file, or False for "
                "random ones"
            )
        config = model_config(source)
        if source.startswith(LOCAL):
            check_size(config, Path(source.removeprefix(LOCAL)))
        try:
            model = open_clip.create_model(
                source,
                pretrained=pretrained or None,
                load_weights=pretrained is not False,
                require_pretrained=pretrained is not False,
                pretrained_text=False,
            )
            tokenizer = open_clip.get_tokenizer(source)
        except Exception as error:  # of files from outside: nearly anything
            raise ValueError(f"{source}: open_clip cannot load it: {error}") from error
        return cls.from_model(model, tokenizer, config, dim=dim, dtype=dtype)

    @classmethod
    def from_model(
        cls,
        model: Any,
        tokenizer: Any,
        config: str | Mapping[str, Any],
        preprocess: Mapping[str, Any] | None = None,
        *,
        dim: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """From objects of open_clip; in eval mode. The model is kept, not copied.

        Args:
            model, tokenizer: as `open_clip.create_model` and `open_clip.get_tokenizer` give them.
            config: what the model was made from: its name, or the dictionary.
            preprocess: fields of `open_clip.transform.PreprocessCfg`; None: those that
                `open_clip.create_model` has left at the model.
            dim: as in `from_pretrained`.
        """
        import open_clip

        values = model_config(config) if isinstance(config, str) else deepcopy(dict(config))
        if preprocess is None:
            preprocess = open_clip.get_model_preprocess_cfg(model)
        pictures, texts = ClipPictures(preprocess), ClipTokenizer(tokenizer)
        settings = ClipConfig(
            model=values,
            preprocess=pictures.values(),
            tokenizer=texts.facts(),
            dim=int(values["embed_dim"]) if dim is None else dim,
            dtype=str(dtype).removeprefix("torch."),
        )
        return cls(model, pictures, texts, settings).eval()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """Of pictures: pixels (B, 3, H, W) uint8, not yet normalised, and boxes (B, T, 4); of
        texts: ids (B, L). Of both keep (B, T): places of the tokens that stay, in the lattice or in
        the ids, and mask (B, T): which of them are real.

        Raises ValueError for pictures and texts in one call, MediaError naming a file that cannot
        be read, TypeError for other items.
        """
        check_role(role)
        if self._kind(raw) == "image":
            return self._prepare_pictures(raw, role)
        rows = self._places(raw)
        length = max((places[-1] + 1 for _, places in rows), default=0)
        if rows and self.towers.whole_context:
            length = self.tokenizer.context_length
        keep, mask = _padded([torch.tensor(places) for _, places in rows])
        ids = torch.stack([ids[:length] for ids, _ in rows]) if rows else keep
        shape = tuple((1, len(places)) for _, places in rows)
        return Batch({"ids": ids, "keep": keep, "mask": mask}, shape, role)

    def _prepare_pictures(self, raw: Sequence[Any], role: Role) -> Batch:
        pixels, kept, boxes, shape = [], [], [], []
        for item in raw:
            flat, box = self.pictures(as_image(item))
            places, edges, own = patch_boxes(box, *self.lattice)
            pixels.append(flat)
            kept.append(places)
            boxes.append(edges)
            shape.append(own)
        keep, mask = _padded(kept)
        inputs = {
            "pixels": torch.from_numpy(np.stack(pixels)),
            "boxes": nn.utils.rnn.pad_sequence(boxes, batch_first=True),
            "keep": keep,
            "mask": mask,
        }
        return Batch(inputs, tuple(shape), role)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        shape, mask = batch.shape or (), x["mask"]
        if not len(batch):
            none = torch.zeros(0, 0, self.dim, dtype=self.dtype, device=self.device)
            return TokenGrid(none, mask, shape, none.sum(1))
        if "pixels" in x:
            cfg = self.pictures.cfg
            scaled = normalised(x["pixels"], cfg.mean, cfg.std, (3, 1, 1))
            every, _, pooled = self.towers.pictures(scaled.to(self.dtype))
        else:
            every, pooled = self.towers.texts(x["ids"])
        kept = every.gather(1, x["keep"][..., None].expand(-1, -1, every.shape[-1]))
        tokens = self.projection(kept).masked_fill(~mask[..., None], 0)  # (B, T, D)
        boxes = x["boxes"].float() if "boxes" in x else None
        return TokenGrid(tokens, mask, shape, self.projection(pooled), boxes)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Of a picture its patches, of a text the places that the text tower reads."""
        check_role(role)
        if self._kind(raw) == "image":
            return [self.lattice[0] * self.lattice[1]] * len(raw)
        if self.towers.whole_context:
            return [self.tokenizer.context_length] * len(raw)
        return [places[-1] + 1 for _, places in self._places(raw)]

    def labels(self, item: Any, role: Role) -> list[str]:
        """Of a picture row and column of each patch that stays ("r0c0"), of a text its word pieces,
        without signs for beginnings and ends, and "<end_of_text>"."""
        check_role(role)
        if self._kind([item]) == "text":
            ((ids, places),) = self._places([item])
            return [self.tokenizer.label(int(ids[place])) for place in places]
        _, box = self.pictures(as_image(item))
        return patch_labels(*patch_boxes(box, *self.lattice)[2])

    def config(self) -> dict[str, Any]:
        return {
            "model": deepcopy(self.settings.model),
            "preprocess": self.pictures.values(),
            "tokenizer": self.tokenizer.facts(),
            "dim": self.dim,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def save(self, folder: Path) -> None:
        """As every encoder; beside it the tokenizer's files and the text tower's configuration,
        where they are of transformers."""
        if self.towers.hf_text:
            self.model.text.config.save_pretrained(Path(folder) / TEXT)
        self.tokenizer.save(folder)
        super().save(folder)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        settings = from_config(ClipConfig, config)
        text = Path(folder) / TEXT
        check_size(settings.model, Path(folder), text)
        model = make_model(settings.model, text)
        pictures = ClipPictures(settings.preprocess)
        tokenizer = ClipTokenizer.load(settings.tokenizer, folder)
        return cls(model, pictures, tokenizer, settings)

    def _kind(self, raw: Sequence[Any]) -> Literal["image", "text"]:
        """What the items are, by their type; of none: text."""
        from PIL import Image

        if isinstance(raw, str):
            raise TypeError("items come as a sequence, not as one str")
        texts = [isinstance(item, str) for item in raw]
        if all(texts):
            return "text"
        if any(texts):
            raise ValueError("pictures and texts in one call: encode them apart")
        for item in raw:
            if not isinstance(item, (Image.Image, Path)):
                raise TypeError(
                    f"a picture is a PIL image or a Path, a text a str: not {type(item).__name__}"
                )
        return "image"

    def _places(self, raw: Sequence[Any]) -> list[tuple[Tensor, list[int]]]:
        """Ids of each text, padded to the context, and the places of the tokens that stay."""
        if not raw:
            return []
        causal = self.towers.causal
        return [(ids, self.tokenizer.places(ids, causal)) for ids in self.tokenizer.ids(raw)]

    def _check_texts(self) -> None:
        text = self.towers.text
        entries, length = int(text.vocab_size), int(text.context_length)
        asked = self.tokenizer.context_length
        if self.tokenizer.entries > entries:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.entries} entries, the text tower {entries}: "
                "they do not belong together"
            )
        fits = asked <= length or not length if self.towers.hf_text else asked == length
        if not fits:
            raise ValueError(f"the tokenizer's context is {asked}, the text tower's {length}")


def _padded(places: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Places of different numbers -> keep (B, T) long, padded with 0, and mask (B, T)."""
    if not places:
        return torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.bool)
    keep = nn.utils.rnn.pad_sequence(places, batch_first=True)
    counts = torch.tensor([len(own) for own in places])
    return keep, torch.arange(keep.shape[1])[None] < counts[:, None]
