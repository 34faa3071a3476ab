"""Two speakers on one clock (LongCat-Video-Avatar's multi-person mode): together, or one after the other.

Each track is silence (zero samples, which are encoded as well) where its speaker does not speak.
"""
import torch
from torch import Tensor

MODES = ("together", "in turn")


def place_tracks(mode: str, person1: Tensor | None, person2: Tensor | None) -> tuple[Tensor, Tensor]:
    """Waveforms (..., N1), (..., N2) -> two tracks of one length whose sum is the sound track. One may be missing.

    together: silence follows the shorter one. in turn: speaker 1 first, then speaker 2.
    """
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, wanted one of {', '.join(MODES)}")
    given = [person for person in (person1, person2) if person is not None]
    if not given:
        raise ValueError("speakers: got no speech at all, wanted one person's or two")
    missing = torch.zeros_like(given[0]) if mode == "together" else given[0][..., :0]
    first, second = (missing if person is None else person for person in (person1, person2))
    if mode == "in turn":
        return (torch.cat([first, torch.zeros_like(second)], -1), torch.cat([torch.zeros_like(first), second], -1))
    longest = max(first.shape[-1], second.shape[-1])
    return pad_track(first, longest), pad_track(second, longest)


def pad_track(track: Tensor, samples: int) -> Tensor:
    """(..., N) with silence at the end, up to `samples`."""
    return torch.nn.functional.pad(track, (0, max(0, samples - track.shape[-1])))
