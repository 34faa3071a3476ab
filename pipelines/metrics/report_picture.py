"""The report of a video as one picture: what it is, its figures, and every track over time with the chunk borders."""
import math
from collections.abc import Sequence
from textwrap import wrap
from typing import Any, NamedTuple

from torch import Tensor

from ..sheet import BORDER, GRID, PANEL, SOFT, Sheet

WIDTH, MARGIN, GAP = 1280, 36, 28       # pixels
PANEL_HEIGHT, PANEL_TOP, PANEL_LEFT, PANEL_BOTTOM = 194, 50, 58, 24
LINE, NOTE_LETTERS = 24, 175
CURVE, SPREAD, TREND = "#2563b0", "#b9d0ec", "#d9622b"


class Panel(NamedTuple):
    measure: str        # a path into the report's measures, its parts joined by dots
    title: str
    unit: str
    says: str           # what is good
    start: float | None = None      # the value axis begins here, where the track allows


PANELS = (
    Panel("identity", "Identity", "cosine to the reference's face", "1 is the same face"),
    Panel("likeness", "Likeness to the reference picture", "correlation", "near 1 all the time: copy-paste"),
    Panel("colour_drift", "Colour drift", "CIEDE2000 from the first second", "5 is another colour", 0),
    Panel("frechet", "Frechet distance", "of each second from the first", "1: two frames within it", 0),
    Panel("sharpness", "Sharpness", "variance of the Laplacian", "falls: blur, rises: grain", 0),
    Panel("flicker", "Flicker", "grey levels, to and fro", "0 is calm", 0),
    Panel("motion", "Motion", "% of the width a second", "0 is frozen", 0),
    Panel("seams.change", "Change between frames", "grey levels", "peaks at the lines: seams", 0),
    Panel("mouth", "Mouth opening", "0 to 1", "", 0))


def report_picture(report: dict[str, Any]) -> Tensor:
    """The report of evaluate.py as a picture (H, WIDTH, 3), float 0..1."""
    tracks = [panel for panel in PANELS if measure_of(report, panel.measure).get("frames")]
    lips = measure_of(report, "lip_sync")
    figures = figures_of(report)
    missing = [line for text in missing_of(report) for line in wrap(text, NOTE_LETTERS)]
    panels = len(tracks) + bool(lips)
    top = MARGIN + 74
    plots = top + math.ceil(len(figures) / 2) * LINE + 18
    notes = plots + math.ceil(panels / 2) * (PANEL_HEIGHT + GAP)
    sheet = Sheet(WIDTH, notes + len(missing) * LINE + MARGIN)
    heading(sheet, report["video"])
    half = (WIDTH - 2 * MARGIN - GAP) // 2
    for place, (name, value) in enumerate(figures):
        left, y = MARGIN + (place % 2) * (half + GAP), top + place // 2 * LINE
        sheet.text(left, y, name, SOFT)
        sheet.text(left + 190, y, value)
    for place in range(panels):
        left, y = MARGIN + (place % 2) * (half + GAP), plots + place // 2 * (PANEL_HEIGHT + GAP)
        box = left, y, left + half, y + PANEL_HEIGHT
        if place < len(tracks):
            track_panel(sheet, box, tracks[place], report)
        else:
            lag_panel(sheet, box, lips)
    for place, line in enumerate(missing):
        sheet.text(MARGIN, notes + place * LINE, line, SOFT, small=True)
    return sheet.pixels()


def measure_of(report: dict[str, Any], path: str) -> Any:
    found: Any = report["measures"]
    for part in path.split("."):
        found = found.get(part) or {}
    return found


