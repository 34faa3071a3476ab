"""Two people who speak (paper 001's multi-person mode): their tracks as the encoder hears them, and their mix."""
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad

from ..techniques.socket_values import audio_clip
from ..techniques.speaker_tracks import placed
from .audio_encoder import resampled
from .audio_families import RATE
from .longcat_speech import heard

SAME_SECONDS = 0.01     # tracks of as good as one length are one length: resampling rounds, encoders pad


def spoken(mode: str, audio_1: dict | None, audio_2: dict | None) -> tuple[list[Tensor], dict]:
    """AUDIOs, one of which may be missing -> both tracks (N,) at 16 kHz as they are heard, and their mix, an AUDIO.

    ValueError where they cannot be spoken together, or there is no speech.
    """
    audio_1, audio_2 = (audio if audio is None else audio_clip(audio) for audio in (audio_1, audio_2))
    given = [audio for audio in (audio_1, audio_2) if audio is not None]
    rate = max((audio["sample_rate"] for audio in given), default=0)
    channels = max((audio["waveform"].shape[1] for audio in given), default=0)
    mono = [None if audio is None else heard(audio) for audio in (audio_1, audio_2)]
    sound = [None if audio is None else stereo(audio, rate, channels) for audio in (audio_1, audio_2)]
    if mode == "together" and len(given) == 2:
        mono, sound = aligned(mono, SAME_SECONDS * RATE), aligned(sound, SAME_SECONDS * rate)
    tracks, (first, second) = placed(mode, *mono), placed(mode, *sound)
    return list(tracks), {"waveform": (first + second)[None], "sample_rate": rate}


def stereo(audio: dict, rate: int, channels: int) -> Tensor:
    """The waveform (channels, N) at `rate`; another number of channels becomes the same sound in all."""
    waveform = resampled(audio["waveform"][0], audio["sample_rate"], rate)
    return waveform if len(waveform) == channels else waveform.mean(0, keepdim=True).expand(channels, -1)


def aligned(tracks: Sequence[Tensor], tolerance: float) -> list[Tensor]:
    """As long as the longest, where they differ by no more than `tolerance` samples."""
    longest = max(track.shape[-1] for track in tracks)
    if longest - min(track.shape[-1] for track in tracks) > tolerance:
        return list(tracks)
    return [pad(track, (0, longest - track.shape[-1])) for track in tracks]
