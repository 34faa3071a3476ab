"""Two takes of the same seconds, with the anchor and without: one picture, three sentences that say what it means."""
import json
from pathlib import Path
from typing import NamedTuple

from lib.graph import Graph

SHOWN = 6                   # times in the picture
OUT_OF_SIGHT = 64           # latents: no chunk is longer


class Figures(NamedTuple):
    """What a take's report says. Likeness to the picture in the first second and the last, 1 being the same person; how
    well the mouth follows the sound; how much more changes at chunk borders than elsewhere. None: not measured."""
    first: float | None
    last: float | None
    lips: float | None
    seams: float | None

    @classmethod
    def of(cls, report: Path) -> "Figures":
        measures = json.loads(report.read_text(encoding="utf-8"))["measures"]
        who, lips, seams = (measures.get(name) or {} for name in ("identity", "lip_sync", "seams"))
        return cls(who.get("first_second"), who.get("last_second"), lips.get("correlation"), seams.get("score"))

    @property
    def drift(self) -> float:
        return max((self.first or 0) - (self.last or 0), 0)


def without_anchor(graph: Graph) -> Graph:
    """The same workflow whose chunks see no picture of the person after the first frame: nothing but the end of the
    chunk before says who it is."""
    graph = Graph(graph.prompt())
    for anchor in graph.all("LodestarLookaheadAnchor"):
        anchor.become("LodestarReferenceSkip", model=anchor.inputs["model"], mode="hard", radius=OUT_OF_SIGHT,
                      factor=0.0)
    take = graph.having("filename_prefix")
    take.set(filename_prefix=take.inputs["filename_prefix"] + "_without_anchor")
    return graph


def sentences(held: Figures, free: Figures, seconds: float) -> list[str]:
    """Three, the worst first, of the take with the anchor against the one without."""
    found = []
    if held.last is not None and free.last is not None:
        found.append((1 - held.last, (
            f"Without the anchor the face has drifted by {free.drift:.2f} after {seconds:.0f} s, with it by "
            f"{held.drift:.2f}: its likeness to the picture is {free.last:.2f} and {held.last:.2f} (1 is the same "
            "person, 0 a stranger).")))
    if held.lips is not None:
        found.append((1 - held.lips, (
            f"The mouth follows the sound with a correlation of {held.lips:.2f} (1 is exactly, 0 not at all)"
            + (f"; without the anchor {free.lips:.2f}." if free.lips is not None else "."))))
    if held.seams is not None:
        found.append((held.seams - 1, (
            f"Where one chunk ends and the next begins the picture changes {held.seams:.1f} times as much as elsewhere"
            " (1: it cannot be seen)" + (f"; without the anchor {free.seams:.1f} times." if free.seams is not None
                                         else "."))))
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def picture(held: Path, free: Path, target: Path) -> Path:
    """Frames of both videos at the same times, one row above the other."""
    from PIL import Image, ImageDraw
    rows = [moments(held), moments(free)]
    zoom = max(1, 192 // rows[0][0][1].height)
    width, height = rows[0][0][1].width * zoom, rows[0][0][1].height * zoom
    sheet = Image.new("RGB", (len(rows[0]) * (width + 6) + 6, 2 * (height + 22) + 6), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (words, shown) in enumerate(zip(("with the anchor", "without"), rows, strict=True)):
        top = 4 + row * (height + 22)
        for column, (seconds, frame) in enumerate(shown):
            left = 6 + column * (width + 6)
            pen.text((left, top + 2), f"{words}, {seconds:.1f} s" if not column else f"{seconds:.1f} s", "black")
            sheet.paste(frame.resize((width, height), Image.Resampling.NEAREST), (left, top + 18))
    sheet.save(target)
    return target


def moments(video: Path) -> list:
    """(seconds, picture) at SHOWN times from the first frame to the last."""
    import av
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        rate, frames = float(stream.average_rate), [frame.to_image() for frame in container.decode(stream)]
    places = [round(index * (len(frames) - 1) / (SHOWN - 1)) for index in range(SHOWN)]
    return [(place / rate, frames[place]) for place in places]
