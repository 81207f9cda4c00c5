"""EfficientNet-Lite0 as a feature map: a picture's pixels to what each part of it looks like.

The convolutions of Tan and Le's EfficientNet-Lite0 with their batch norms folded in, so that the
net is small and quick on a CPU (390 MMAC a picture of 224 x 224) and loads without timm. Knows
pixels and channels; no words and no retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224  # pixels of the square that a picture is stretched to
CELLS = 7  # rows and columns of the feature map
FINE, COARSE, WIDE = 112, 320, 1280  # channels at stride 16, at stride 32, and of the last layer
CLASSES = 1000  # of ImageNet-1k
MEAN, SPREAD = 127.5, 127.5
# repeats, kernel, stride, expansion, channels of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, FINE),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, COARSE),
)
FINE_STAGE = 4
EPSILON = 1e-3  # of the batch norms that were folded


class _Conv(nn.Conv2d):
    """A convolution padded as TensorFlow does ("same": the odd pixel right and below), ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, deep: bool = False,
        linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(inputs, outputs, kernel, stride, groups=inputs if deep else 1)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            total = max(kernel - stride, 0) if x.shape[-1] % stride == 0 else kernel - 1
            low = total // 2
            x = F.pad(x, (low, total - low, low, total - low))
        x = super().forward(x)
        return x if self.linear else F.relu6(x)


class _Block(nn.Sequential):
    """Inverted residual: wider, along each channel, narrower; added to its input where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, wider: int) -> None:
        middle = inputs * wider
        first = [_Conv(inputs, middle, 1)] if wider > 1 else []
        super().__init__(
            *first,
            _Conv(middle, middle, kernel, stride, deep=True),
            _Conv(middle, outputs, 1, linear=True),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = cast(Tensor, super().forward(x))
        return x + out if self.adds else out


class LiteNet(nn.Module):
    """Pixels (B, 3, SIDE, SIDE) -> a lattice of CELLS x CELLS. 4.6 million parameters with the
    classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 32, 3, 2)
        stages, channels = [], 32
        for repeats, kernel, stride, wider, outputs in STAGES:
            blocks = []
            for repeat in range(repeats):
                blocks.append(_Block(channels, outputs, kernel, stride if not repeat else 1, wider))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.last = nn.Linear(COARSE, WIDE)
        self.classes = nn.Linear(WIDE, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, SIDE, SIDE) uint8 -> features (B, CELLS * CELLS, COARSE + FINE), row by row: the
        last stage's, and the mean of those of stride 16 that lie in the same cell."""
        weight = self.stem.weight
        x = (pixels.to(weight.device, torch.float32) - MEAN) / SPREAD
        x = self.stem(x.to(weight.dtype).contiguous(memory_format=torch.channels_last))
        fine = x
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number == FINE_STAGE:
                fine = F.avg_pool2d(x, 2)
        return torch.cat([x, fine], 1).flatten(2).transpose(1, 2)

    def wide(self, features: Tensor) -> Tensor:
        """What ImageNet's classifier reads of each cell: (..., COARSE + FINE) -> (..., WIDE)."""
        return F.relu6(self.last(features[..., :COARSE]))


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LiteNet's weights from a checkpoint of EfficientNet-Lite0 (timm's names or those of
    `efficientnet-lite-pytorch`): convolutions and norms in the order of the layers.

    Raises ValueError where it is of another net.
    """
    own = LiteNet()
    layers = [m for m in (own.stem, *own.stages.modules()) if isinstance(m, _Conv)]
    targets: list[nn.Module] = [*layers, own.last]
    there = [(k, v) for k, v in state.items() if not k.endswith("num_batches_tracked")]
    wanted = 5 * len(targets) + 2  # a convolution, four of its norm; the classifier
    if len(there) != wanted:
        raise ValueError(f"{len(there)} tensors, EfficientNet-Lite0 has {wanted}")
    names = {id(m): name for name, m in own.named_modules()}
    out: dict[str, Tensor] = {}
    for place, layer in enumerate(targets):
        weight, gain, shift, mean, variance = (v.float() for _, v in there[5 * place :][:5])
        scale = gain / torch.sqrt(variance + EPSILON)
        shape = cast(Tensor, layer.weight).shape
        weight = weight * scale[:, None, None, None]
        if weight.numel() != shape.numel():
            raise ValueError(f"{there[5 * place][0]} has shape {tuple(weight.shape)}, not {shape}")
        out[f"{names[id(layer)]}.weight"] = weight.reshape(shape).contiguous()
        out[f"{names[id(layer)]}.bias"] = shift - mean * scale
    out["classes.weight"], out["classes.bias"] = there[-2][1].float(), there[-1][1].float()
    return out
