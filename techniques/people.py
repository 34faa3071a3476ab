"""Several speakers in one picture (LongCat-Video-Avatar, paper 001, section 3.5: L-RoPE): whose voice moves whom.

Each video token gets a position on a line, near person 1, person 2 or the background, from how much it attends to each
in the clean first frame; each voice stands at its person's position, and a 1D RoPE ties them. Unlike upstream, a mask
that covers no token never wins, and a speaker's empty mask is refused.
"""
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Box = Sequence[int]     # y_min, x_min, y_max, x_max in pixels


def box_masks(height: int, width: int, person1: Box | None = None, person2: Box | None = None,
              others: Sequence[Box] = ()) -> Tensor:
    """Masks (3 + others, height, width) of 0 and 1: person 1, person 2, what is outside both, each other person.

    Without boxes the two stand in the inner 80 % of the left and the right half.
    """
    if (person1 is None) != (person2 is None):
        raise ValueError("boxes: got one person's box, wanted both or none (then each has half of the picture)")
    if person1 is None or person2 is None:
        half, top, bottom = width // 2, int(height * 0.1), int(height * 0.9)
        person1 = (top, int(half * 0.1), bottom, int(half * 0.9))
        person2 = (top, half + int(half * 0.1), bottom, half + int(half * 0.9))
    masks = torch.zeros(3 + len(others), height, width)
    for index, box in zip((0, 1, *range(3, len(masks))), (person1, person2, *others), strict=True):
        masks[index, box[0]:box[2], box[1]:box[3]] = 1
        if not masks[index].any():
            raise ValueError(f"boxes: got {tuple(box)}, which covers nothing of the {width}x{height} picture; wanted "
                             f"y_min, x_min, y_max, x_max in its pixels")
    masks[2] = 1 - masks[:2].amax(0)
    return masks


def fitted_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """(K, H, W) -> (K, height, width): scaled to cover, then cut in the centre, as the picture itself is."""
    scale = max(height / masks.shape[1], width / masks.shape[2])
    size = (max(height, int(masks.shape[1] * scale)), max(width, int(masks.shape[2] * scale)))
    large = interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, top:top + height, left:left + width]


def token_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Pixel masks (B, K, H, W) -> (B, K, height * width) of 0 and 1. ValueError where a speaker's covers no token."""
    tokens = (interpolate(masks.float(), (height, width)) > 0).flatten(2)
    for person in range(2):
        if not tokens[:, person].any(1).all():
            raise ValueError(f"masks: got a mask of person {person + 1} that covers no token of {width}x{height}; draw "
                             "it larger, or give the person a box")
    return tokens.float()


def person_map(query: Tensor, key: Tensor, masks: Tensor) -> Tensor:
    """How much each token looks at each person: (B, N, H, D), first frame's (B, S, H, D), (B, K, S) -> (B, K, N).

    Queries and keys are rotated already; the softmax is over the first frame alone. One head at a time, since all of
    them together are as large as dense attention over that frame.
    """
    shares = (masks / masks.sum(2, keepdim=True).clamp(min=1)).to(query)
    total = query.new_zeros(query.shape[0], masks.shape[1], query.shape[1])
    for head in range(query.shape[2]):
        logits = query[:, :, head] @ key[:, :, head].transpose(1, 2) * query.shape[-1] ** -0.5
        total += shares @ logits.softmax(-1).transpose(1, 2)
    return total / query.shape[2]


def centers(classes: int, streams: int, span: int = 24, interval: int = 4) -> tuple[float, ...]:
    """Positions of the voices: in the middle of each person's interval; every further voice with the background."""
    first, second = interval / 2, span - interval / 2
    return (first, second, *[background(classes, span)] * (streams - 2))


def background(classes: int, span: int = 24) -> float:
    """Between the two people, or far from both where masks of other people came too."""
    return span / 2 if classes <= 3 else 100.0


def query_positions(shares: Tensor, span: int = 24, interval: int = 4) -> Tensor:
    """`person_map`'s (B, K, N) -> the position of each video token (B, N), float32."""
    shares = shares.float()
    low, high = shares.amin(2, keepdim=True), shares.amax(2, keepdim=True)
    inside = (shares - low) / (high - low + 1e-8) * interval
    winner = shares.argmax(1)
    beyond = torch.full_like(winner, background(shares.shape[1], span), dtype=torch.float32)
    return torch.where(winner == 0, inside[:, 0], torch.where(winner == 1, span - interval + inside[:, 1], beyond))
