"""Which frames do not attend to the reference, against LongCat-Video-Avatar, fig. 6, read literally."""
import pytest
import torch
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.layout import Layout, Span
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition

HERE = ChunkPosition()


def layout(time: float, frames: int = 10) -> Layout:
    return Layout.of_chunk(frames).append(Span("anchor", (time,), latents=torch.zeros(1, 16, 1, 4, 4)))


def test_hard_removes_the_reference_from_m_minus_1_to_m_plus_1():
    assert ReferenceSkip().visibility(layout(4)) == {(3, 10): 0, (4, 10): 0, (5, 10): 0}


def test_soft_removes_it_from_m_and_down_weights_the_neighbours():
    assert ReferenceSkip("soft", factor=0.3).visibility(layout(4)) == {(3, 10): 0.3, (4, 10): 0, (5, 10): 0.3}


@pytest.mark.parametrize(("time", "radius", "visibility"), [
    (4.25, 1, {4: 0, 5: 0.3}), (4.5, 1, {4: 0, 5: 0}), (4.75, 1, {4: 0.3, 5: 0}),
    (4.25, 0, {4: 0}), (4.5, 0, {4: 0, 5: 0}), (4.0, 0, {4: 0}), (4.25, 2, {3: 0.3, 4: 0, 5: 0.3, 6: 0.3})])
def test_soft_hides_the_nearest_frame_of_a_reference_between_two(time, radius, visibility):
    """A frame at most half a frame away counts as the reference's own: a radius of 0 still hides it."""
    assert ReferenceSkip("soft", radius, 0.3).visibility(layout(time)) == {(query, 10): factor for query, factor
                                                                          in visibility.items()}


def test_the_radius_is_settable_and_the_band_is_clipped_to_the_chunk():
    assert set(ReferenceSkip(radius=3).visibility(layout(1))) == {(query, 10) for query in range(5)}
    assert set(ReferenceSkip(radius=3).visibility(layout(11))) == {(8, 10), (9, 10)}
    assert set(ReferenceSkip(radius=0).visibility(layout(4))) == {(4, 10)}


@pytest.mark.parametrize("time", [12, -2, 30])
def test_a_band_outside_the_chunk_is_announced(time):
    skip = ReferenceSkip()
    assert skip.visibility(layout(time)) == {}
    assert f"inactive: the reference stands at {time}" in skip.notice(layout(time), HERE)
    assert skip.notice(layout(4), HERE) is None
    assert "no reference" in skip.notice(Layout.of_chunk(10), HERE)


def test_the_band_follows_the_chunk_s_times_behind_a_stitched_context():
    stitched = LatentStitch().layout(Layout.of_chunk(6), ChunkPosition(context=torch.zeros(1, 16, 4, 4, 4)))
    assert stitched["chunk"].times == (4, 5, 6, 7, 8, 9) and stitched["context"].times == (0, 1, 2, 3)
    placed = stitched.append(Span("anchor", (5,), latents=torch.zeros(1, 16, 1, 4, 4)))
    assert set(ReferenceSkip().visibility(placed)) == {(0, 10), (1, 10), (2, 10)}


@pytest.mark.parametrize("time", range(-3, 14))
@pytest.mark.parametrize("radius", [0, 1, 3])
def test_upstream_mode_is_all_or_nothing(time, radius):
    """The authors' chunk, in their own counting: 4 context and 6 noisy frames, one reference."""
    clean, noisy = 5, 6
    start, end = time - radius - clean + 1, time + radius - clean + 2
    active = radius > 0 and start >= 0 and end <= noisy
    stitched = LatentStitch().layout(Layout.of_chunk(noisy), ChunkPosition(context=torch.zeros(1, 16, 4, 4, 4)))
    placed = stitched.append(Span("anchor", (time,), latents=torch.zeros(1, 16, 1, 4, 4)))
    skip = ReferenceSkip("upstream", radius)
    assert set(skip.visibility(placed)) == {(query, 10) for query in (range(start, end) if active else ())}
    assert active or "in upstream mode" in skip.notice(placed, HERE)


@pytest.mark.parametrize("wrong", [{"mode": "medium"}, {"radius": -1}, {"factor": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        ReferenceSkip(**wrong)
