"""The claims' plots and the strip of frames, drawn by what draws a take's report; PNGs of few colours."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lodestar.pipelines.metrics.report_picture import GAP, MARGIN, PANEL_HEIGHT, WIDTH, frame, steps, value_axis
from lodestar.pipelines.sheet import INK, SOFT, Sheet
from PIL import Image
from torch import Tensor

COLOURS = ("#2563b0", "#d9622b", "#2f8f5b", "#8a4fb0", "#b0892f", "#66707d")
KEY, LARGEST_BYTES = 18, 100_000


class Curve(NamedTuple):
    """`low`, `high`: of the interval, upright bars; equal to `y` for none."""
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Plot(NamedTuple):
    title: str
    unit: str
    across: str
    curves: tuple[Curve, ...]


def draw_plots(plots: Sequence[Plot]) -> Tensor:
    """(H, WIDTH, 3) in 0..1, two plots beside each other; half as wide where there is one."""
    key = KEY * max(len(plot.curves) for plot in plots)
    height, half = PANEL_HEIGHT + 60 + key, (WIDTH - 2 * MARGIN - GAP) // 2
    width = WIDTH if len(plots) > 1 else half + 2 * MARGIN
    sheet = Sheet(width, 2 * MARGIN + -(-len(plots) // 2) * (height + GAP) - GAP)
    for place, plot in enumerate(plots):
        left, top = MARGIN + (place % 2) * (half + GAP), MARGIN + place // 2 * (height + GAP)
        draw_plot(sheet, (left, top, left + half, top + PANEL_HEIGHT + 60), plot)
    return sheet.pixels()


def draw_plot(sheet: Sheet, box: tuple[int, int, int, int], plot: Plot) -> None:
    inner = frame(sheet, box, plot.title, plot.unit, plot.across)
    xs = np.concatenate([np.asarray(curve.x, float) for curve in plot.curves])
    ys = np.concatenate([np.asarray(part, float) for curve in plot.curves for part in (curve.low, curve.high)])
    ys = ys[np.isfinite(ys)] if np.isfinite(ys).any() else np.zeros(1)
    down = value_axis(sheet, inner, float(ys.min()), float(ys.max()))
    low, high = float(xs.min()), max(float(xs.max()), float(xs.min()) + 1e-6)

    def across(x: float) -> float:
        return inner[0] + 8 + (inner[2] - inner[0] - 16) * (x - low) / (high - low)

    for x in steps(low, high, 6):
        sheet.text(across(x), inner[3] + 4, f"{x:g}", SOFT, small=True, anchor="ma")
    for place, curve in enumerate(plot.curves):
        colour = COLOURS[place % len(COLOURS)]
        known = [(across(x), *map(down, values)) for x, *values in zip(*curve[1:], strict=True)
                 if np.isfinite(values).all()]
        for x, y, bottom, top in known:
            sheet.line([(x, bottom), (x, top)], colour)
            sheet.dot((x, y), colour)
        if len(known) > 1:
            sheet.line([(x, y) for x, y, _, _ in known], colour, 1.6)
        y = box[3] + KEY * place
        sheet.bar(inner[0], y + 4, inner[0] + 14, y + 9, colour)
        sheet.text(inner[0] + 20, y, curve.label, small=True)


def strip(rows: Sequence[tuple[str, Sequence[Tensor]]], heads: Sequence[str], zoom: int = 2) -> Tensor:
    """Frames (h, w, 3) in rows under `heads`, each row behind its label; (H, W, 3) in 0..1."""
    size = zoom * rows[0][1][0].shape[0]
    sheet = Sheet(170 + (size + 8) * len(heads), 28 + (size + 8) * len(rows))
    for place, head in enumerate(heads):
        sheet.text(170 + (size + 8) * place, 8, head, SOFT, small=True)
    for row, (label, _) in enumerate(rows):
        for line, words in enumerate(label.split("\n")):
            sheet.text(8, 36 + (size + 8) * row + 16 * line, words, INK, small=True)
    picture = sheet.pixels()
    for row, (_, frames) in enumerate(rows):
        for column, shown in enumerate(frames):
            top, left = 28 + (size + 8) * row, 170 + (size + 8) * column
            large = shown.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
            picture[top:top + size, left:left + size] = large
    return picture


def save_png(picture: Tensor, path: Path) -> None:
    """With as many colours as LARGEST_BYTES allow."""
    image = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours in (256, 128, 64, 32, 16):
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= LARGEST_BYTES:
            return
