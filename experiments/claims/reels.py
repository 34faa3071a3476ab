"""A video of each of the cast in another scene, as the claims about video references have it."""
from dataclasses import dataclass, replace

import numpy as np
import torch
from lodestar.techniques.audio.features import slot_steps
from lodestar.techniques.audio.mel import mel_steps
from lodestar.techniques.reference_tokens import Tokens, latent_frames
from lodestar.techniques.video_reference import VideoReference
from lodestar.training.puppet.latents import MARGIN
from lodestar.training.puppet.network import CHUNK
from lodestar.training.puppet.regions import head_cells
from torch import Tensor
from torch.nn.functional import max_pool2d

from .conditions import NEW, TIMELINE, VIDEO_LATENTS, Condition
from .takes import Cast, Codec

FAR, SCENE = 5000, 7        # frames between the take and the video; which other scene


@dataclass(frozen=True, eq=False)
class Reel:
    """`latents` (B, 16, R, h, w), `audio` (B, rows, 5, 16) from MARGIN frames before them on. `heads` (R, rows,
    columns) bool: tokens in which any character's head shows, since a batch has the same ones."""
    latents: Tensor
    audio: Tensor
    heads: Tensor

    def tokens(self, condition: Condition) -> Tokens:
        keep = self.heads[:condition.video]
        return Tokens(keep if condition.selected else torch.ones_like(keep))

    def technique(self, condition: Condition) -> VideoReference:
        return VideoReference(self.latents[:, :, :condition.video], self.tokens(condition),
                              audio=self.sound(condition.video) if condition.video_sound else None)

    def sound(self, latents: int) -> Tensor:
        """(B, 1, frames, 5, 5, 16) of its own frames."""
        rows = slot_steps(MARGIN, TIMELINE.frames_for_latents(latents), 1, self.audio.shape[1])
        return self.audio[:, rows][:, None]

    def counts(self, condition: Condition) -> dict[str, float]:
        """Tokens of the reference, and pairs of a query and a key that one layer's self-attention of a chunk has."""
        kept, frame = self.tokens(condition).count, self.heads[0].numel()
        return {"tokens": float(kept), "attention": float(NEW * frame * (CHUNK * frame + kept))}


def film(cast: Cast, codec: Codec, size: int) -> Reel:
    """The longest video that a condition asks for."""
    count = TIMELINE.frames_for_latents(max(VIDEO_LATENTS))
    frames: np.ndarray = FAR + np.arange(count)
    shown, heads, audio = [], [], []
    for number, take in enumerate(cast.takes):
        there = replace(take, identity=take.identity.in_scene(SCENE + number))
        shown.append(there.frames(frames, size))
        heads.append(max_pool2d(head_cells(there, frames, size)[:, None].float(), 2)[:, 0] > 0)
        wave = torch.from_numpy(there.waveform(FAR - MARGIN - 1, count + 2 * MARGIN + 2))
        audio.append(mel_steps(wave, 1, 1 + count + 2 * MARGIN))
    spans = [range(TIMELINE.first_frame(latent), TIMELINE.last_frame(latent) + 1)
             for latent in range(max(VIDEO_LATENTS))]
    keep = latent_frames(torch.stack(heads).any(0), spans)
    return Reel(codec.encode(torch.stack(shown)), torch.stack(audio), keep)


