"""A drawing with Pillow, which ComfyUI always has, at twice the size and then reduced, so that curves are smooth."""
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FINE = 2                # how much larger it is drawn
PAPER, PANEL, INK, SOFT, GRID, BORDER = "#ffffff", "#f7f8fa", "#1c2430", "#66707d", "#dfe3e8", "#b9c0ca"


class Sheet:
    """A drawing in pixels of the finished picture."""

    def __init__(self, width: int, height: int):
        self.size = width, height
        self._image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._fonts = {size: ImageFont.load_default(size * FINE) for size in (12, 15, 22)}

    def text(self, x: float, y: float, text: str, colour: str = INK, small: bool = False, large: bool = False,
             anchor: str = "la") -> None:
        font = self._fonts[12 if small else 22 if large else 15]
        self._draw.text((x * FINE, y * FINE), text, fill=colour, font=font, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        self._draw.line([(x * FINE, y * FINE) for x, y in points], colour, round(width * FINE), "curve")

    def area(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        self._draw.polygon([(x * FINE, y * FINE) for x, y in points], colour, colour)

    def bar(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        self._draw.rectangle([left * FINE, min(top, bottom) * FINE, right * FINE, max(top, bottom) * FINE], colour)

    def picture(self, left: int, top: int, pixels: Tensor) -> None:
        """Pixels (h, w, 3), uint8."""
        image = Image.fromarray(pixels.cpu().numpy())
        self._image.paste(image.resize((image.width * FINE, image.height * FINE)), (left * FINE, top * FINE))

    def dot(self, point: tuple[float, float], colour: str) -> None:
        self.bar(point[0] - 2, point[1] - 2, point[0] + 2, point[1] + 2, colour)

    def pixels(self) -> Tensor:
        small = self._image.resize(self.size, Image.Resampling.BOX)
        return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(*self.size[::-1], 3) / 255
