"""From a layout to what the network is called with: pictures first, each by itself, then context, then noise."""
from ...techniques.layout import Layout, Span

Visibility = dict[tuple[int, int], float]


def own_layout(frames: int, num_cond_frames: int, references: int, reference_time: float) -> Layout:
    """What upstream lays out: `references` pictures at one time, `num_cond_frames` conditioning frames, then noise."""
    layout = Layout((Span("chunk", tuple(range(num_cond_frames, frames)), clean=False),))
    if references:
        layout = layout.append(Span("reference", (reference_time,) * references))
    return layout.append(Span("context", tuple(range(num_cond_frames)))) if num_cond_frames else layout


def in_order(layout: Layout, visibility: Visibility) -> tuple[list[Span], tuple[float, ...], Visibility]:
    """(spans of the pictures, RoPE times of all frames, visibility by frame), in the network's order."""
    pictures = [span for span in layout.spans if span.clean and span.name != "context"]
    spans = [*pictures, *(span for name in ("context", "chunk") if (span := layout.find(name)) is not None)]
    order = [frame for span in spans for frame in layout.frame_indices(span)]
    place = {frame: index for index, frame in enumerate(order)}
    times = tuple(time for span in spans for time in span.times)
    return pictures, times, {(place[query], place[key]): weight for (query, key), weight in visibility.items()}
