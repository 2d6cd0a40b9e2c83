"""Mixed precision: the network's pass in 16 bits, everything else in 32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medae.errors import ConfigError
from medae.models.output import Output

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that a device computes in. ``auto``: bf16 in hardware, else fp16 on CUDA, else fp32.

    Raises ConfigError for fp16 off CUDA, where it is slower than fp32 and needs its gradients scaled for nothing.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("fp16 needs a CUDA device.", where="fit.precision", remedy="Choose auto, bf16 or fp32.")
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.10 does not tell: fp32
    if device.type == "cpu" and capabilities.get("avx512_bf16", False):
        return torch.bfloat16
    return torch.float32


class MixedPrecision(nn.Module):
    """A network whose forward pass runs in ``dtype`` and whose Output is float32 again.

    Objectives therefore compute in fp32: an SSIM or a Dice sum in bf16 would be noise.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.device_type = device.type

    def forward(self, *args: Any, **kwargs: Any) -> Output:
        """What the network returns, as float32."""
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            output: Output = self.network(*args, **kwargs)
        return replace(
            output,
            maps=tuple(_float(each) for each in output.maps),
            latent=None if output.latent is None else _float(output.latent),
            extras={name: _float(each) for name, each in output.extras.items()},
        )


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