def figures_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers of the report that are no curve, in words."""
    motion, freeze, repetition = (measure_of(report, name) for name in ("motion", "freeze", "repetition"))
    found = [("Seam score", f"{number(measure_of(report, 'seams').get('score'))}  (1: borders cannot be seen)")
             ] if report["borders"] else []
    found += [("Frozen", f"{freeze['share']:.1%} of the frames" + stretches(freeze, report["video"]["fps"])),
              ("Repeated motion", f"every {repetition['period_seconds']:.2f} s, strength {repetition['strength']:.2f}"
               if repetition["period_frames"] else "none found"),
              ("Dynamic degree", f"{number(motion['mean'])} % of the width a second"),
              ("Motion smoothness", f"{number(motion['smoothness'])}  (1 is even)")]
    if likeness := measure_of(report, "likeness"):
        found.append(("Copies of the reference", f"{likeness['copied_share']:.1%} of the frames"))
    if lips := measure_of(report, "lip_sync"):
        found.append(("Lip sync", f"correlation {lips['correlation']:.2f}, the mouth is "
                      + lag_in_words(lips["lag_frames"])))
    if scores := measure_of(report, "syncnet"):
        found.append(("SyncNet, at 25 fps", f"LSE-C {scores['confidence']:.2f}, LSE-D {scores['distance']:.2f}, the "
                      f"mouth is {lag_in_words(scores['offset_frames'])}"))
    return found


def stretches(freeze: dict[str, Any], fps: float) -> str:
    if not freeze["stretches"]:
        return ""
    first, end = max(freeze["stretches"], key=lambda stretch: stretch[1] - stretch[0])
    return f", the longest {first / fps:.1f} to {end / fps:.1f} s"


def lag_in_words(frames: int) -> str:
    if not frames:
        return "in time"
    return f"{abs(frames)} frame{'s' if abs(frames) > 1 else ''} {'late' if frames > 0 else 'early'}"


def missing_of(report: dict[str, Any]) -> list[str]:
    """Who stood where, where the video says it, and what was left out, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in report["left_out"].items():
        reasons.setdefault(reason, []).append(name.replace("_", " "))
    return [*report.get("references", ()), *(
        f"Not measured: {', '.join(names)}. {reason[:1].upper()}{reason[1:]}." for reason, names in reasons.items())]


def heading(sheet: "Sheet", video: dict[str, Any]) -> None:
    sheet.text(MARGIN, MARGIN - 6, f"Take report: {video['name']}", large=True)
    sheet.text(MARGIN, MARGIN + 32, f"{clock(video['seconds'])}, {video['frames']} frames at {video['fps']:.6g} fps, "
                                    f"{video['width']} x {video['height']}", SOFT)
    sheet.text(WIDTH - MARGIN, MARGIN + 34, "blue: mean, light blue: least to most, orange: drift, "
                                            "upright lines: chunk borders", SOFT, small=True, anchor="ra")


def track_panel(sheet: "Sheet", box: Sequence[int], panel: Panel, report: dict[str, Any]) -> None:
    """One track: its curve, its drift as a straight line, the chunk borders."""
    track, video = measure_of(report, panel.measure), report["video"]
    low, high = track["least"], track["most"]
    low = panel.start if panel.start is not None and low >= panel.start else low
    plot = frame(sheet, box, panel.title, f"{panel.unit}; {panel.says}" if panel.says else panel.unit,
                 f"mean {number(track['mean'])}   drift {drift_in_words(track['slope_per_minute'], video['seconds'])}")
    down = value_axis(sheet, plot, low, high)
    seconds = max(video["seconds"], 1e-6)

    def across(moment: float) -> float:
        return plot[0] + (plot[2] - plot[0]) * moment / seconds

    for border in report["borders"]:
        sheet.line([(across(border / video["fps"]), plot[1]), (across(border / video["fps"]), plot[3])], BORDER)
    for moment in steps(0, seconds, 6):
        sheet.text(across(moment), plot[3] + 4, clock(moment), SOFT, small=True, anchor="ma")
    curve = track["curve"]
    low, mean, high = ([(across(moment), down(value)) for moment, value in zip(curve["seconds"], values, strict=True)]
                       for values in (curve["least"], curve["values"], curve["most"]))
    if len(mean) > 1:
        sheet.area([*low, *reversed(high)], SPREAD)
        sheet.line(mean, CURVE, 1.6)
    else:
        sheet.dot(mean[0], CURVE)
    trend(sheet, curve, track, across, down, plot)


