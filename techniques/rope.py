"""Rotary position frequencies for any set of times, heights and widths (Su et al., RoFormer; axis split as in Wan 2.1).

Stateless: frequencies are computed from the positions asked for and nothing is kept, since a table cached by length
alone is the bug that breaks lookahead anchors. Times are float64 on the way in, the frequencies float32 whatever the
model dtype.
"""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Axes = tuple[float, float, float]   # time, height, width


def rotation(positions: Tensor, dim: int, theta: float = 10000.0) -> Tensor:
    """(N,) positions -> (N, dim / 2, 2, 2) rotation matrices of one axis, float32, computed in the positions' dtype."""
    frequency = theta ** -torch.linspace(0, (dim - 2) / dim, dim // 2, dtype=torch.float64, device=positions.device)
    angle = positions[:, None] * frequency.to(positions.dtype)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine, -sine, sine, cosine], dim=-1).unflatten(-1, (2, 2)).float()


def rope_frequencies(times: Sequence[float], height: int, width: int, axes_dim: Sequence[int], *,
                     theta: float = 10000.0, scale: Axes = (1.0, 1.0, 1.0), shift: Axes = (0.0, 0.0, 0.0),
                     device: torch.device | None = None) -> Tensor:
    """Frequencies for latent frames at `times`, each with `height` x `width` tokens -> (1, T*H*W, 1, sum(axes_dim)/2,
    2, 2).

    `axes_dim` is how the head dimension is split between time, height and width; `scale` and `shift` act on those
    three axes alike (position * scale + shift).
    """
    axes = (torch.as_tensor(times, dtype=torch.float64, device=device),
            torch.arange(height, dtype=torch.float64, device=device),
            torch.arange(width, dtype=torch.float64, device=device))
    shape = (len(times), height, width)
    parts = []
    for axis, positions in enumerate(axes):
        part = rotation(positions * scale[axis] + shift[axis], axes_dim[axis], theta)
        view = [1, 1, 1]
        view[axis] = shape[axis]
        parts.append(part.reshape(*view, *part.shape[1:]).expand(*shape, *part.shape[1:]))
    return torch.cat(parts, dim=3).reshape(1, len(times) * height * width, 1, -1, 2, 2)


def rope_frequencies_at(places: Tensor, axes_dim: Sequence[int], *, theta: float = 10000.0,
                        scale: Axes = (1.0, 1.0, 1.0), shift: Axes = (0.0, 0.0, 0.0)) -> Tensor:
    """As `rope_frequencies`, for loose tokens: places (N, 3), time, row and column -> (1, N, 1, sum(axes_dim)/2, 2,
    2)."""
    parts = [rotation(places[:, axis] * scale[axis] + shift[axis], axes_dim[axis], theta) for axis in range(3)]
    return torch.cat(parts, 1)[None, :, None]


def scaled_axes(options: Mapping[str, float] | None) -> tuple[Axes, Axes]:
    """(scale, shift) of `rope_frequencies` as a ScaleROPE node writes them: scale_t, shift_t, ... for each axis."""
    def of(what: str, plain: float) -> Axes:
        time, height, width = ((options or {}).get(f"{what}_{axis}", plain) for axis in "tyx")
        return time, height, width

    return of("scale", 1.0), of("shift", 0.0)


def split_head(head_dim: int) -> tuple[int, int, int]:
    """How Wan and LongCat split a head between time, height and width: 128 -> (44, 42, 42)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rotate(x: Tensor, rows: Tensor) -> Tensor:
    """Turn neighbouring channel pairs of (B, S, H, D) by frequencies (1 or B, S, 1, D / 2, 2, 2); float32 inside."""
    pairs = x.float().unflatten(-1, (-1, 1, 2))
    return (rows[..., 0] * pairs[..., 0] + rows[..., 1] * pairs[..., 1]).flatten(-2).to(x.dtype)
