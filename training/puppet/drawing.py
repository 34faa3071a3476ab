"""Draws a puppet: frames from an identity and one state per frame, with signed distances and exact edges.

Everything is measured on a picture 64 wide, y down, whatever the size in pixels. Each part is drawn only inside the
smallest rectangle that holds it in every frame, for all frames at once, from the back to the front.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .identity import Identity
from .motion import MOTION
from .speech import MOUTH
from .textures import CANVAS, CELL, background, glyph_sheet, pattern

STATE = (*MOTION, *MOUTH)
HEAD_CENTRE, BODY_PIVOT, CHEST = (32.0, 24.0), (32.0, 70.0), (32.0, 57.0)
STUBBLE = (0.14, 0.12, 0.13)


@dataclass(frozen=True)
class Hair:
    """A hair style, lengths in units of the picture. The front lies on the head, `lift` above it, down to the line
    `height` (share of the face's half height) + `slope` * u + `part` * |u|; `strip` is its half width. `back` is half
    width and lower end of what hangs behind. `bun`: (|x|, y, radius). `zigzag` and `curl` shape its edges."""
    lift: float = 1.6
    height: float = -0.5
    slope: float = 0.0
    part: float = 0.25
    zigzag: float = 0.0
    curl: float = 0.0
    strip: float = 99.0
    back: tuple[float, float] | None = None
    bun: tuple[float, float, float] | None = None
    ears: bool = True


STYLES = {
    "bald": None, "buzz": Hair(0.5, -0.62, 0, 0.3), "short": Hair(2.0, -0.5, 0, 0.22, zigzag=0.5),
    "fringe": Hair(2.0, -0.36, 0, 0.08, zigzag=0.8, ears=False, back=(1.12, 9.0)), "side": Hair(2.3, -0.55, 0.42, 0.08),
    "curtain": Hair(1.8, -1.0, 0, 0.85, back=(1.2, 20.0), ears=False),
    "long": Hair(2.0, -0.62, -0.3, 0.38, back=(1.28, 30.0), ears=False),
    "bob": Hair(2.2, -0.40, 0, 0.12, back=(1.32, 14.0), ears=False),
    "afro": Hair(4.6, -0.5, 0, 0.3, curl=0.8, back=(1.45, 7.0), ears=False),
    "bun": Hair(1.1, -0.6, 0, 0.3, bun=(0.0, -19.0, 4.6)), "mohawk": Hair(5.0, -0.55, 0, 0.0, strip=3.6, zigzag=0.6),
    "tails": Hair(1.6, -0.5, 0.12, 0.25, bun=(17.0, 1.0, 4.6), ears=False),
}


class Patch:
    """One rectangle of all frames, in the coordinates of the head or of the body: u, v (T, h, w)."""

    def __init__(self, pixels: Tensor, u: Tensor, v: Tensor, density: float):
        self.pixels, self.u, self.v, self.density = pixels, u, v, density

    def cover(self, distance: Tensor) -> Tensor:
        """How much of each pixel lies inside (T, h, w): half at the edge, over the width of one pixel."""
        return (distance * -self.density).add_(0.5).clamp_(0, 1)

    def fill(self, distance: Tensor, colour, strength: float = 1.0) -> None:
        self.blend(self.cover(distance), colour, strength)

    def blend(self, alpha: Tensor, colour, strength: float = 1.0) -> None:
        if strength != 1:
            alpha = alpha * strength
        self.pixels.lerp_(torch.tensor(colour).view(3, 1, 1), alpha[:, None])


class Stage:
    """The picture of T frames and where head and body are in each."""

    def __init__(self, identity: Identity, states: np.ndarray, size: int):
        self.identity, self.size, self.density = identity, size, size / CANVAS
        self.pixels = background(identity, size).expand(len(states), 3, size, size).clone()
        self.columns = torch.from_numpy(states.T.astype(np.float32))[..., None, None]
        s: dict[str, np.ndarray] = dict(zip(STATE, states.T.astype(np.float64), strict=True))
        self.places = {"head": self.place(HEAD_CENTRE, s["head_x"], s["head_y"], s["head_tilt"], s["head_scale"]),
                       "body": self.place(BODY_PIVOT, s["sway"], 0.6 * s["breath"], s["lean"], 1 + 0 * s["sway"])}

    @staticmethod
    def place(centre, x, y, angle, scale) -> tuple[np.ndarray, Tensor]:
        """(4, T): where the part's middle is, and cosine and sine of its angle, as long as it is large; the same with
        the last two divided by the square of that, as (4, T, 1, 1), which leads back."""
        there = np.stack([centre[0] + x, centre[1] + y, scale * np.cos(angle), scale * np.sin(angle)])
        back = np.concatenate([there[:2], there[2:] / scale ** 2])
        return there, torch.from_numpy(back).float()[..., None, None]

    def column(self, name: str) -> Tensor:
        """One quantity of the state as (T, 1, 1)."""
        return self.columns[STATE.index(name)]

    def patch(self, where: str, left: float, top: float, right: float, bottom: float) -> Patch:
        """The rectangle that holds left..right, top..bottom of the head or body in every frame; its edge pixels too."""
        (x, y, cos, sin), back = self.places[where]
        u, v = np.array([left, left, right, right])[:, None], np.array([top, bottom, top, bottom])[:, None]
        (x0, x1), (y0, y1) = (self.pixel_range(edge) for edge in (x + cos * u - sin * v, y + sin * u + cos * v))
        dx = (torch.arange(x0, x1) + 0.5) / self.density - back[0]
        dy = (torch.arange(y0, y1)[:, None] + 0.5) / self.density - back[1]
        cos, sin = back[2:]
        return Patch(self.pixels[:, :, y0:y1, x0:x1], cos * dx + sin * dy, cos * dy - sin * dx, self.density)

    def pixel_range(self, edge: np.ndarray) -> tuple[int, int]:
        """The pixels from the lowest to the highest of these places, at least one."""
        low, high = math.floor(edge.min() * self.density) - 1, math.ceil(edge.max() * self.density) + 1
        return min(max(low, 0), self.size - 1), min(max(high, 1), self.size)


def draw(identity: Identity, states: np.ndarray, size: int = 64) -> Tensor:
    """(T, len(STATE)) to frames (T, size, size, 3) uint8, sixteen at a time: as many as fit the processor's cache."""
    frames = torch.empty(len(states), size, size, 3, dtype=torch.uint8)
    for first in range(0, len(states), 16):
        stage = Stage(identity, states[first:first + 16], size)
        for part in (back_hair, body, lettering, neck, head, eyes, face, mouth, front_hair, brows_and_glasses):
            part(stage)
        lit = 255 * torch.tensor(identity.light)
        frames[first:first + 16] = stage.pixels.permute(0, 2, 3, 1) * lit + 0.5
    return frames


def shade(colour, factor: float) -> tuple[float, ...]:
    """Darker below 1; above 1 as much closer to white."""
    return tuple(c * factor if factor <= 1 else 1 - (1 - c) * (2 - factor) for c in colour)


def face_distance(stage: Stage, patch: Patch) -> Tensor:
    """Of the head's outline: between ellipse and superellipse, narrower or wider at the jaw, longer when it opens."""
    who = stage.identity
    half_width, half_height = who["face_width"], who["face_height"]
    chin = 1 / (half_height + 1.3 * stage.column("mouth_open"))
    y = torch.minimum(patch.v / half_height, patch.v * chin)
    x = patch.u / (half_width * (1 - who["face_jaw"] * y.clamp(-1.2, 1.2)))
    x2, y2 = x * x, y * y
    radius = (x2 + y2).sqrt_().lerp_((x2 * x2 + y2 * y2).sqrt_().sqrt_(), who["face_square"])
    return (radius - 1) * (0.5 * (half_width + half_height))


def box_distance(u: Tensor, v: Tensor, half_width: float, half_height: float, radius: float) -> Tensor:
    """Of a rounded rectangle about 0."""
    x, y = u.abs() - (half_width - radius), v.abs() - (half_height - radius)
    return torch.hypot(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max_(0) - radius


def ellipse_distance(u: Tensor, v: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """Of an ellipse about 0 with these half axes, good near its edge; one that is flat ends where it should."""
    x, y = u / width, v / height
    reach = torch.hypot(x, y)
    near = reach * (reach - 1) / torch.hypot(x / width, y / height).clamp_min_(1e-4)
    return torch.maximum(near, u.abs() - width)


def back_hair(stage: Stage) -> None:
    who, style = stage.identity, STYLES[stage.identity["hair"]]
    if style is None or not (style.back or style.bun):
        return
    colour, volume = who["hair_colour"], who["hair_volume"]
    if style.back:
        width, top = style.back[0] * who["face_width"] + volume, -who["face_height"] - 0.3 * style.lift * volume
        bottom = style.back[1] * (who["hair_length"] if style.back[1] > 10 else 1)
        patch = stage.patch("head", -width - 2, top - 2, width + 2, bottom + 2)
        middle, half = (top + bottom) / 2, (bottom - top) / 2
        distance = box_distance(patch.u, patch.v - middle, width, half, min(0.95 * width, 0.95 * half))
        if style.curl:
            distance = distance - style.curl * curls(patch)
        patch.fill(distance - 0.7, shade(colour, 0.55))
        patch.fill(distance, shade(colour, 0.82))
    if style.bun:
        x, y, radius = style.bun[0], style.bun[1], style.bun[2] * (0.7 + 0.3 * volume)
        patch = stage.patch("head", -x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1)
        distance = torch.hypot(patch.u.abs() - x, patch.v - y) - radius
        patch.fill(distance - 0.6, shade(colour, 0.55))
        patch.fill(distance, colour)


def curls(patch: Patch) -> Tensor:
    return torch.sin(1.5 * patch.u) * torch.sin(1.5 * patch.v)


def body(stage: Stage) -> None:
    """Shoulders and clothes: v is 0 at the pivot below the picture."""
    who = stage.identity
    width, cloth = who["shoulder_width"], who["cloth"]
    patch = stage.patch("body", -width - 2, -26, width + 2, 0)
    shoulders = box_distance(patch.u, patch.v - 6, width, 30.5, who["shoulder_round"])
    patch.fill(shoulders - 0.7, shade(cloth, 0.5))
    inside = patch.cover(shoulders)
    patch.blend(inside, cloth)
    if who["pattern"] != "plain":
        second = pattern(who["pattern"], patch.u, patch.v, who["pattern_scale"], stage.density)
        patch.blend(second.mul_(inside), who["pattern_colour"], 0.75)
    arms = (patch.u.abs() - 0.74 * width).abs() - 0.35
    patch.fill(torch.maximum(arms, -14.0 - patch.v), shade(cloth, 0.6), 0.8)


def neck(stage: Stage) -> None:
    who = stage.identity
    width, skin = who["neck_width"], shade(who["skin"], 0.82)
    patch = stage.patch("body", -width - 6, -38, width + 6, -15)
    if who["neckline"] == "v":
        opening = torch.maximum(patch.u.abs() * 0.8 + patch.v + 18.5 - 0.3 * width, -25.5 - patch.v)
    else:
        opening = ellipse_distance(patch.u, patch.v + 24.5, width + 1.8, 3.4 if who["neckline"] == "round" else 2.0)
    opening = torch.minimum(opening, torch.maximum(patch.u.abs() - width, (patch.v + 30.5).abs() - 6.5))
    collar = 1.5 if who["neckline"] == "collar" else 0.7
    patch.fill(torch.maximum(opening - collar, -25.0 - patch.v), shade(who["cloth"], 0.62))
    patch.fill(opening, skin)


def lettering(stage: Stage) -> None:
    """On a plain plate of the cloth, so that no pattern runs through it."""
    who, sheet = stage.identity, glyph_sheet(stage.identity.letters)
    half_width, half_height = CELL * sheet.shape[-1] / 2, CELL * sheet.shape[-2] / 2
    patch = stage.patch("body", -half_width - 3, -13 - half_height - 3, half_width + 3, -13 + half_height + 3)
    v = patch.v + (BODY_PIVOT[1] - CHEST[1])
    if who["pattern"] != "plain":
        patch.fill(box_distance(patch.u, v, half_width + 1.6, half_height + 1.4, 2.0), who["cloth"])
    grid = torch.stack([patch.u / half_width, v / half_height], -1)
    ink = torch.nn.functional.grid_sample(sheet.expand(len(grid), -1, -1, -1), grid, "bilinear", "zeros",
                                          align_corners=False)[:, 0]
    patch.blend(((ink - 0.42) * (1.6 * CELL * stage.density) + 0.5).clamp_(0, 1), who["letter_colour"])


def head(stage: Stage) -> None:
    who, style = stage.identity, STYLES[stage.identity["hair"]]
    width, height, skin = who["face_width"], who["face_height"], who["skin"]
    if style is None or style.ears:
        size = who["ear_size"]
        patch = stage.patch("head", -width - size - 1, -3 - size, width + size + 1, 3 + size)
        ear = torch.hypot(patch.u.abs() - width - 0.2, patch.v - 0.5) - size
        patch.fill(ear - 0.6, shade(skin, 0.55))
        patch.fill(ear, shade(skin, 0.9))
    patch = stage.patch("head", -1.25 * width, -height - 1.5, 1.25 * width, height + 3)
    distance = face_distance(stage, patch)
    patch.fill(distance - 0.6, shade(skin, 0.5))
    inside = patch.cover(distance)
    patch.blend(inside, skin)
    light = (patch.u * (0.5 / width) + patch.v * (0.35 / height)).clamp_(0, 1)
    patch.blend(light.mul_(inside), shade(skin, 0.72), 0.6)
    if who["beard"] != "none":
        jaw = torch.maximum(distance, 0.30 * height + 1.5 - patch.v - 0.03 * patch.u.square())
        if who["beard"] == "full":
            patch.fill(jaw, shade(who["hair_colour"], 0.9))
        else:
            patch.blend((jaw * -0.3).clamp_(0, 1), STUBBLE, 0.35)
    for x, y, radius in who.moles:
        patch = stage.patch("head", x * width - 5, y * height - 4, x * width + 5, y * height + 4)
        u, v = turn_patch(stage, patch)
        patch.fill(torch.hypot(u - x * width, v - y * height) - radius, shade(skin, 0.22))


def turn_patch(stage: Stage, patch: Patch, depth: float = 1.0) -> tuple[Tensor, Tensor]:
    """Coordinates of what lies on the front of the face: it moves with turn and nod, more the farther it stands out."""
    return patch.u - 2.6 * depth * stage.column("turn"), patch.v - 1.6 * depth * stage.column("nod")


def eye_patch(stage: Stage, reach: float) -> tuple[Patch, Tensor, Tensor, Tensor]:
    """A patch of both eyes; its signed u, the distance outward from the nearer eye's middle, and v from there."""
    who = stage.identity
    spread, height = who["eye_distance"] * who["face_width"], who["eye_height"]
    patch = stage.patch("head", -spread - reach - 3, height - reach - 2, spread + reach + 3, height + reach + 2)
    u, v = turn_patch(stage, patch)
    return patch, u, u.abs() - spread, v - height


def eyes(stage: Stage) -> None:
    who = stage.identity
    patch, u, outward, v = eye_patch(stage, 4.3)
    v = v + who["eye_slant"] * outward
    smile = stage.column("expression").clamp(0, 1)
    opened = (who["eye_open"] * (1 - stage.column("blink")) * (1 - 0.25 * smile)).clamp_min(0.05)
    white = ellipse_distance(outward, v, who["eye_width"], opened)
    lash = ellipse_distance(outward, v + 0.2, who["eye_width"] + 0.5, opened + 0.55)
    patch.fill(lash, shade(who["skin"], 0.18))
    patch.fill(white, (0.97, 0.97, 0.96))
    across = torch.copysign(outward, outward) * torch.sign(u) - 0.9 * stage.column("gaze_x")
    down = v - 0.5 * stage.column("gaze_y")
    reach = torch.hypot(across, down)
    patch.fill(torch.maximum(reach - who["iris_size"], white), who["iris"])
    patch.fill(torch.maximum(reach - 0.55 * who["iris_size"], white), (0.03, 0.03, 0.04))
    patch.fill(torch.maximum(torch.hypot(across + 0.5, down + 0.5) - 0.45, white), (1.0, 1.0, 1.0), 0.9)


def face(stage: Stage) -> None:
    """Nose and cheeks."""
    who = stage.identity
    length, width, skin = who["nose_length"], who["nose_width"], who["skin"]
    patch = stage.patch("head", -width - 5, -2, width + 5, 9)
    u, v = turn_patch(stage, patch, 1.5)
    v = v - 0.25 * who["face_height"]
    patch.fill(ellipse_distance(u, v, width + 0.3, 0.5 * width + 0.35), shade(skin, 0.62))
    bridge = torch.hypot(u - 0.3 * width, (v + length / 2).abs().sub(length / 2).clamp_min(0)) - 0.35
    patch.fill(bridge, shade(skin, 0.62), 0.7)
    patch.fill(ellipse_distance(u + 0.2, v + 0.5, width, 0.5 * width + 0.3), shade(skin, 1.1))
    if who["blush"] > 0.15:
        x, y = 0.58 * who["face_width"], 0.32 * who["face_height"]
        patch = stage.patch("head", -x - 6, y - 5, x + 6, y + 5)
        u, v = turn_patch(stage, patch)
        glow = (1 - ((u.abs() - x).square() + (v - y).square()) / 11).clamp_(0, 1)
        patch.blend(glow, (0.92, 0.36, 0.36), 0.6 * who["blush"])


def mouth(stage: Stage) -> None:
    """Lips, the dark inside, teeth from above, tongue from below, on a line that smiles or not."""
    who = stage.identity
    opening, wide, purse, teeth = (stage.column(name) for name in MOUTH)
    mood = stage.column("expression")
    width = who["mouth_width"] * (1 + 0.20 * wide - 0.36 * purse + 0.16 * mood.clamp_min(0))
    half = 0.16 + 3.6 * opening
    y = who["mouth_height"] * who["face_height"]
    patch = stage.patch("head", -12.5, y - 7, 12.5, y + 9)
    u, v = turn_patch(stage, patch, 1.2)
    v = v - y - 0.75 * half + 1.7 * mood * ((u / width).square() - 0.4).clamp_(-1, 1)
    lip = who["lip_thickness"] * (1 + 0.35 * purse)
    patch.fill(ellipse_distance(u, v, width + 0.7, half + lip), who["lip"])
    inside = ellipse_distance(u, v, width, half)
    patch.fill(inside, (0.20, 0.04, 0.06))
    tongue = torch.hypot(u, v - 1.5 * half) - half.clamp_min(0.8) * 1.05
    patch.fill(torch.maximum(tongue, inside + 0.2), (0.80, 0.32, 0.34))
    edge = v + half * (1 - 1.7 * teeth) + 0.1
    patch.fill(torch.maximum(torch.maximum(edge, inside + 0.15), 0.25 - half), (0.96, 0.95, 0.91))


def front_hair(stage: Stage) -> None:
    who, style = stage.identity, STYLES[stage.identity["hair"]]
    if style is None:
        return
    lift, height, colour = style.lift * who["hair_volume"], who["face_height"], who["hair_colour"]
    width = min(1.3 * who["face_width"] + lift, style.strip)
    low = height * (style.height + 0.12 * who["hair_length"]) + (abs(style.slope) + style.part) * width + 2
    patch = stage.patch("head", -width - 2, -height - lift - 2, width + 2, min(low, height))
    u, v = patch.u, patch.v
    line = height * (style.height + 0.12 * (who["hair_length"] - 1)) + style.slope * u + style.part * u.abs()
    if style.zigzag:
        line = line + style.zigzag * torch.sin(u * 1.7)
    outline = face_distance(stage, patch) - lift
    if style.curl:
        outline = outline - style.curl * curls(patch)
    outline = torch.maximum(outline, u.abs() - style.strip) if style.strip < 99 else outline
    distance = torch.maximum(outline, v - line)
    patch.fill(distance - 0.6, shade(colour, 0.55))
    inside = patch.cover(distance)
    patch.blend(inside, colour)
    shine = (1 - (torch.hypot(u + 0.35 * who["face_width"], v + 0.85 * height) - 1.0).abs() / 4.5).clamp_(0, 1)
    patch.blend(shine.mul_(inside), shade(colour, 1.45), 0.5)


def brows_and_glasses(stage: Stage) -> None:
    who = stage.identity
    patch, u, outward, v = eye_patch(stage, 6.2)
    mood = stage.column("expression")
    slope = who["brow_slope"] + 0.22 * (-mood).clamp(0, 1)
    line = v + who["brow_height"] + 1.5 * stage.column("brow") + 0.4 * mood - slope * outward + 0.05 * outward.square()
    brow = torch.maximum(line.abs() - who["brow_thickness"], outward.abs() - who["brow_width"])
    colour = who["hair_colour"] if who["hair"] != "bald" else shade(who["skin"], 0.4)
    patch.fill(brow, shade(colour, 0.62))
    if who["glasses"] == "none":
        return
    reach = who["eye_width"] + 1.5
    ring = torch.hypot(outward, v) - reach if who["glasses"] == "round" else \
        box_distance(outward, v - 0.2, reach, reach - 0.9, 1.1)
    patch.fill(ring, (0.9, 0.97, 1.0), 0.18)
    bars = torch.maximum(torch.maximum((v + 0.6).abs() - 0.4, -ring), patch.u.abs() - who["face_width"])
    patch.fill(torch.minimum(ring.abs() - 0.48, bars), who["glasses_colour"])
