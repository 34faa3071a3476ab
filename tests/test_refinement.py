"""The plan of a refinement, and the enlarged video that its chunks begin from, against PyTorch's whole-array ways."""
from fractions import Fraction

import pytest
import torch
from lodestar.pipelines.take.refinement import EnlargedVideo, plan_refinement
from torch.nn.functional import interpolate


class Shown:
    """Frames in memory; `asked` keeps what was read of them."""

    def __init__(self, count, height=6, width=10):
        self.fps, self.count, self.asked = Fraction(15), count, []
        self.frames = torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))

    def between(self, first, end):
        self.asked.append((first, end))
        return list(self.frames[first:end])


def upsampled(frames, count, height, width):
    """The definition: bilinear, then trilinear over time, corners aligned."""
    larger = interpolate(frames.movedim(-1, 1), (height, width), mode="bilinear", align_corners=True)
    larger = larger.movedim(1, 0)[None]
    return interpolate(larger, (count, height, width), mode="trilinear", align_corners=True)[0].movedim(0, -1)


@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 9, 93])
def test_it_is_the_clip_upsampled_as_a_whole(count, rate):
    source = Shown(count)
    found = EnlargedVideo(source, rate, 24, 16, "stretch").frames(0, rate * count + 3)
    expected = upsampled(source.frames, rate * count, 16, 24)
    torch.testing.assert_close(found, torch.cat([expected, expected[-1:].expand(3, -1, -1, -1)]), atol=2e-5, rtol=0)


def test_every_stretch_is_of_the_same_video_and_reads_no_more_than_it_needs():
    source = Shown(200)
    video = EnlargedVideo(source, 2, 20, 12, "stretch")
    whole = video.frames(0, 400)
    for first, count in ((0, 189), (160, 189), (320, 80)):
        torch.testing.assert_close(video.frames(first, count), whole[first:first + count], atol=1e-6, rtol=0)
    assert all(end - begin <= 96 for begin, end in source.asked[1:])


def test_a_crop_keeps_the_proportions():
    source = Shown(1, 40, 100)
    found = EnlargedVideo(source, 1, 64, 64).frames(0, 1)[0]
    expected = interpolate(source.frames[:, :, 30:70].movedim(-1, 1), (64, 64), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, expected[0].movedim(0, -1))


def latents_of(plan):
    return [(chunk.first_latent, chunk.context_latents, chunk.latents) for chunk in plan.chunks]


def test_chunks_are_the_authors():
    """Their 93 frames that overlap by 13 become 48 latents of which 8 are given; 24 and 4 at the same rate."""
    plan = plan_refinement(93 + 80 * 2, Fraction(15), 2, 1280, 704, 93, 13)
    assert latents_of(plan) == [(0, 0, 48), (40, 8, 48), (80, 8, 48)]
    assert (plan.timeline.fps, plan.total_frames, plan.trimmed_frames) == (30, 506, 3)
    alone = plan_refinement(93 + 80 * 2, Fraction(15), 1, 1280, 704, 93, 13)
    assert latents_of(alone) == [(0, 0, 24), (20, 4, 24), (40, 4, 24)] and alone.total_frames == 253
    assert alone.timeline.fps == 15 and alone.trimmed_frames == 0


@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("frames", [1, 5, 92, 94, 100, 1000])
def test_chunks_tile_any_video_in_multiples_of_four_latents(frames, rate):
    plan = plan_refinement(frames, Fraction(25), rate, 64, 64, 17, 5)
    ends = [plan.frames_of(chunk) for chunk in plan.chunks]
    assert ends[0][0] == 0 and ends[-1][1] == plan.total_frames == rate * frames
    assert all(one[1] == other[0] for one, other in zip(ends, ends[1:], strict=False))
    assert all(chunk.context_latents % 4 == 0 and chunk.latents % 4 == 0 for chunk in plan.chunks)
    assert len({chunk.seed(7) for chunk in plan.chunks}) == len(plan.chunks)
    assert plan.seconds == Fraction(frames, 25)


@pytest.mark.parametrize("sizes", [(13, 13), (5, 13), (8, 7)])
def test_a_chunk_no_longer_than_its_overlap_is_refused(sizes):
    with pytest.raises(ValueError, match=f"chunk_frames: got {sizes[0]} frames that overlap by {sizes[1]}"):
        plan_refinement(100, Fraction(25), 1, 64, 64, *sizes)


def test_more_frames_a_second_than_a_video_can_have_are_refused():
    with pytest.raises(ValueError, match="video: it has 150 frames a second, 2 of each .* Set mode to spatial"):
        plan_refinement(100, Fraction(150), 2, 64, 64, 93, 13)
