"""Several speakers in one picture (LongCat-Video-Avatar, section 3.5: L-RoPE): which audio stream drives whom.

Each video token gets a position on a line, near speaker 1, speaker 2 or the background, from how much it attends to
each in the clean first frame; each audio stream has its speaker's position, and a 1D RoPE ties them. Unlike upstream, a
mask that covers no token never wins, and a speaker's empty mask is refused.
"""
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention

Box = Sequence[int]     # y_min, x_min, y_max, x_max in pixels


def box_masks(height: int, width: int, person1: Box | None = None, person2: Box | None = None,
              others: Sequence[Box] = (), margin: float = 0.1) -> Tensor:
    """Masks (3 + others, height, width) of 0 and 1: speaker 1, speaker 2, what is outside both, each other person.

    Without boxes the two stand in the left and the right half, but for a `margin` of it on every side (LongCat's own,
    0.1; InfiniteTalk's is 0.05).
    """
    if (person1 is None) != (person2 is None):
        raise ValueError("boxes: got one person's box, wanted both or none (then each has half of the picture)")
    if person1 is None or person2 is None:
        half, top, bottom = width // 2, int(height * margin), int(height * (1 - margin))
        person1 = (top, int(half * margin), bottom, int(half * (1 - margin)))
        person2 = (top, half + int(half * margin), bottom, half + int(half * (1 - margin)))
    return join_masks(*(box_mask(box, height, width) for box in (person1, person2, *others)))


def box_mask(box: Box, height: int, width: int) -> Tensor:
    """(height, width), 1 inside the box."""
    mask = torch.zeros(height, width)
    mask[box[0]:box[2], box[1]:box[3]] = 1
    if not mask.any():
        raise ValueError(f"boxes: got {tuple(box)}, which covers nothing of the {width}x{height} picture; wanted "
                         f"y_min, x_min, y_max, x_max in its pixels")
    return mask


def join_masks(person1: Tensor, person2: Tensor, *others: Tensor) -> Tensor:
    """Masks (H, W) of 0 and 1 -> (3 + others, H, W): the two who speak, what is outside both, the others."""
    return torch.stack([person1, person2, 1 - torch.maximum(person1, person2), *others])


def drawn_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """A drawn mask (1, height, width) of 0 to 1 -> (height, width) of 0 and 1. ValueError where it is empty, or of
    another picture."""
    if tuple(mask.shape[-2:]) != (height, width):
        raise ValueError(f"got {mask.shape[-1]}x{mask.shape[-2]}, wanted {width}x{height}, the size of the picture: "
                         "draw it on the picture, or scale it")
    mask = (mask.reshape(-1, height, width)[0] > 0.5).float()
    if not mask.any():
        raise ValueError("got an empty mask, wanted the area of the speaker's face or body; draw it again, or use a "
                         "box")
    return mask


def parse_box(text: str, height: int, width: int) -> Box:
    """"left, top, right, bottom" as fractions of the picture -> a box in its pixels."""
    wanted = f"got {text.strip()[:100]!r}, wanted left, top, right, bottom as fractions of the picture, such as"
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{wanted} 0.05, 0.1, 0.45, 0.9") from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"{wanted} 0.05, 0.1, 0.45, 0.9; each from 0 to 1, left less than right, top less than bottom")
    box = (int(top * height), int(left * width), int(bottom * height), int(right * width))
    if box[0] == box[2] or box[1] == box[3]:
        raise ValueError(f"got {text.strip()[:100]!r}, which covers no pixel of the {width}x{height} picture; draw it "
                         "larger")
    return box


def fitted_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """(K, H, W) -> (K, height, width): scaled to cover, then cut in the centre, as the picture itself is."""
    scale = max(height / masks.shape[1], width / masks.shape[2])
    size = (max(height, int(masks.shape[1] * scale)), max(width, int(masks.shape[2] * scale)))
    large = interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, top:top + height, left:left + width]


def token_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Pixel masks (B, K, H, W) -> (B, K, height * width) of 0 and 1, float32."""
    return (interpolate(masks.float(), (height, width)) > 0).flatten(2).float()


def check_masks(masks: Tensor, height: int, width: int) -> None:
    """ValueError where the mask of one who speaks covers no token of height x width."""
    for person, covered in enumerate(token_masks(masks[:, :2], height, width).any(2).all(0).tolist(), start=1):
        if not covered:
            side = masks.shape[-1] // width
            raise ValueError(f"the mask of speaker {person} is too small: cut to the video's {masks.shape[-1]}x"
                             f"{masks.shape[-2]} it fills none of the squares of {side} pixels that become one token. "
                             "Draw it larger, or give the speaker a box")


def person_map(query: Tensor, key: Tensor, masks: Tensor) -> Tensor:
    """How much each token attends to each person: (B, N, H, D), first frame's (B, S, H, D), (B, K, S) -> (B, K, N).

    Queries and keys are rotated already; the softmax is over the first frame alone. Attention with the masks as values
    gives every head's sum over each person, and never holds the map.
    """
    query, key = (rearrange(part, "b n heads d -> b heads n d") for part in (query, key))
    people = masks.shape[1]
    values = rearrange(masks, "b people s -> b s people")
    values = pad(values, (0, max(0, query.shape[-1] - people))).to(query)    # as wide as the keys
    values = repeat(values, "b s d -> b heads s d", heads=query.shape[1]).contiguous()
    sums = scaled_dot_product_attention(query, key, values)[..., :people].float().mean(1)
    sums = rearrange(sums, "b n people -> b people n")
    return sums / masks.sum(2).clamp(min=1)[..., None]


def centers(classes: int, streams: int, span: int = 24, interval: int = 4) -> tuple[float, ...]:
    """Positions of the audio streams: in the middle of each speaker's interval; every further one with the
    background."""
    first, second = interval / 2, span - interval / 2
    return (first, second, *[background(classes, span)] * (streams - 2))


def background(classes: int, span: int = 24) -> float:
    """Between the two speakers, or far from both where masks of others came too."""
    return span / 2 if classes <= 3 else 100.0


def query_positions(shares: Tensor, span: int = 24, interval: int = 4) -> Tensor:
    """`person_map`'s (B, K, N) -> the position of each video token (B, N), float32."""
    low, high = shares.amin(2, keepdim=True), shares.amax(2, keepdim=True)
    inside = (shares - low) / (high - low + 1e-8) * interval
    winner = shares.argmax(1)
    beyond = torch.full_like(winner, background(shares.shape[1], span), dtype=torch.float32)
    return torch.where(winner == 0, inside[:, 0], torch.where(winner == 1, span - interval + inside[:, 1], beyond))