def trend(sheet: "Sheet", curve: dict[str, list[float]], track: dict[str, Any], across, down, plot) -> None:
    slope, middle = track["slope_per_minute"], sum(curve["seconds"]) / len(curve["seconds"])
    if slope is None:
        return
    ends = [(across(moment), down(track["mean"] + slope * (moment - middle) / 60))
            for moment in (curve["seconds"][0], curve["seconds"][-1])]
    if all(plot[1] <= y <= plot[3] for _, y in ends):
        sheet.line(ends, TREND, 1.4)


def lag_panel(sheet: "Sheet", box: Sequence[int], lips: dict[str, Any]) -> None:
    """The correlation of mouth and sound at each lag, as bars."""
    lags, values = lips["by_lag"]["lags"], [value or 0.0 for value in lips["by_lag"]["correlations"]]
    plot = frame(sheet, box, "Lip sync", "correlation at each lag, in frames; right: the mouth is late",
                 f"best {lips['correlation']:.2f} at {lips['lag_frames']:+d}   confidence {lips['confidence']:.2f}")
    down = value_axis(sheet, plot, min(0.0, *values), max(0.1, *values))
    step = (plot[2] - plot[0]) / len(lags)
    for place, (lag, value) in enumerate(zip(lags, values, strict=True)):
        middle = plot[0] + (place + 0.5) * step
        sheet.bar(middle - step * 0.36, down(value), middle + step * 0.36, down(0),
                  TREND if lag == lips["lag_frames"] else CURVE)
        if lag % 5 == 0:
            sheet.text(middle, plot[3] + 4, f"{lag:+d}" if lag else "0", SOFT, small=True, anchor="ma")


def frame(sheet: "Sheet", box: Sequence[int], title: str, unit: str, says: str) -> tuple[int, int, int, int]:
    """A titled panel; what is left for the plot."""
    left, top, right, bottom = box
    sheet.text(left, top, title)
    sheet.text(right, top + 2, says, SOFT, small=True, anchor="ra")
    sheet.text(left, top + 22, unit, SOFT, small=True)
    plot = (left + PANEL_LEFT, top + PANEL_TOP, right, bottom - PANEL_BOTTOM)
    sheet.bar(*plot, PANEL)
    return plot


def value_axis(sheet: "Sheet", plot: Sequence[int], low: float, high: float):
    """Draw it; return where a value is, in pixels from the top."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1):
        low, high = low - max(abs(low) * 0.01, 0.01), high + max(abs(high) * 0.01, 0.01)
    ticks = steps(low, high, 4, outward=True)
    low, high = ticks[0], ticks[-1]

    def down(value: float) -> float:
        return plot[3] - (plot[3] - plot[1]) * (value - low) / (high - low)

    for tick in ticks:
        sheet.line([(plot[0], down(tick)), (plot[2], down(tick))], GRID)
        sheet.text(plot[0] - 8, down(tick), f"{tick:.5g}", SOFT, small=True, anchor="rm")
    return down


def steps(low: float, high: float, about: int, outward: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, about so many; `outward`: with one beyond each end that is none."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * share for share in (1, 2, 2.5, 5, 10) if power * share >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    if outward:
        first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [round(place * step, 12) for place in range(first, last + 1)]


def number(value: float | None, sign: bool = False) -> str:
    return "unknown" if value is None else f"{value:{'+' if sign else ''}.3g}"


def drift_in_words(slope_per_minute: float | None, seconds: float) -> str:
    """Per minute, or over the whole of a shorter clip, which has not been seen to go on."""
    if slope_per_minute is None or seconds >= 60:
        return f"{number(slope_per_minute, sign=True)} / min"
    return f"{number(slope_per_minute * seconds / 60, sign=True)} in {seconds:.3g} s"


def clock(seconds: float) -> str:
    """0:07, 12:30; with a decimal where there is one."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}" + (f".{tenths % 10}" if tenths % 10 else "")
