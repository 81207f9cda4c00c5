"""Pictures in their own shapes through a NaFlex backbone of timm: a lattice of patches for each.

A picture is resized so that its patches cover it, nearly keep its shape, and are at most a given
number: a panorama has few rows and many columns. From NaViT (Dehghani et al. 2023,
arXiv:2307.06304), as in SigLIP 2's NaFlex models. Knows timm; nothing of retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid
from modalities.image import TimmImage, check_picture_config, normalised, patch_labels
from modalities.media import as_image, image_size, pixels
from modalities.timm_backbones import check_options, create, data_config, full_name, is_naflex

if TYPE_CHECKING:
    from typing_extensions import Self

PATCHES = 576  # timm's own default for evaluation
MAX_PATCHES = 16_384


@dataclass(frozen=True)
class NaFlexConfig:
    """What a NaFlexImage is, apart from its weights.

    max_patches: most patches of one picture, which every picture is enlarged or reduced to. Larger:
        finer detail, more tokens to keep; cost grows with it (of attention with its square).
    backbone, dim, mean, std, interpolation, dtype, options: as in `modalities.image.ImageConfig`.
    """

    backbone: str
    dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_patches: int = PATCHES
    interpolation: str = "bicubic"
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_picture_config(self.dim, self.mean, self.std, self.interpolation, self.dtype)
        check_options(self.options)
        if not 1 <= self.max_patches <= MAX_PATCHES:
            raise ValueError(f"max_patches must be 1 to {MAX_PATCHES}, not {self.max_patches}")


class NaFlexImage(Encoder):
    """Pictures (PIL images or paths) -> one token a patch, (rows, cols) of each picture's own.

    `pooled` is timm's own vector for the picture through the same projection.
    """

    name = "timm-naflex"
    modality = "image"

    def __init__(self, backbone: Any, config: NaFlexConfig) -> None:
        """backbone: a NaFlexVit of timm made with num_classes=0. ValueError for another, and for
        one that cannot read patches (a convolution as its first layer)."""
        super().__init__()
        if not is_naflex(backbone) or not backbone.embeds.is_linear:
            raise ValueError(
                f"{config.backbone} does not read pictures of any shape: choose a NaFlex backbone "
                "(timm.list_models('naflex*')), or TimmImage, which stretches pictures"
            )
        self.settings = config
        self.dim = config.dim
        self.backbone = backbone
        dtype = getattr(torch, config.dtype)
        backbone.to(dtype)
        rows, cols = backbone.embeds.patch_size
        self.patch_size = (int(rows), int(cols))
        """(height, width) of a patch, in pixels."""
        self.projection = nn.Linear(backbone.embed_dim, config.dim, bias=False, dtype=dtype)

    @classmethod
    def from_timm(
        cls,
        name: str,
        pretrained: bool = False,
        dim: int = 128,
        *,
        max_patches: int = PATCHES,
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A backbone by its timm name, with a fresh projection; in eval mode, on the CPU.

        pretrained: with timm's weights (needs the network or a filled cache), else random.
        max_patches, options: see NaFlexConfig.
        """
        backbone = create(name, None, pretrained, options)
        data = data_config(backbone)
        config = NaFlexConfig(
            backbone=full_name(backbone, name),
            dim=dim,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            max_patches=max_patches,
            interpolation=data["interpolation"],
            dtype=str(dtype).removeprefix("torch."),
            options=dict(options or {}),
        )
        return cls(backbone, config).eval()

    def lattice(self, width: int, height: int) -> tuple[int, int]:
        """(rows, cols) of the patches of a picture of this size in pixels."""
        from timm.data.naflex_transforms import get_image_size_for_seq

        _, (tall, wide) = get_image_size_for_seq(
            (height, width), self.patch_size, self.settings.max_patches
        )
        return tall // self.patch_size[0], wide // self.patch_size[1]

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """patches (B, N, rows * cols * 3) uint8, pixels row by row with their channels last; places
        (B, N, 2) row and column of each; mask (B, N) which are real.

        Raises MediaError naming a file that cannot be read, TypeError for other items.
        """
        check_role(role)
        flat = [self._patches(item) for item in raw]
        shape = tuple(found for _, found in flat)
        most = max((rows * cols for rows, cols in shape), default=0)
        tall, wide = self.patch_size
        patches = torch.zeros(len(flat), most, tall * wide * 3, dtype=torch.uint8)
        places = torch.zeros(len(flat), most, 2, dtype=torch.long)
        mask = torch.zeros(len(flat), most, dtype=torch.bool)
        for i, (own, (rows, cols)) in enumerate(flat):
            count = rows * cols
            patches[i, :count] = torch.from_numpy(own)
            places[i, :count, 0] = torch.arange(rows).repeat_interleave(cols)
            places[i, :count, 1] = torch.arange(cols).repeat(rows)
            mask[i, :count] = True
        return Batch({"patches": patches, "places": places, "mask": mask}, shape, role)

    def _patches(self, item: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """(rows * cols, tall * wide * 3) uint8 of one picture, and (rows, cols)."""
        image = as_image(item)
        rows, cols = self.lattice(*image.size)
        tall, wide = self.patch_size
        flat = pixels(image, (rows * tall, cols * wide), self.settings.interpolation)
        cut = flat.reshape(3, rows, tall, cols, wide).transpose(1, 3, 2, 4, 0)
        return np.ascontiguousarray(cut).reshape(rows * cols, -1), (rows, cols)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
        shape = batch.shape or ()
        if not len(batch):
            none = self.projection.weight.new_zeros(0, 0, self.dim)
            return TokenGrid(none, x["mask"], shape, none.sum(1))
        features = self.backbone.forward_features(
            self._scaled(x["patches"], x["mask"]).to(self.dtype),
            patch_coord=x["places"],
            patch_valid=x["mask"],
        )["patches"]  # (B, prefix + N, C)
        pooled = self.backbone.forward_head(features, pre_logits=True, patch_valid=x["mask"])
        tokens = self.projection(features[:, self.backbone.num_prefix_tokens :])  # (B, N, D)
        tokens = tokens.masked_fill(~x["mask"][..., None], 0)
        return TokenGrid(tokens, x["mask"], shape, self.projection(pooled))

    def _scaled(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Normalised patches (B, N, tall * wide * 3), zero where there is none."""
        cut = patches.unflatten(2, (*self.patch_size, 3))  # (B, N, tall, wide, 3)
        scaled = normalised(cut, self.settings.mean, self.settings.std, (3,))
        if not self.backbone.embeds.channels_last:
            scaled = scaled.permute(0, 1, 4, 2, 3)
        return scaled.flatten(2).masked_fill(~mask[..., None], 0)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Exact: rows * cols of each picture, from its file's header."""
        check_role(role)
        lattices = [self.lattice(*image_size(item)) for item in raw]
        return [rows * cols for rows, cols in lattices]

    def labels(self, item: Any, role: Role) -> list[str]:
        """Row and column of each patch from the top left: "r0c0", "r0c1", ..."""
        check_role(role)
        return patch_labels(*self.lattice(*image_size(item)))

    def config(self) -> dict[str, Any]:
        return {**asdict(self.settings), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        settings = from_config(NaFlexConfig, config)
        return cls(create(settings.backbone, None, False, settings.options), settings)


def image_encoder(
    name: str, pretrained: bool = False, dim: int = 128, **options: Any
) -> TimmImage | NaFlexImage:
    """The encoder for a timm backbone: NaFlexImage where the backbone reads any shape, else
    TimmImage. options: of its `from_timm`."""
    from timm.models import model_entrypoint

    from modalities.timm_backbones import check_name

    check_name(name)
    of_naflex = model_entrypoint(name).__module__.endswith(".naflexvit")
    kind: type[TimmImage | NaFlexImage] = NaFlexImage if of_naflex else TimmImage
    return kind.from_timm(name, pretrained, dim, **options)
