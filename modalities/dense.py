"""Dense layers behind a backbone: a linear map, an activation, perhaps a way around both.

What sentence-transformers and PyLate keep in `1_Dense`, `2_Dense` ...; several may follow one
another. Knows matrices only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU),
        *(nn.SELU, nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Mish, nn.Softplus),
        *(nn.Softsign, nn.LogSigmoid, nn.Tanhshrink),
    )
}
"""torch's activations without weights, each as made without arguments, by name"""

MAX_FEATURES = 1_000_000  # of a layer, either side; sizes may come from a file


@dataclass(frozen=True)
class DenseConfig:
    """One layer: activation(x W^T + bias), plus x where `residual` (through a matrix of its own
    where the widths differ). activation: a name of ACTIVATIONS."""

    in_features: int
    out_features: int
    bias: bool = False
    activation: str = "Identity"
    residual: bool = False

    def __post_init__(self) -> None:
        for name in ("in_features", "out_features"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= MAX_FEATURES:
                raise ValueError(f"{name} must be 1 to {MAX_FEATURES}, not {value!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}; known: {sorted(ACTIVATIONS)}"
            )


class Dense(nn.Module):
    """(..., in_features) -> (..., out_features)."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.in_features, config.out_features, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.residual: nn.Linear | None = None
        self.adds = config.residual
        if config.residual and config.in_features != config.out_features:
            self.residual = nn.Linear(config.in_features, config.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.linear(x))
        if not self.adds:
            return out
        return out + (x if self.residual is None else self.residual(x))


def check_chain(layers: tuple[DenseConfig, ...], width: int, dim: int) -> None:
    """Raises ValueError unless the layers lead from `width` to `dim`."""
    at = width
    for i, layer in enumerate(layers):
        if layer.in_features != at:
            raise ValueError(
                f"dense layer {i} wants width {layer.in_features}, what comes has {at}"
            )
        at = layer.out_features
    if at != dim:
        raise ValueError(f"dim is {dim}, the dense layers end in {at}")


def chain(
    layers: tuple[DenseConfig, ...] | None, width: int, dim: int, dtype: torch.dtype
) -> nn.Module:
    """The module that leads from the backbone's width to `dim`. None: one linear map without bias;
    (): nothing; else the layers in a row. Raises ValueError where widths do not fit."""
    if layers is None:
        return nn.Linear(width, dim, bias=False, dtype=dtype)
    check_chain(layers, width, dim)
    return nn.Sequential(*(Dense(layer) for layer in layers)).to(dtype)
