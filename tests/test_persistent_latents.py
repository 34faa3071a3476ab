"""Persistent latents as plain functions: order, channels, draws, and where pictures stand without channels."""
from types import SimpleNamespace

import pytest
import torch
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.layout import Layout, Span
from lodestar.techniques.persistent_latents import (
    COMPLETE_WITH,
    Memory,
    PersistentLatents,
    draw_frames,
    memory_channels,
    quantise,
)
from lodestar.techniques.technique import ChunkPosition, lay_out, sort_techniques

pytestmark = pytest.mark.once


def latents(*values):
    """(1, 2, len(values), 2, 2), each frame of one value."""
    return torch.tensor(values, dtype=torch.float32)[None, None, :, None, None].expand(1, 2, -1, 2, 2)


def frames_of(channels):
    return channels[0, 0, :, 0, 0].tolist()


@pytest.mark.parametrize(("order", "others", "wanted"), [
    ("reference first", (5, 7, 9), [1, 5, 7, 9]), ("upstream", (5, 7, 9), [5, 7, 9, 1]),
    ("reference first", (5,), [1, 1, 1, 5]), ("upstream", (5,), [5, 1, 1, 1]), ("upstream", (), [1, 1, 1, 1])])
def test_pictures_in_order_and_the_rest_is_the_reference(order, others, wanted):
    assert frames_of(PersistentLatents(order=order).arrange(latents(1), latents(*others))) == wanted


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("motion", range(5))
def test_channels_and_mask_by_hand(count, motion):
    """Pictures, motion, null; only the pictures are marked as known."""
    identity = latents(*range(1, count + 1))
    memory = Memory(identity, latents(*range(20, 20 + motion)) if motion else None)
    channels, known = memory_channels(memory, 9, latents(-3))
    wanted, mask = [], []
    for slot in range(count + 9):
        wanted.append(slot + 1 if slot < count else 20 + slot - count if slot < count + motion else -3)
        mask.append(1 if slot < count else 0)
    assert frames_of(channels) == wanted and frames_of(known) == mask
    assert channels.shape == (1, 2, count + 9, 2, 2) and known.shape == (1, 1, count + 9, 2, 2)


def test_frames_are_drawn_by_seed_sorted_and_never_the_first():
    drawn = [draw_frames(3, 77, seed) for seed in range(200)]
    assert drawn == [draw_frames(3, 77, seed) for seed in range(200)] and len({tuple(each) for each in drawn}) > 190
    assert all(each == sorted(set(each)) and 1 <= each[0] and each[-1] <= 76 and len(each) == 3 for each in drawn)
    assert {frame for each in (draw_frames(7, 9, seed) for seed in range(50)) for frame in each} == set(range(1, 9))
    assert draw_frames(7, 5, 0) == [1, 2, 3, 4] and draw_frames(3, 1, 0) == []


def test_what_is_drawn_is_what_views_and_the_reference_leave():
    views = torch.rand(5, 8, 8, 3)
    assert [PersistentLatents(count).drawn for count in (1, 2, 4)] == [0, 1, 3]
    assert PersistentLatents(4, views=views[:2]).drawn == 1 and PersistentLatents(4, views=views).drawn == 0
    assert len(PersistentLatents(4, views=views).given_views) == 3
    assert PersistentLatents(1, views=views).given_views == ()
    assert PersistentLatents(4, complete_with=COMPLETE_WITH[1]).drawn == 0
    assert PersistentLatents(4, views=views).missing(1) == 2      # where two of the three given are copies


def test_eight_bits_are_cut_off_not_rounded():
    assert (quantise(torch.tensor([0.0, 0.9999 / 255, 1 / 255, 0.5, 1.0, 1.2, -1])) * 255).tolist() == [
        0, 0, 1, 127, 255, 255, 0]


def test_the_last_latents_pass_as_they_were_sampled():
    past = SimpleNamespace(latents=lambda count: ("latents", count))
    assert PersistentLatents().handover(past, 2, None) == ("latents", 2) and PersistentLatents().handover_frames(2) == 0


def times(layout):
    return {span.name: span.times for span in layout.spans}


@pytest.mark.parametrize("stitch", [(), (LatentStitch(),)])
def test_without_channels_pictures_stand_ahead_and_what_was_handed_over_before(stitch):
    position = ChunkPosition(reference=latents(1), context=latents(8, 9), identity=latents(5, 7))
    layout, _ = lay_out(Layout.of_chunk(4), sort_techniques((*stitch, PersistentLatents())), position)
    assert times(layout) == {"chunk": (2, 3, 4, 5), "context": (0, 1), "anchor": (8, 11, 14)}
    assert frames_of(layout["anchor"].latents) == [1, 5, 7] and frames_of(layout["context"].latents) == [8, 9]


def test_a_model_s_own_reference_is_not_shown_twice():
    own = Layout.of_chunk(4).append(Span("reference", (30,)))
    layout = PersistentLatents().layout(own, ChunkPosition(reference=latents(1), identity=latents(5)))
    assert times(layout) == {"chunk": (0, 1, 2, 3), "reference": (30,), "anchor": (33,)}
    nothing = ChunkPosition(reference=latents(1), identity=latents())
    assert times(PersistentLatents().layout(own, nothing)) == {"chunk": (0, 1, 2, 3), "reference": (30,)}


def test_where_channels_hold_them_nothing_enters_the_sequence():
    own = Layout.of_chunk(4)
    assert PersistentLatents().layout(own, ChunkPosition(reference=latents(1))) is own


@pytest.mark.parametrize(("values", "message"), [
    ({"count": 0}, "count: got 0, wanted 1 to 8"), ({"count": 9}, "count: got 9"),
    ({"motion_latents": 5}, "motion_latents: got 5, wanted 0 to 4"), ({"order": "last"}, "order: got 'last'"),
    ({"complete_with": "x"}, "complete_with: got 'x'"), ({"clip_picture": "x"}, "clip_picture: got 'x'")])
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        PersistentLatents(**values)
