"""One timestep per token of S2V, exactly, through ComfyUI's own modulation.

Behind motion frames ComfyUI gives every modulation entry equally many tokens, although the motion frames have a few
less; where too many are missing, noisy tokens would be modulated as clean. More and smaller entries avoid it.
"""
from functools import cache
from math import isqrt

import torch

from .call import WanCall

MOTION_ENTRIES, PER_COLUMN = 3, 2   # of the modulation: for the motion frames, and for each timestep handed in
MOST_ENTRIES = 1024     # where it cannot be exact, a few clean tokens count as noisy sooner than one entry per token


def with_exact_timesteps(call: WanCall) -> WanCall:
    """The call with timesteps that reach the tokens they belong to; as it is where they do anyway."""
    motion, reference = call.extra.get("reference_motion"), call.extra.get("reference_latent")
    if motion is None or call.timestep.ndim != 1:
        return call
    frame = call.grid[0] * call.grid[1]
    references = 0 if reference is None else reference.shape[2]
    noisy, clean = columns(call.x.shape[2], frame, references, motion_tokens(call.module.frame_packer, motion.shape))
    if (noisy, clean) == (call.x.shape[2], 0):
        return call
    own = call.timestep[:, None]
    return call.change(timestep=torch.cat([own.expand(-1, noisy), own.new_zeros(len(own), clean)], dim=1))


def motion_tokens(packer, shape: tuple[int, ...]) -> int:
    """How many tokens the motion frames (B, C, T, h, w) become: near ones whole, far ones in larger patches."""
    patches = [projection.kernel_size for projection in (packer.proj, packer.proj_2x, packer.proj_4x)]
    return sum((frames // time) * (shape[-2] // rows) * (shape[-1] // columns)
               for frames, (time, rows, columns) in zip(packer.zip_frame_buckets, patches, strict=True))


@cache
def columns(latents: int, frame: int, references: int, motion: int) -> tuple[int, int]:
    """How many noisy and clean timesteps to hand in, `references` clean ones following, for `latents` noisy frames of
    `frame` tokens each, as many for each reference, and `motion` tokens: (latents, 0) where that is exact.

    Where `latents` and `frame` are both odd no number is, and one clean token counts as noisy.
    """
    noisy = latents * frame
    total = noisy + references * frame + motion
    if PER_COLUMN * latents * share(total, entries(latents + references)) == noisy:
        return latents, 0
    for over in range(noisy % 2, noisy + 2, 2):
        for tokens in range(isqrt(total), 0, -1):     # of an entry; the largest leaves the fewest entries
            own, rest = divmod(noisy + over, PER_COLUMN * tokens)
            least = max(entries(own + references), -(-total // tokens))
            clean = -(-(least - entries(own + references)) // PER_COLUMN)
            there = entries(own + references + clean)
            if rest == 0 and share(total, there) == tokens and (there <= MOST_ENTRIES or total <= MOST_ENTRIES):
                return own, clean
    raise AssertionError(f"no timesteps for {latents} latents of {frame} tokens")


def entries(timesteps: int) -> int:
    return PER_COLUMN * timesteps + MOTION_ENTRIES


def share(tokens: int, entries: int) -> int:
    """How many tokens ComfyUI gives each entry: the next whole number where they cannot be shared out, which it cannot
    do where that is 2 (then 0)."""
    whole, rest = divmod(tokens, entries)
    return whole + bool(rest) if whole != 1 or not rest else 0
