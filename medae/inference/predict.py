"""A network's maps of a whole scan, on the plan grid: windows, test-time flips, blending."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn
from torch.nn import functional

from medae.errors import GeometryError
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared


def predict_maps(
    model: nn.Module,
    prepared: Prepared,
    plan: Plan,
    *,
    device: torch.device | str,
    mirrored: Sequence[int] = (),
    activation: Literal["softmax", "none"] = "softmax",
    patch: Sequence[int] | None = None,
    overlap: float = 0.5,
    batch: int = 4,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Tensor:
    """The maps of a scan, float32 ``[K, I, J, K]`` on the CPU, on the voxels of ``prepared``.

    model: takes ``[B, C, *S]`` (``[B, slices x C, *S]`` where the plan has several slices at a time) and returns an Output,
    whose finest map counts; it is put into evaluation mode for the time of the call. device: where it is and where windows
    are put together.
    patch: the window along the spatial dimensions, default that of the plan. A scan smaller than the window is padded with
    zeros on both sides, as in training. One larger is covered by windows that overlap by the share ``overlap``
    and are blended with Gaussian weights; where one window suffices, its values are the result, bit for bit.
    In 2D the slices across the plan's slice axis are windows of their own. mirrored: average over the mirror images along
    every combination of these spatial axes, counted from 0, after the activation. batch: windows a forward pass.
    precision: of the forward pass; activation and blending are in float32.
    Raises GeometryError if the window does not have an entry a spatial dimension.
    """
    space = plan.space
    window = tuple(plan.sampling.patch if patch is None else patch)
    if len(window) != space.spatial_dims:
        raise GeometryError(
            f"A window of {len(window)} entries does not fit {space.spatial_dims} spatial dimensions.",
            remedy="Give one entry a spatial dimension of the plan.",
        )
    image = prepared.image[None] if space.slice_axis is None else by_slice(prepared.image, space.slice_axis, space.slices)
    fits = all(size <= extent for size, extent in zip(image.shape[2:], window, strict=True))
    inferer = SlidingWindowInferer(
        roi_size=window,
        sw_batch_size=batch,
        overlap=overlap,
        mode="constant" if fits else "gaussian",
        sw_device=device,
        device=device,
    )

    def of_windows(x: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            maps = model(x).finest
        # a tensor of its own, because the inferer weights it in place
        return maps.float().softmax(dim=1) if activation == "softmax" else maps.float().clone()

    axes = tuple(2 + axis for axis in mirrored)
    with _evaluating(model), torch.inference_mode():
        maps = inferer(image, lambda x: _with_mirror_images(of_windows, x, axes))
    assembled = torch.as_tensor(maps).cpu()
    return assembled[0] if space.slice_axis is None else assembled.movedim(0, 1 + space.slice_axis)


def by_slice(image_CIJK: Tensor, axis: int, slices: int) -> Tensor:
    """A volume's slices ``[N, slices x C, *S]``, each with its neighbours on both sides, zero beyond the ends."""
    planes, beside = image_CIJK.movedim(1 + axis, 0), slices // 2
    padded = functional.pad(planes, (*(0, 0) * (planes.ndim - 1), beside, beside))
    return torch.cat([padded[place : place + len(planes)] for place in range(slices)], dim=1)


def _with_mirror_images(predict: Callable[[Tensor], Tensor], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The average over the mirror images along all combinations of axes. In pairs, because the average of two equal
    numbers is that number, which the average of eight by a running sum is not."""
    if not axes:
        return predict(x)
    axis, *rest = axes
    plain = _with_mirror_images(predict, x, tuple(rest))
    mirrored = _with_mirror_images(predict, x.flip(axis), tuple(rest)).flip(axis)
    return (plain + mirrored) / 2


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
