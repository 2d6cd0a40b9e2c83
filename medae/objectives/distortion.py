"""What restoration does to scans: mirror images, nonlinear intensities, shuffled windows, painted windows.

In every function: x is a batch's normalised intensities ``[B, C, *S]`` float32. inside: bool of the same shape, true in
the foreground of channels that are present; nothing outside it changes. chosen: bool ``[B]`` on the CPU, the samples that
change; the others come back as they were. Random numbers are drawn on the CPU: they are the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from medae.augmentation.draws import Draws
from medae.augmentation.foreground import TINY, limits
from medae.seeding import Draw

CURVE_POINTS = 256
AGAIN = 0.95
"""Probability that one more window is painted, or kept, after the last one."""
MOST_WINDOWS = 5
PAINTED_EDGES, KEPT_EDGES = (1 / 6, 1 / 3), (3 / 7, 4 / 7)


def mirror(x: Tensor, chosen: Tensor, axis: Tensor) -> Tensor:
    """The chosen samples mirrored along one spatial axis each. axis: int ``[B]`` on the CPU, 0 is the first of S."""
    for place in range(x.ndim - 2):
        turned = _spread(chosen & (axis == place), x)
        x = torch.where(turned, x.flip(place + 2), x)
    return x


def nonlinear(x: Tensor, inside: Tensor, chosen: Tensor, draw: Draw, slices: int = 1) -> Tensor:
    """Intensities through a random monotone curve, a channel its own, that keeps the foreground's range.

    slices: that the channels are of, one after the other; a channel has one curve in all of them.

    The curve is a cubic Bézier from (0, 0) to (1, 1) whose control points lie anywhere in the unit square, which makes it
    monotone; half of the curves are turned over, so that bright becomes dark.
    """
    count, channels = x.shape[0], x.shape[1] // slices
    controls = draw.scoped("curve").uniform(count, (channels, 2, 2))
    falling = draw.scoped("falling").uniform(count, (channels, 1)) < 0.5
    rising = _monotone(controls)
    curve = torch.where(falling, 1 - rising, rising).repeat(1, slices, 1).to(x.device)
    lowest, highest = foreground_range(x, inside)
    share = ((x - lowest) / (highest - lowest).clamp_min(TINY)).clamp(0, 1).flatten(2)
    place = share * (CURVE_POINTS - 1)
    left = place.long().clamp_max(CURVE_POINTS - 2)
    start, step = (table.gather(2, left) for table in (curve, curve.diff(dim=2)))
    curved = (start + step * (place - left)).unflatten(2, x.shape[2:])
    return torch.where(_spread(chosen, x) & inside, lowest + (highest - lowest) * curved, x)


def shuffle(x: Tensor, inside: Tensor, chosen: Tensor, draw: Draw, share: float) -> Tensor:
    """Voxels trade places within small windows, all channels together.

    Windows tile the patch from a random corner; their edges are 2 voxels up to ``share`` of the patch, drawn along each axis
    for each sample. Foreground trades with foreground only.
    """
    result = x.clone()
    size = x.shape[2:]
    for b in chosen.nonzero()[:, 0].tolist():
        own = replace(draw, first=draw.first + b)
        window = _windows_of_a_tiling(size, share, own.scoped("tiling"), x.device)
        group = (2 * window + inside[b].any(0)).flatten()
        keys = own.scoped("order").uniform(1, (math.prod(size),)).to(x.device)[0]
        mixed = (keys * 2**24).int().argsort(stable=True)  # integers sort many times faster than floats
        places, sources = group.argsort(stable=True), mixed[group[mixed].argsort(stable=True)]
        flat = x[b].flatten(1)
        moved = torch.empty_like(flat).scatter(1, places.expand_as(flat), flat[:, sources]).view_as(x[b])
        result[b] = torch.where(inside[b], moved, x[b])
    return result


def paint(x: Tensor, inside: Tensor, chosen: Tensor, draw: Draw, outside: float) -> Tensor:
    """Uniform noise over the foreground's range in the place of a few windows, or of all but a few larger ones.

    outside: share of the samples that are painted around their windows instead of in them.
    """
    count, size = x.shape[0], tuple(x.shape[2:])
    around = draw.scoped("around").uniform(count) < outside
    painted = random_windows(draw.scoped("inner"), count, size, MOST_WINDOWS, PAINTED_EDGES, x.device)
    kept = random_windows(draw.scoped("outer"), count, size, MOST_WINDOWS, KEPT_EDGES, x.device)
    covered = torch.where(_spread(around, x), ~kept, painted) & _spread(chosen, x)
    lowest, highest = foreground_range(x, inside)
    places = chosen.nonzero()[:, 0].tolist()
    noise = torch.zeros_like(x)
    if places:
        noise[places] = Draws(draw.scoped("noise"), places, x.device).uniform(*x.shape[1:])
    return torch.where(covered & inside, lowest + (highest - lowest) * noise, x)


def random_windows(
    draw: Draw, count: int, size: tuple[int, ...], most: int, edges: tuple[float, float], device: torch.device
) -> Tensor:
    """The union of one to ``most`` boxes a sample: bool ``[count, 1, *size]``, true within.

    edges: least and largest edge as a share of the patch, along each axis on its own; at least one voxel.
    """
    low, high = edges
    extent = torch.tensor(size)
    lengths = low + (high - low) * draw.scoped("edges").uniform(count, (most, len(size)))
    lengths = (lengths * extent).round().clamp_min(1)
    starts = (draw.scoped("starts").uniform(count, (most, len(size))) * (extent - lengths + 1)).floor()
    there = draw.scoped("again").uniform(count, (most,)) < AGAIN
    there[:, 0] = True
    within = there.long().cumprod(1).bool().to(device).reshape(count, most, *[1] * len(size))
    for axis, length in enumerate(size):
        place = torch.arange(length, device=device)
        start, edge = (value[..., axis, None].to(device) for value in (starts, lengths))
        along = (place >= start) & (place < start + edge)
        within = within & along.reshape(count, most, *(length if a == axis else 1 for a in range(len(size))))
    return within.any(1, keepdim=True)


def foreground_range(x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum inside the foreground, ``[B, C, 1, ..]``; both 0 where there is none."""
    lowest, highest = limits(x, inside)
    there = lowest <= highest
    return torch.where(there, lowest, 0.0), torch.where(there, highest, 0.0)


