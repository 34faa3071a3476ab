"""Two speakers (LongCat-Video-Avatar's multi-person mode): their tracks for the speech encoder, and their mix."""
import logging

from torch import Tensor

from ...techniques.audio.speaker_tracks import place_tracks
from ..audio.resampler import resample, resample_speech

SAME_SECONDS = 0.01     # tracks of as good as one length are one length: resampling rounds, encoders pad
logger = logging.getLogger("lodestar")


def join_speakers(mode: str, audio_1: dict | None, audio_2: dict | None) -> tuple[list[Tensor], dict]:
    """AUDIOs, one of which may be missing -> both tracks (N,) at 16 kHz as they are encoded, and their mix, an AUDIO.

    Where both speak together, silence follows the shorter one, which the log says. ValueError where there is no speech.
    """
    given = [audio for audio in (audio_1, audio_2) if audio is not None]
    rate = max((audio["sample_rate"] for audio in given), default=0)
    channels = max((audio["waveform"].shape[1] for audio in given), default=0)
    mono = [None if audio is None else resample_speech(audio) for audio in (audio_1, audio_2)]
    sound = [None if audio is None else match_channels(audio, rate, channels) for audio in (audio_1, audio_2)]
    if mode == "together" and len(given) == 2:
        log_shorter(*(clip["waveform"].shape[-1] / clip["sample_rate"] for clip in given))
    tracks, (first, second) = place_tracks(mode, *mono), place_tracks(mode, *sound)
    return list(tracks), {"waveform": (first + second)[None], "sample_rate": rate}


def log_shorter(first_seconds: float, second_seconds: float) -> None:
    """In the log: which recording ends first, and by how much."""
    if abs(first_seconds - second_seconds) > SAME_SECONDS:
        shorter, longer = (1, 2) if first_seconds < second_seconds else (2, 1)
        logger.info("audio_%d is %.2f s shorter than audio_%d (%.2f s): silence follows it", shorter,
                    abs(first_seconds - second_seconds), longer, max(first_seconds, second_seconds))


def match_channels(audio: dict, rate: int, channels: int) -> Tensor:
    """The waveform (channels, N) at `rate`; another number of channels becomes the same sound in all."""
    waveform = resample(audio["waveform"][0], audio["sample_rate"], rate)
    return waveform if len(waveform) == channels else waveform.mean(0, keepdim=True).expand(channels, -1)
