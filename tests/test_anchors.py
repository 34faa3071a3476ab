"""Where anchors and keyframes stand, against the paper's own words: position n-1+d for every chunk."""
from fractions import Fraction

import pytest
import torch
from lodestar.techniques.layout import Layout, Span
from lodestar.techniques.lookahead_anchor import LookaheadAnchor, anchor_time, parse_schedule
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition, lay_out, sort_techniques
from lodestar.techniques.timeline import Timeline

PICTURE = torch.zeros(1, 16, 1, 4, 4)


def picture(value: float) -> torch.Tensor:
    return torch.full((1, 16, 1, 4, 4), value)


@pytest.mark.parametrize("latents", [1, 5, 21, 300])
@pytest.mark.parametrize("distance", [1, 3, 18, 2.5])
def test_the_anchor_stands_d_after_the_last_frame(latents, distance):
    layout = LookaheadAnchor(distance, latents=PICTURE).layout(Layout.of_chunk(latents), ChunkPosition())
    assert layout["anchor"].times == (latents - 1 + distance,)
    assert layout["chunk"].times == tuple(range(latents)) and layout["anchor"].clean


def test_several_views_stand_one_after_the_other():
    views = torch.zeros(1, 16, 3, 4, 4)
    layout = LookaheadAnchor(4, latents=views).layout(Layout.of_chunk(10), ChunkPosition())
    assert layout["anchor"].times == (13, 14, 15)


def test_the_paper_s_other_placements():
    chunk = Layout.of_chunk(21)
    assert anchor_time(chunk, "past", Timeline(Fraction(25)).distance_in_latents(8)) == -2
    assert anchor_time(chunk, "in chunk", 0, 7.5) == 7.5
    assert anchor_time(chunk, "chunk end", 0) == 20
    for placement, distance, index in (("lookahead", 0, 0), ("past", 0.5, 0), ("in chunk", 0, 21), ("behind", 1, 0)):
        with pytest.raises(ValueError, match="got"):
            anchor_time(chunk, placement, distance, index)


def test_distances_are_floored_as_in_the_paper():
    clock = Timeline(Fraction(25))
    assert [clock.distance_in_latents(frames) for frames in (3, 4, 12, 13, 75, 80)] == [0, 1, 3, 3, 18, 20]


def test_self_keyframing_moves_the_model_s_own_reference_else_takes_the_take_s_picture():
    own = Layout.of_chunk(20).append(Span("reference", (30,)))
    moved = LookaheadAnchor(3).layout(own, ChunkPosition(reference=PICTURE))
    assert moved["reference"].times == (22,) and moved["reference"].latents is None and moved.find("anchor") is None
    taken = LookaheadAnchor(3).layout(Layout.of_chunk(20), ChunkPosition(reference=PICTURE))
    assert taken["anchor"].latents is PICTURE
    with pytest.raises(ValueError, match="anchor: .*Reference Picture"):
        LookaheadAnchor(3).layout(Layout.of_chunk(20), ChunkPosition())


@pytest.mark.parametrize("others", [(LookaheadAnchor(3, "past"),), (StyleAnchor(),), (LookaheadAnchor(8),)])
def test_two_anchors_without_a_latent_are_both_seen_where_the_model_has_one_reference(others):
    own = Layout.of_chunk(20).append(Span("reference", (30,)))
    anchors = sort_techniques((LookaheadAnchor(3), *others))
    layout, _ = lay_out(own, anchors, ChunkPosition(reference=PICTURE))
    alone = lay_out(own, others, ChunkPosition(reference=PICTURE))[0]["reference"].times
    assert {span.times for span in layout.references} == {(22,), alone} and layout["anchor"].latents is PICTURE
    with pytest.raises(ValueError, match="anchor: another anchor has moved this model's own reference.*LATENT"):
        lay_out(own, anchors, ChunkPosition())


def story() -> NarrativeKeyframes:
    return NarrativeKeyframes().plus(Fraction(9), picture(9)).plus(Fraction(4), picture(4))


@pytest.mark.parametrize(("start", "pursued"), [(0, 4), (3.99, 4), (4, 9), (5, 9), (8.9, 9), (9, None), (60, None)])
def test_a_chunk_pursues_the_next_keyframe_until_it_is_passed(start, pursued):
    found = story().keyframe_at(Fraction(start))
    assert (None if found is None else found.flatten()[0].item()) == pursued


def test_a_keyframe_replaces_the_anchor_s_picture_and_not_its_place():
    anchored = LookaheadAnchor(5, latents=PICTURE).layout(Layout.of_chunk(20), ChunkPosition())
    layout = story().layout(anchored, ChunkPosition(start_seconds=Fraction(4)))
    assert layout["anchor"].times == (24,) and layout["anchor"].latents.flatten()[0] == 9
    own = LookaheadAnchor(5).layout(Layout.of_chunk(20).append(Span("reference", (30,))), ChunkPosition())
    layout = story().layout(own, ChunkPosition())
    assert layout["reference"].times == (24,) and layout["reference"].latents.flatten()[0] == 4
    assert story().layout(anchored, ChunkPosition(start_seconds=Fraction(9))) is anchored


def test_without_an_anchor_node_a_keyframe_stands_at_the_paper_s_default_distance():
    assert story().layout(Layout.of_chunk(20), ChunkPosition())["anchor"].times == (22,)


def test_doubled_and_negative_keyframes_are_refused():
    for seconds, latents, message in ((4, PICTURE, "two keyframes"), (-1, PICTURE, "0 or more"),
                                      (1, torch.zeros(1, 16, 2, 4, 4), "one picture")):
        with pytest.raises(ValueError, match=message):
            story().plus(Fraction(seconds), latents)


def test_a_schedule_gives_one_time_per_chunk_in_turn():
    layout, picture = Layout.of_chunk(6), torch.zeros(1, 16, 1, 2, 2)
    anchor = LookaheadAnchor(latents=picture, schedule=parse_schedule(" 10, 30,-10 "))
    times = [anchor.layout(layout, ChunkPosition(chunk=chunk)).references[0].times for chunk in range(5)]
    assert times == [(10.0,), (30.0,), (-10.0,), (10.0,), (30.0,)]


@pytest.mark.parametrize("text", ["10;30", "a", "10,,30", "1e9", "nan"])
def test_a_schedule_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="^schedule: got"):
        parse_schedule(text)


def test_a_shorter_last_chunk_does_not_end_a_take():
    """What held in the first chunk goes on; there too it is refused where it never was inside."""
    anchor, short = LookaheadAnchor(1, "in chunk", 8.0, PICTURE), Layout.of_chunk(6)
    assert anchor.layout(short, ChunkPosition(chunk=3)).references[0].times == (8.0,)
    with pytest.raises(ValueError, match="^index: got 8, wanted 0 to 5"):
        anchor.layout(short, ChunkPosition())
