"""Global time: each of ComfyUI's context windows keeps its place on the timeline of the whole latent.

Without it every window counts from 0, so all are made as the opening of the shot: at the same distance from what stands
beside them. With it the window's frames have the times they would have in one call over all frames, and so has what
stays put: what is ahead of a window is as far ahead of the whole latent. A shift of everything would change nothing,
since RoPE knows distances alone; so where nothing stays put it is refused.
"""
from dataclasses import dataclass

from .layout import Layout, Span
from .technique import ChunkPosition, Technique


@dataclass(frozen=True, eq=False)
class GlobalTime(Technique):
    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        if not position.window:
            return layout
        if len(layout.spans) == 1 and not layout.has_more:
            raise ValueError("model: Global Time would change nothing here: nothing stands beside the context windows "
                             "for them to be near to or far from. Add a Lookahead Anchor, or remove Global Time")
        return Layout(tuple(place(span, layout, position) for span in layout.spans), layout.has_more)

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        return None if position.window else "global time is inactive: no context windows cut this latent into parts"


def place(span: Span, layout: Layout, position: ChunkPosition) -> Span:
    """The span at the times it would have if the call held the whole latent."""
    chunk, window = layout["chunk"], position.window
    given = len(window) - len(chunk.times)      # of the call's own frames, where a model lays those out by themselves
    begins = chunk.times[0] - given
    if span is chunk:
        return span.at(begins + frame for frame in window[given:])
    if span.name == "context" and span.latents is None:
        return span.at(begins + frame for frame in window[:given])
    ahead = position.whole - len(window)
    return span.at(time + ahead if time >= layout.last_time else time for time in span.times)
