"""What each LongCat was trained with (LongCat-Video-Avatar, its code) as named records: every fact stands here once."""
from dataclasses import dataclass

from .buckets import nearest_trained


@dataclass(frozen=True)
class Version:
    """`shift`: of its noise schedule. `size`: width and height of a landscape picture, the only one where `one_size`.

    Of the speech features that an avatar takes: `layers` of `channels` at `rate_hz`, made by an `encoder` of
    `encoder_layers`; `noise_floor`: whether a faint noise lay under the speech. `avatar`: what the inputs call it.
    `own_vae`: its latents are no Wan 2.1's, but in their range.
    """
    name: str
    fps: int
    shift: float
    avatar: str = ""
    layers: int = 0
    channels: int = 0
    rate_hz: int = 0
    encoder: str = ""
    encoder_layers: int = 0
    noise_floor: bool = False
    handover: str = "re-encode"
    chunk_frames: int = 93
    overlap_frames: int = 13
    size: tuple[int, int] = (832, 480)
    grid: int = 16
    one_size: bool = False
    own_vae: bool = False

    def chunk_frames_at(self, width: int, height: int) -> int:
        return self.chunk_frames

    def nearest_bucket(self, proportion: float, pixels: int) -> tuple[int, int] | None:
        return None if self.one_size else nearest_trained(proportion, pixels)

    @property
    def audio_width(self) -> int | None:
        """Speech features per step, of all layers together; None without speech."""
        return self.layers * self.channels or None


BASE = Version("LongCat-Video", fps=15, shift=12.0)
AVATAR_10 = Version("LongCat-Avatar 1.0", 16, 12.0, avatar="1.0", layers=12, channels=768, rate_hz=32,
                    encoder="chinese-wav2vec2-base", encoder_layers=12, noise_floor=True, handover="stitch")
AVATAR_15 = Version("LongCat-Avatar 1.5", 25, 7.0, avatar="1.5", layers=5, channels=1280, rate_hz=25,
                    encoder="whisper-large-v3", encoder_layers=32)
PUPPET = Version("the puppet", 25, 3.0, avatar="puppet", layers=5, channels=16, rate_hz=25, encoder="log-mel",
                 encoder_layers=4, chunk_frames=49, size=(96, 96), one_size=True,
                 own_vae=True)    # 1.5's network, on drawings
VERSIONS = (BASE, AVATAR_10, AVATAR_15, PUPPET)
OFFICIAL_AVATARS = (AVATAR_10, AVATAR_15)
REFERENCE_INDEX = 10    # where the authors put the reference, in latents from the chunk's first


def version_of(audio_width: int | None, layers: int | None = None) -> Version:
    """The version whose network takes `audio_width` speech features per step, in `layers` where a config tells.

    The weights of the versions differ in nothing else. ValueError where no version has so many.
    """
    exact = [version for version in VERSIONS if version.audio_width == audio_width]
    alike = [version for version in OFFICIAL_AVATARS if version.layers == layers]
    if exact or alike:
        return (exact or alike)[0]
    widths, counts = (" or ".join(str(getattr(version, name)) for version in OFFICIAL_AVATARS)
                      for name in ("audio_width", "layers"))
    raise ValueError(f"it takes {audio_width} speech features per step ({layers} layers), wanted {widths} (Avatar 1.0, "
                     f"1.5), or a config that says audio_block {counts}")
