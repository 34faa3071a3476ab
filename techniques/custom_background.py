"""TAVR's custom background: a scene that every frame of a take attends to, and from the second chunk on the take's own
first frame (section 3.1, the global appearance anchor).

The scene's tokens stay where no person is to be; those under the mask are dropped. In the paper it sees the frames
being made; here it is a closed span, so that its keys are the same in every step and need no mask. It stands right in
front of a chunk's first frame, which is ours: its RoPE time is not published. A scene that moves is a clip up to there.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .closed_span import OFFLOADS, ClosedSpan
from .layout import BACKGROUND, REFERENCES, Layout, Span
from .reference_tokens import Tokens, tokens_in_masks
from .technique import ChunkPosition

THEN = ("the take's first frame", "keep")
TIME = -1.0


@dataclass(frozen=True, eq=False)
class CustomBackground(ClosedSpan):
    """`latents`: (1, C, R, h, w) of the scene, a picture or a clip, in LATENT space. `tokens`: those where no person is
    to be. `then`: what holds the scene from the second chunk on."""
    role: ClassVar[str] = BACKGROUND
    called: ClassVar[str] = "custom background"
    latents: Tensor
    tokens: Tokens
    then: str = THEN[0]
    offload: str = OFFLOADS[0]

    def __post_init__(self):
        if self.tokens.frames != self.frames:
            raise ValueError(f"image: got a scene of {self.frames} latents and tokens of {self.tokens.frames}, wanted "
                             "as many")
        if self.then not in THEN:
            raise ValueError(f"then: got {self.then!r}, wanted one of {', '.join(THEN)}")

    @property
    def frames(self) -> int:
        return self.latents.shape[2]

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        """A video of the person that ends in front of the scene makes room for all of it."""
        video, more = layout.find(REFERENCES), self.frames - 1
        if more and video is not None and video.times[-1] == TIME - 1:
            layout = layout.change(REFERENCES, times=tuple(time - more for time in video.times))
        return super().layout(layout, position)

    def span(self, layout: Layout, position: ChunkPosition) -> Span:
        """The scene, or the take's first latent, whose tokens are all there."""
        opening = position.opening if self.then == THEN[0] else None
        shown, tokens = (self.latents, self.tokens) if opening is None else (opening, None)
        times = tuple(TIME - back for back in reversed(range(shown.shape[2])))
        return Span(self.role, times, latents=shown, placed=True, closed=True, tokens=tokens)

    def pictures(self) -> dict[str, Tensor]:
        return {self.called: self.latents}


def tokens_around(mask: Tensor, grid: tuple[int, int], frames: int = 1) -> Tokens:
    """Of a scene of so many latent frames those that the person's mask (H, W), 0 to 1, does not touch. Raises
    ValueError where the mask covers all of them, or none."""
    person = tokens_in_masks(mask[None], grid, when_empty="none")
    if not person.any():
        raise ValueError("mask: it is empty, so there is nobody to draw into the scene. Draw it over where the person "
                         "is to be")
    if person.all():
        raise ValueError("mask: it covers all of the picture, so nothing is left of the scene. Leave out what the "
                         "person does not hide")
    return Tokens(~person.expand(frames, -1, -1))


def without_person(scene: Tensor, mask: Tensor) -> Tensor:
    """The scene (T, H, W, 3) with the mean of each frame's other pixels under the mask (H, W): a VAE shows whoever
    stood there to the tokens around, too."""
    inside = mask > 0.5
    return torch.where(inside[None, :, :, None], scene[:, ~inside].mean(1)[:, None, None], scene)
