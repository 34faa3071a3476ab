"""Global Time against the layout of one call over the whole latent, written down."""
import pytest
import torch
from lodestar.networks.longcat.sequence import own_layout
from lodestar.techniques.global_time import GlobalTime
from lodestar.techniques.layout import Layout, Span
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.technique import ChunkPosition, sort_techniques

WHOLE = 40
PICTURE = torch.zeros(1, 16, 1, 4, 4)
WINDOWS = [(0, 1, 2), (9, 10, 11, 12), (36, 37, 38, 39), (38, 39, 0, 1), (4, 6, 8)]
PLACES = [{"distance": 3}, {"distance": 4.5}, {"placement": "past", "distance": 2},
          {"placement": "in chunk", "index": 1}, {"placement": "chunk end"}]


def at(window):
    return ChunkPosition(window=window, whole=WHOLE)


def lay_out(layout, position, *techniques):
    for technique in sort_techniques(techniques):
        layout = technique.layout(layout, position)
    return layout


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("place", PLACES)
def test_all_stands_where_one_call_has_it(window, place):
    anchor = LookaheadAnchor(latents=PICTURE, **place)
    found = lay_out(Layout.of_chunk(len(window)), at(window), GlobalTime(), anchor)
    whole = lay_out(Layout.of_chunk(WHOLE), at(()), anchor)
    assert found["chunk"].times == window and found["anchor"].times == whole["anchor"].times
    assert found["anchor"].latents is PICTURE


def test_given_frames_of_a_window_keep_their_places_too():
    """LongCat: of latents 2 to 6 the first two are given, and a reference stands far ahead."""
    own = own_layout(5, 2, 1, 30)
    found = lay_out(own, at((2, 3, 4, 5, 6)), GlobalTime())
    assert found["context"].times == (2, 3) and found["chunk"].times == (4, 5, 6)
    assert found["reference"].times == (30 + WHOLE - 5,)


def test_behind_clean_context_a_window_counts_from_the_context_on():
    context = Span("context", (0, 1), latents=PICTURE.expand(-1, -1, 2, -1, -1))
    own = Layout.of_chunk(3).change("chunk", times=(2, 3, 4)).append(context)
    found = lay_out(own, at((7, 8, 9)), GlobalTime())
    assert found["chunk"].times == (9, 10, 11) and found["context"].times == (0, 1)


def test_alone_it_is_refused_in_windows_and_changes_nothing_without():
    own = Layout.of_chunk(3)
    assert lay_out(own, ChunkPosition(), GlobalTime()) is own
    assert "no context windows" in GlobalTime().notice(own, ChunkPosition())
    with pytest.raises(ValueError, match="Global Time would change nothing"):
        lay_out(own, at((3, 4, 5)), GlobalTime())
    assert lay_out(Layout(own.spans, has_more=True), at((3, 4, 5)), GlobalTime())["chunk"].times == (3, 4, 5)
    assert GlobalTime().notice(own, at((3, 4, 5))) is None
