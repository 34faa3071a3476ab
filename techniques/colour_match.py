"""Colour match (Reinhard et al. 2001): a frame's mean and deviation in Lab become those of a reference picture, as
InfiniteTalk keeps each chunk at the colours of its conditioning picture. A flat frame takes the reference's mean.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Layout
from .technique import ChunkPosition, Technique

XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)     # D65
FLAT = 1.0                          # deviation of a picture's lightness, of 100, below which it has no colours to give
CUT, SLOPE, FOOT = 0.008856, 7.787, 16 / 116


@dataclass(frozen=True, eq=False)
class ColourMatch(Technique):
    """Each decoded frame at the colours of the take's picture, by `strength` 0..1: what is written, and what the next
    chunk is encoded from."""
    strength: float = 1.0

    def finishes(self) -> bool:
        return self.strength != 0

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        if not self.finishes() or position.reference is not None:     # a take's, which always has its picture
            return None
        return "colour match is inactive: only Long Take matches the frames that it decodes"

    def picture_notice(self, picture: Tensor) -> str | None:
        if not is_flat(picture):
            return None
        return "colour match is inactive: the take's picture is all of one lightness and has no colours to give"

    def finish_frames(self, frames: Tensor, picture: Tensor) -> Tensor:
        return match_colours(frames, picture.to(frames.device), self.strength)


def match_colours(frames: Tensor, reference: Tensor, strength: float = 1.0) -> Tensor:
    """(T, H, W, 3) of 0..1 and one picture (1, H', W', 3) -> the frames at its colours, by `strength` 0..1. A picture
    that is all of one lightness, as a film's first black frame is, changes nothing."""
    if strength == 0:
        return frames
    lab, wanted = lab_of_rgb(frames), lab_of_rgb(reference)
    if is_even(wanted):
        return frames
    mean, deviation = lab.mean((1, 2), keepdim=True), lab.std((1, 2), keepdim=True, correction=0)
    goal, spread = wanted.mean((1, 2), keepdim=True), wanted.std((1, 2), keepdim=True, correction=0)
    scale = torch.where(deviation < 1e-6, torch.zeros_like(deviation), spread / deviation.clamp(min=1e-12))
    matched = rgb_of_lab((lab - mean) * scale + goal).to(frames.dtype)
    return frames * (1 - strength) + matched * strength


def is_flat(picture: Tensor) -> bool:
    """Whether a picture (..., H, W, 3) of 0..1 is all of one lightness, as a film's black frames are."""
    return is_even(lab_of_rgb(picture))


def last_shown(frames: Tensor) -> Tensor:
    """(1, H, W, 3): the last of some frames that is not all of one lightness; the last where all are."""
    return next((frame for frame in reversed(frames.split(1)) if not is_flat(frame)), frames[-1:])


def is_even(lab: Tensor) -> bool:
    return bool(lab[..., 0].std(correction=0) < FLAT)


def lab_of_rgb(rgb: Tensor) -> Tensor:
    """sRGB (..., 3) of 0..1 -> CIE L*a*b*, D65, float64."""
    rgb = rgb.to(torch.float32 if rgb.device.type == "mps" else torch.float64)    # which Apple's chips do not have
    light = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = light @ light.new_tensor(XYZ_OF_RGB).T / light.new_tensor(WHITE)
    root = torch.where(xyz > CUT, xyz.clamp(min=CUT) ** (1 / 3), SLOPE * xyz + FOOT)
    x, y, z = root.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def rgb_of_lab(lab: Tensor) -> Tensor:
    """CIE L*a*b* (..., 3) -> sRGB of 0..1; what no screen shows is cut."""
    lightness, green_red, blue_yellow = lab.unbind(-1)
    y = (lightness + 16) / 116
    root = torch.stack([y + green_red / 500, y, (y - blue_yellow / 200).clamp(min=0)], -1)
    xyz = torch.where(root > CUT ** (1 / 3), root ** 3, (root - FOOT) / SLOPE) * lab.new_tensor(WHITE)
    light = xyz @ torch.linalg.inv(lab.new_tensor(XYZ_OF_RGB)).T
    rgb = torch.where(light > 0.0031308, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, light * 12.92)
    return rgb.clamp(0, 1)
