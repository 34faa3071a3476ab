"""The audio slots of each latent of a talking model, from feature frames at the video's rate: MultiTalk's and
InfiniteTalk's windows of 5 and 8 steps, HuMo's of 8, both in the numbers of the whole take whichever chunk the latent
is in.

InfiniteTalk mirrors the end of the speech behind it in the chunk that reaches the end; HuMo has zeros outside.
"""
import torch
from torch import Tensor

RATIO, SLOTS, REACH = 4, 5, 2     # video frames per latent, steps around a frame, steps to either side
MULTITALK_SLOTS = HUMO_SLOTS = RATIO + SLOTS - 1


def steps_of_samples(samples: int, sample_rate: int = 16_000, rate_hz: int = 25) -> int:
    """Feature steps of so many samples, rounded down in floating point as the authors have it: some whole multiples of
    a step (29, 57, 58, 113, ...) lose one, and what the encoder was given at training did, too."""
    return int(samples / sample_rate * rate_hz)


def mirror_steps(steps: int, end: int) -> Tensor:
    """Which step stands at each place of speech of `steps` that is wanted up to `end`: the last ones once more, in
    reverse, and two further for the windows at the end."""
    missing = min(end - steps + REACH + 1, steps)
    return torch.cat([torch.arange(steps), torch.arange(steps - 1, steps - 1 - missing, -1)])


def frame_steps(first_frame: int, frames: int, steps: int, closes: bool = False) -> Tensor:
    """The steps (frames, 5) around each video frame of a chunk, of `steps` that there are; outside come the first and
    the last one again. `closes`: the chunk reaches the end of the speech, which is then mirrored."""
    around = torch.arange(first_frame, first_frame + frames)[:, None] + torch.arange(-REACH, REACH + 1)
    end = first_frame + frames
    places = mirror_steps(steps, end) if closes and end > steps - 1 - REACH else torch.arange(steps)
    return places[around.clamp(0, len(places) - 1)]


def multitalk_windows(features: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
    """(steps, L, C) and `frame_steps` of 4n + 1 frames -> (5, L, C) of the first latent and (n, 8, L, C) of the others.

    A latent of four frames has the slots before its first frame, at the two in the middle and after its last.
    """
    later = around[1:].unflatten(0, (-1, RATIO))
    before, middle, behind = later[:, 0, :REACH + 1], later[:, 1:-1, REACH], later[:, -1, REACH:]
    return features[around[0]], features[torch.cat([before, middle, behind], 1)]


def humo_steps(first_frame: int, latents: int, opens: bool = True) -> Tensor:
    """The steps (latents, 8) of HuMo's latents from video frame `first_frame` on, counted over the whole take;
    -1 stands for zeros.

    `opens`: the window's first latent is one frame, whose first three places are empty, as in every window that the
    model was trained with.
    """
    starts = first_frame + torch.arange(latents) * RATIO - SLOTS
    steps = starts[:, None] + torch.arange(HUMO_SLOTS)
    if opens:
        steps[0, :REACH + 1] = -1
    return steps.clamp(min=-1)


def humo_windows(features: Tensor, steps: Tensor) -> Tensor:
    """(S, L, C) at `humo_steps` (T, 8) -> (T, 8, L, C), zeros before the speech and behind it."""
    inside = (steps >= 0) & (steps < len(features))
    found = features[steps.clamp(0, len(features) - 1)]
    return found * inside[..., None, None].to(found)
