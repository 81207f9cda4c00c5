"""Pictures through a timm backbone: a lattice of patch tokens, row by row.

Works with backbones that give tokens (ViT and its kin: class and register tokens are removed) and
with those that give feature maps (ConvNeXt, ResNet, Swin ...). Knows timm; nothing of retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modalities.encoder import Batch, Encoder, Role, check_role, from_config
from modalities.grid import TokenGrid
from modalities.media import as_image, pixels

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_SIDE = 8192  # pixels of image_size, which may come from a file


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
    """

    backbone: str
    dim: int
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if len(self.image_size) != 2 or not all(1 <= s <= MAX_SIDE for s in self.image_size):
            raise ValueError(
                f"image_size must be (height, width) of 1 to {MAX_SIDE}, not {self.image_size}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std must be 3 numbers, std > 0: {self.mean}, {self.std}")
        if self.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
            raise ValueError(f"unknown interpolation {self.interpolation!r}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {self.dtype!r}")


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
            patches, self.lattice = self._lattice(features)
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
    ) -> Self:
        """A backbone by its timm name, with a fresh projection; in eval mode, on the CPU.

        pretrained: with timm's weights (needs the network or a filled cache), else random.
        image_size: (height, width) of the input; None: as the backbone was trained. Backbones
            with learned positions get them interpolated.
        """
        backbone = _create(name, image_size, pretrained)
        data = _data_config(backbone)
        cfg = backbone.pretrained_cfg
        tag = f".{cfg['tag']}" if cfg.get("tag") else ""
        config = ImageConfig(
            backbone=f"{cfg.get('architecture') or name.split('.')[0]}{tag}",
            dim=dim,
            image_size=image_size or data["input_size"][1:],
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            dtype=str(dtype).removeprefix("torch."),
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
        # in fp32 even where the weights are not: 8 bits of mantissa cannot hold 256 levels
        mean, std = inputs.new_tensor([self.settings.mean, self.settings.std], dtype=torch.float32)
        scaled = (inputs.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        features = self.backbone.forward_features(scaled.to(self.dtype))
        patches, _ = self._lattice(features)
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
        rows, cols = self.lattice
        return [f"r{r}c{c}" for r in range(rows) for c in range(cols)]

    def config(self) -> dict[str, Any]:
        return {**asdict(self.settings), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        settings = from_config(ImageConfig, config)
        return cls(_create(settings.backbone, settings.image_size, False), settings)

    def _lattice(self, features: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Features of any backbone -> patches (B, rows * cols, C) in row-major order."""
        if features.dim() == 4:
            if str(getattr(self.backbone, "output_fmt", "NCHW")).upper().endswith("NHWC"):
                features = features.permute(0, 3, 1, 2)
            rows, cols = features.shape[2:]
            return features.flatten(2).transpose(1, 2), (rows, cols)
        if features.dim() == 3:
            patches = features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
            grid = getattr(getattr(self.backbone, "patch_embed", None), "grid_size", None)
            if grid is not None and grid[0] * grid[1] == patches.shape[1]:
                return patches, (int(grid[0]), int(grid[1]))
        raise ValueError(
            f"{self.settings.backbone} gives features {tuple(features.shape)} without a lattice of "
            "patches: choose a backbone with patch tokens (ViT) or a feature map (ConvNeXt)"
        )


def _create(name: str, image_size: tuple[int, int] | None, pretrained: bool) -> Any:
    """A timm model without classifier. Names of hubs and folders are refused: a saved encoder
    comes from outside and must not reach for the network."""
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3)
        hint = f": did you mean one of {near}?" if near else ""
        raise ValueError(f"timm has no model {name!r}{hint} (timm.list_models() lists them)")
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    options: dict[str, Any] = {}
    # A backbone that takes any size has no such argument; the others are built for one.
    if image_size and cfg and cfg.fixed_input_size and tuple(cfg.input_size[1:]) != image_size:
        options["img_size"] = image_size
    return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)


def _data_config(backbone: Any) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    data: dict[str, Any] = resolve_model_data_config(backbone)
    if data["input_size"][0] != 3:
        raise ValueError(f"the backbone reads {data['input_size'][0]} channels; pictures have 3")
    return data