def _monotone(controls: Tensor) -> Tensor:
    """Heights of Bézier curves above CURVE_POINTS even steps from 0 to 1, ``[B, C, CURVE_POINTS]``.

    controls: x and y of the two inner control points, ``[B, C, 2, 2]`` with the point before the coordinate.
    """
    t = torch.linspace(0, 1, CURVE_POINTS)
    first, second = controls[..., 0, :, None], controls[..., 1, :, None]
    across, up = (3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3).unbind(2)
    right = torch.searchsorted(across.contiguous(), t.expand_as(across).contiguous()).clamp(1, CURVE_POINTS - 1)
    start, stop = across.gather(2, right - 1), across.gather(2, right)
    weight = ((t - start) / (stop - start).clamp_min(TINY)).clamp(0, 1)
    return torch.lerp(up.gather(2, right - 1), up.gather(2, right), weight)


def _windows_of_a_tiling(size: tuple[int, ...], share: float, draw: Draw, device: torch.device) -> Tensor:
    """The number of the window that each voxel lies in, int32 ``[*size]``."""
    number = torch.zeros((), dtype=torch.int32, device=device)
    for length, (edge_draw, corner_draw) in zip(size, draw.uniform(1, (len(size), 2))[0].tolist(), strict=True):
        largest = min(length, max(2, math.ceil(share * length)))
        edge = 1 if largest == 1 else 2 + int(edge_draw * (largest - 1))
        along = (torch.arange(length, dtype=torch.int32, device=device) + int(corner_draw * edge)) // edge
        number = number[..., None] * (length // edge + 2) + along
    return number


def _spread(flags: Tensor, x: Tensor) -> Tensor:
    """``[B]`` on the CPU as ``[B, 1, ..]`` beside ``x``."""
    return flags.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
