"""What each LongCat was trained with (LongCat-Video-Avatar, its code) as named records: every fact stands here once."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """`layers`, `rate_hz`: of the speech features it hears. `size`: width and height of a landscape picture, the only
    one it knows where `one_size`."""
    name: str
    fps: int
    layers: int = 0
    rate_hz: int = 0
    handover: str = "re-encode"
    chunk_frames: int = 93
    overlap_frames: int = 13
    size: tuple[int, int] = (832, 480)
    grid: int = 16
    one_size: bool = False


BASE = Version("LongCat-Video", 15)
AVATAR_10 = Version("LongCat-Avatar 1.0", 16, 12, 32, handover="stitch")
AVATAR_15 = Version("LongCat-Avatar 1.5", 25, 5, 25)
PUPPET = Version("the puppet", 25, 5, 25, chunk_frames=49, size=(96, 96), one_size=True)    # 1.5's network, on drawings
REFERENCE_INDEX = 10    # where the authors put the reference, in latents from the window's first
PUPPET_CHANNELS = 16    # per layer of its speech features, log-mel; no official avatar hears so few


def version_of(name: str, audio_width: int | None) -> Version:
    """The record of a network that is `name` and takes `audio_width` speech features per step, None without speech."""
    if audio_width == PUPPET.layers * PUPPET_CHANNELS:
        return PUPPET
    return next(version for version in (BASE, AVATAR_10, AVATAR_15) if version.name == name)
