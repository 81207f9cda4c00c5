"""Pictures through a timm backbone: a lattice of patch tokens, row by row.

Works with backbones that give tokens (ViT and its kin: class and register tokens are removed) and
with those that give feature maps (ConvNeXt, EfficientNet, ResNet, Swin ...). Pictures are stretched
to one size; `modalities.naflex` keeps their shapes. Knows nothing of retrieval.
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
from modalities.media import as_image, pixels
from modalities.timm_backbones import check_options, create, data_config, full_name, lattice

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_SIDE = 8192  # pixels of image_size, which may come from a file
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class ImageConfig:
    """What a TimmImage is, apart from its weights.

    backbone: a name of timm, with its tag ("vit_small_patch16_224.augreg_in21k").
    dim: width of the tokens.
    image_size: (height, width) that every picture is stretched to. Larger: more patches, finer
        detail, cost grows with the area (of attention with its square).
    mean, std: per channel, of pixels in 0..1; interpolation: of the stretching. As the backbone
        was trained (timm's data config).
    dtype: of the weights.
    options: arguments of the timm model beside its name ({"global_pool": "avg"}), JSON values.
    """

    backbone: str
    dim: int
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_picture_config(self.dim, self.mean, self.std, self.interpolation, self.dtype)
        check_options(self.options)
        if len(self.image_size) != 2 or not all(1 <= s <= MAX_SIDE for s in self.image_size):
            raise ValueError(
                f"image_size must be (height, width) of 1 to {MAX_SIDE}, not {self.image_size}"
            )


class TimmImage(Encoder):
    """Pictures (PIL images or paths) -> one token a patch, (rows, cols) in row-major order.

    A picture is stretched to the backbone's input size, whole, as query and as document alike.
    `pooled` is timm's own vector for the picture (class token, attention pool or mean, whichever
    the backbone was trained with) through the same projection; None where its width differs.
    """

    name = "timm-image"
    modality = "image"

    def __init__(self, backbone: Any, config: ImageConfig) -> None:
        """backbone: a timm model made with num_classes=0 for config.image_size. It is run once,
        on a blank picture, to see its lattice. Raises ValueError where it has none."""
        super().__init__()
        self.settings = config
        self.dim = config.dim
        self.backbone = backbone
        dtype = getattr(torch, config.dtype)
        backbone.to(dtype)
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            blank = torch.zeros(1, 3, *config.image_size, dtype=dtype)
            features = self.backbone.forward_features(blank)
            patches, self.lattice = lattice(backbone, features)
            pooled = self.backbone.forward_head(features, pre_logits=True)
        backbone.train(training)
        width = patches.shape[-1]
        self.pools = pooled.shape == (1, width)
        self.projection = nn.Linear(width, config.dim, bias=False, dtype=dtype)

    @classmethod
    def from_timm(
        cls,
        name: str,
        pretrained: bool = False,
        dim: int = 128,
        *,
        image_size: tuple[int, int] | None = None,
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A backbone by its timm name, with a fresh projection; in eval mode, on the CPU.

        pretrained: with timm's weights (needs the network or a filled cache), else random.
        image_size: (height, width) of the input; None: as the backbone was trained. Backbones
            with learned positions get them interpolated.
        options: see ImageConfig.
        """
        backbone = create(name, image_size, pretrained, options)
        data = data_config(backbone)
        config = ImageConfig(
            backbone=full_name(backbone, name),
            dim=dim,
            image_size=image_size or data["input_size"][1:],
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            dtype=str(dtype).removeprefix("torch."),
            options=dict(options or {}),
        )
        return cls(backbone, config).eval()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """Pixels (B, 3, H, W) uint8, not yet normalised (a quarter of the bytes to move).

        Raises MediaError naming a file that cannot be read, TypeError for other items.
        """
        check_role(role)
        size = self.settings.image_size
        flat = [pixels(as_image(item), size, self.settings.interpolation) for item in raw]
        stacked = np.stack(flat) if flat else np.zeros((0, 3, *size), dtype=np.uint8)
        return Batch({"pixels": torch.from_numpy(stacked)}, (self.lattice,) * len(flat), role)

    def forward(self, batch: Batch) -> TokenGrid:
        inputs = batch.inputs["pixels"].to(self.device)
        shape = (self.lattice,) * len(inputs)
        if not len(inputs):
            none = self.projection.weight.new_zeros(0, 0, self.dim)
            return TokenGrid(none, none.any(-1), shape, none.sum(1) if self.pools else None)
        scaled = normalised(inputs, self.settings.mean, self.settings.std, (3, 1, 1))
        features = self.backbone.forward_features(scaled.to(self.dtype))
        patches, _ = lattice(self.backbone, features)
        tokens = self.projection(patches)  # (B, rows * cols, D)
        pooled = None
        if self.pools:
            pooled = self.projection(self.backbone.forward_head(features, pre_logits=True))
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return TokenGrid(tokens, mask, shape, pooled)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """Exact, and the same for all: rows * cols."""
        check_role(role)
        return [self.lattice[0] * self.lattice[1]] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        """Row and column of each patch from the top left: "r0c0", "r0c1", ..."""
        check_role(role)
        return patch_labels(*self.lattice)

    def config(self) -> dict[str, Any]:
        return {**asdict(self.settings), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        settings = from_config(ImageConfig, config)
        backbone = create(settings.backbone, settings.image_size, False, settings.options)
        return cls(backbone, settings)


def normalised(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], channels: tuple[int, ...]
) -> Tensor:
    """Pixels 0..255 of any shape -> (pixels / 255 - mean) / std by channel, in float32.

    channels: shape that mean and std are broadcast from, (3, 1, 1) for (..., 3, H, W). In float32
    even where the weights are not: 8 bits of mantissa cannot hold 256 levels.
    """
    middle, spread = torch.tensor([mean, std], dtype=torch.float32, device=pixels.device)
    return (pixels.float() / 255 - middle.view(channels)) / spread.view(channels)


def patch_labels(rows: int, cols: int) -> list[str]:
    """Row and column of each patch from the top left: "r0c0", "r0c1", ..."""
    return [f"r{r}c{c}" for r in range(rows) for c in range(cols)]


def check_picture_config(
    dim: int, mean: Sequence[float], std: Sequence[float], interpolation: str, dtype: str
) -> None:
    """Raises ValueError for values that no encoder of pictures can have."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, not {dim}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must be 3 numbers, std > 0: {mean}, {std}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"unknown interpolation {interpolation!r}: one of {INTERPOLATIONS}")
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"unknown dtype {dtype!r}")
