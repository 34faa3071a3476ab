"""What a chunk sampler and the take so far may do to each other: memory that is used again, asking too early."""
from fractions import Fraction

import pytest
import torch
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.plan import plan_take
from lodestar.pipelines.take.take import make_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline
from lodestar.tests.tiny_backbone import ToyRollingSampler, ToySampler, ToyStream, decode_at_once, last_latents

WIDTH, HEIGHT, FPS = 32, 16, Fraction(25)


class Writer(VideoWriter):
    """Keeps the frames as they come, too."""

    def __init__(self):
        super().__init__(WIDTH, HEIGHT, FPS)
        self.frames = []

    def segment(self, path):
        segment = super().segment(path)
        write = segment.write
        segment.write = lambda group: (self.frames.append(group.clone()), write(group))
        return segment


def take(folder, sampler):
    """A take of five chunks: its latents as the journal has them, its frames as they were written."""
    plan, writer = plan_take(Timeline(FPS), 100, 29, 9, WIDTH, HEIGHT), Writer()
    with Journal.open(folder, [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
        make_take(plan, sampler, ToyStream, journal, writer)
        return journal.latents(0, plan.total_latents), torch.cat(writer.frames)


class InPlace(ToyRollingSampler):
    """Goes on in the memory of the piece it gave, as one that shifts a window does."""

    def sample(self, chunk, past):
        for piece in super().sample(chunk, past):
            yield piece
            piece.zero_()


def test_a_sampler_may_go_on_in_the_memory_of_a_piece(tmp_path):
    latents, frames = take(tmp_path / "a", ToyRollingSampler(WIDTH, HEIGHT, last_latents(3)))
    own, shown = take(tmp_path / "b", InPlace(WIDTH, HEIGHT, last_latents(3)))
    assert torch.equal(own, latents) and torch.equal(shown, frames)
    assert torch.equal(shown, decode_at_once(own)[:len(shown)])


def test_nothing_is_there_before_the_first_latent(tmp_path):
    class Early(ToySampler):
        def sample(self, chunk, past):
            for ask in (past.latents, past.first_latents, past.frames) if not chunk.index else ():
                with pytest.raises(ValueError, match="of a take that has 0, wanted at least 1; nothing is there"):
                    ask(3)
            yield from super().sample(chunk, past)
            with pytest.raises(ValueError, match="got 0 latents to read of a take that has"):
                past.latents(0)

    take(tmp_path, Early(WIDTH, HEIGHT, past_frames=9))
