"""Draw the pictures of the help pages, into web/docs: `python scripts/draw_layouts.py`. For developers.

A layout is what the techniques make of one model call, nothing of it drawn by hand; other pages show where their node
sits.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
from fractions import Fraction
from pathlib import Path

from lib import wiring_picture
from lib.pack import load_pack

FOLDER = environment.PACK / "web" / "docs"
LATENTS, CONTEXT, FPS = 21, 4, 16       # of a Wan chunk: 81 frames at 16 fps, 13 of them from the chunk before


def layouts() -> dict[str, list]:
    """{name: (title, layout, visibility) of each panel}."""
    import torch
    from lodestar.networks.longcat.sequence import own_layout
    from lodestar.techniques.latent_stitch import LatentStitch
    from lodestar.techniques.layout import Layout
    from lodestar.techniques.lookahead_anchor import LookaheadAnchor
    from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
    from lodestar.techniques.reference_skip import ReferenceSkip
    from lodestar.techniques.technique import ChunkPosition, lay_out, sort_techniques
    picture, context = torch.zeros(1, 16, 1, 2, 2), torch.zeros(1, 16, CONTEXT, 2, 2)
    story = NarrativeKeyframes().plus(Fraction(4), picture).plus(Fraction(8), picture + 1)

    def panel(title: str, *techniques, chunk: int = 0, own=None):
        """Of a chunk of Wan 2.1 T2V, or of `own`. `chunk`: its number; the first has no context."""
        new = 4 * (LATENTS - CONTEXT)
        position = ChunkPosition(reference=picture, context=context if chunk and own is None else None, chunk=chunk,
                                 start_seconds=Fraction(new * chunk, FPS))
        noisy = LATENTS - (CONTEXT if position.context is not None else 0)
        layout, visibility = lay_out(own or Layout.of_chunk(noisy), sort_techniques((LatentStitch(), *techniques)),
                                     position)
        return title, layout, visibility | closed if own else visibility

    longcat = own_layout(24, CONTEXT, 1, 10)
    closed = {(query, key): 0.0 for span in (longcat["reference"], longcat["context"])     # they see only themselves
              for query in longcat.frame_indices(span) for key in range(25) if key not in longcat.frame_indices(span)}
    return {
        "layout_lookahead_anchor": [panel("An anchor 3 latent frames ahead of the chunk", LookaheadAnchor(), chunk=1)],
        "layout_reference_skip": [
            panel("LongCat's reference at 10, hard skip, radius 3", ReferenceSkip("hard", 3), own=longcat),
            panel("The same, soft, factor 0.5", ReferenceSkip("soft", 3, 0.5), own=longcat)],
        "layout_narrative_keyframes": [
            panel(f"Chunk {chunk + 1} pursues {ends}", LookaheadAnchor(), story, chunk=chunk)
            for chunk, ends in enumerate(("the keyframe at 4 s", "the keyframe at 8 s", "the take's own picture"))],
        "layout_latent_stitch": [panel("The first chunk"), panel("The next one, behind its last 4 latents", chunk=1)]}


def draw(name: str, panels: list, folder: Path) -> Path:
    """Write `name`.png: the panels, one below the other."""
    import torch
    from lodestar.pipelines.layout_picture import draw_layout
    from PIL import Image
    picture = torch.cat([draw_layout(layout, visibility, title) for title, layout, visibility in panels])
    target = folder / f"{name}.png"
    Image.fromarray((picture * 255).round().byte().numpy()).quantize(64).save(target, optimize=True)
    return target


def pages_with_wires() -> list[str]:
    """The nodes whose help page shows where the node sits."""
    return sorted(page.stem for page in FOLDER.glob("*.md") if f"wiring_{page.stem}.svg" in page.read_text("utf-8"))


def draw_wires(node_id: str, folder: Path) -> Path:
    target = folder / f"wiring_{node_id}.svg"
    target.write_text(wiring_picture.draw(node_id), encoding="utf-8", newline="\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to; the help pages' own")
    options = parser.parse_args()
    environment.enter(environment.make_environment(environment.requirements(None)))
    load_pack()
    for name, panels in layouts().items():
        print(draw(name, panels, options.folder))
    for node_id in pages_with_wires():
        print(draw_wires(node_id, options.folder))


if __name__ == "__main__":
    main()
