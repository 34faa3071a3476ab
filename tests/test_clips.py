"""Takes in clips that are each decoded on their own, on a toy model: frames, resume anywhere, a state written once."""
from fractions import Fraction

import numpy as np
import pytest
import torch
from lodestar.pipelines.take.plan import plan_clips
from lodestar.pipelines.take.video_writer import Segment
from lodestar.techniques.timeline import Timeline
from lodestar.tests.test_take import HEIGHT, WIDTH, Take, pictures
from lodestar.tests.tiny_backbone import ToySampler, decode_at_once

pytestmark = pytest.mark.once


def plan_of(frames=60, script="0:00 she smiles"):
    """Clips of 21 frames, 6 latents, that repeat 4: 4 of them."""
    return plan_clips(Timeline(Fraction(25)), frames, 21, 4, WIDTH, HEIGHT, script)


class Remembering(ToySampler):
    """Continues from the last latent and the last decoded frame; what it draws of its first clip stays the same."""

    def __init__(self, **options):
        super().__init__(WIDTH, HEIGHT, self.context, 1, **options)
        self.drawn = None

    def context(self, past):
        if self.drawn is None:
            self.drawn = past.first_latents(6)[:, :, 2:3] * 2
        return past.latents(1) + self.drawn + past.frames(1).mean()

    def state(self):
        return {} if self.drawn is None else {"drawn": self.drawn}

    def restore(self, state, past):
        self.drawn = state.get("drawn")


def test_every_clip_is_decoded_on_its_own_and_drops_what_it_repeats(tmp_path, monkeypatch):
    shown, plan, write = [], plan_of(), Segment.write
    monkeypatch.setattr(Segment, "write", lambda self, frames: (shown.append(frames.clone()), write(self, frames)))
    take = Take(tmp_path, plan, Remembering())
    clips = [decode_at_once(take.latents[:, :, first:first + 6]) for first in range(0, 24, 6)]
    whole = torch.cat([clips[0], *(clip[4:] for clip in clips[1:])])
    assert torch.equal(torch.cat(shown), whole[:60]) and len(take.streams) == 4
    assert take.result.frames == 60


@pytest.mark.parametrize("clip", [1, 2, 3])
def test_a_take_that_died_has_the_frames_of_a_whole_one(tmp_path, clip):
    whole = Take(tmp_path / "whole", plan_of(), Remembering())
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan_of(), Remembering(fail_at=clip))
    resumed = Take(tmp_path / "cut", plan_of(), Remembering())
    assert resumed.sampler.sampled == list(range(clip, 4)) and torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(pictures(resumed), pictures(whole))


def test_a_state_that_stays_is_written_once_and_any_clip_can_be_made_again(tmp_path):
    """The toy rolling sampler's changes with each chunk: test_take.py."""
    script = "0:00 she smiles\n0:02 she laughs"
    Take(tmp_path, plan_of(script=script), Remembering())
    assert [path.name for path in tmp_path.glob("state_*")] == ["state_0001.safetensors"]
    again = Take(tmp_path, plan_of(script=script + " and waves"), Remembering())
    assert again.sampler.sampled == [3] and again.note == "prompt changed: chunk 4 is made again"
    whole = Take(tmp_path / "whole", plan_of(script=script + " and waves"), Remembering())
    assert torch.equal(again.latents, whole.latents)
    (tmp_path / "state_0001.safetensors").unlink()
    assert "is not on disk" in Take(tmp_path, plan_of(script=script), Remembering()).note
