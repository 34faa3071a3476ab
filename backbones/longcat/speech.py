"""Speech for LongCat-Video-Avatar (section 3.1): chinese-wav2vec2-base at 32 Hz for 1.0, five groups
of whisper-large-v3's layers at 25 Hz for 1.5.

Encoded segment by segment into a file, so memory is that of one segment. Every step lies where it does in one pass over
the whole clip, and what belongs to the whole clip (loudness, variance, the first norm) is measured over all of it.
"""
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...networks.longcat.versions import AVATAR_10, AVATAR_15, PUPPET, VERSIONS, Version
from ...techniques.audio.features import halve_rate, silence_after, whisper_groups
from ...techniques.audio.segments import Segment, plan_segments
from ...techniques.audio.speaker_tracks import pad_track
from ...techniques.audio.waveform import level_loudness, prepare_speech
from ..audio.at_frame_rate import encode_at
from ..audio.encoder import SpeechEncoder, as_speech_encoder, report_progress
from ..audio.families import RATE, LogMel, Wav2Vec2, Whisper
from ..audio.recipes import Pieces, write_features

AUTO, LARGEST_SEED = "auto", 2 ** 32 - 1
AVATARS = {version.avatar: version for version in VERSIONS if version.avatar}
SEGMENT_SECONDS, OVERLAP_SECONDS = 30, 4
WAV2VEC_RATE, WHISPER_RATE = AVATAR_10.rate_hz, AVATAR_15.rate_hz     # Hz, of the finished features
logger = logging.getLogger("lodestar")


def encode_streams(audio_encoder, streams: Sequence[Tensor], speakers: Tensor | None = None, version: str = AUTO,
                   noise_seed: int | None = None) -> dict:
    """Waveforms (N,) at 16 kHz, one per speaker -> AUDIO_ENCODER_OUTPUT as the LongCat backbone reads it.

    Each is followed by silence, to the end of the longest one's last chunk (`silence_after`). `noise_seed`: of 1.0's
    noise floor, another one per audio stream; None for none. `speakers`: their masks (1, K, H, W). Silence is a stream
    of zeros. ValueError where the encoder is not the one `version` was trained with.
    """
    encoder = as_speech_encoder(audio_encoder)
    record = match_encoder(encoder, version)
    longest = max(len(speech) for speech in streams)
    end = longest + silence_after(longest, RATE, record.fps, record.chunk_frames, record.overlap_frames)

    def pieces(speaker: int) -> Pieces:
        speech = streams[speaker]
        noise = None if noise_seed is None or not record.noise_floor else \
            torch.Generator().manual_seed(noise_seed + speaker)
        logger.info("LongCat %s: audio stream %d of %d, %.2f s of speech", record.avatar, speaker + 1, len(streams),
                    len(speech) / RATE)
        return ENCODE[type(encoder.family)](encoder.family, encoder.patcher.load_device, speech, end, noise)

    makers = [partial(pieces, speaker) for speaker in range(len(streams))]
    return write_features(encoder, makers, longest, record.rate_hz, f"longcat {record.avatar}", speakers)


def match_encoder(encoder: SpeechEncoder, avatar: str) -> Version:
    """The version that this encoder belongs to; ValueError where it belongs to none, or not to the one asked for."""
    family = encoder.family
    own = BELONGS_TO[type(family)]
    if avatar not in (AUTO, own.avatar):
        raise ValueError(f"audio_encoder: got {family.name} for version {avatar}, wanted {AVATARS[avatar].encoder}; "
                         f"{family.name} belongs to {own.avatar}, which the model must be, too")
    if family.layer_count - 1 != own.encoder_layers:
        raise ValueError(f"audio_encoder: got a {family.name} of {family.layer_count - 1} layers, wanted "
                         f"{own.encoder_layers}: LongCat Avatar {own.avatar} was trained with {own.encoder}")
    return own


def wav2vec_pieces(family: Wav2Vec2, device: torch.device, speech: Tensor, end: int, noise: torch.Generator | None
                   ) -> Pieces:
    """What leaves each of the 12 layers, the convolutions' features having been brought to 32 Hz before them. The
    silence up to sample `end` counts in the clip's variance, as in the authors' own."""
    speech = prepare_speech(pad_track(speech, end), RATE, noise)
    family = replace(family, variance_correction=None)      # `prepare_speech` did that
    steps = end * WAV2VEC_RATE // RATE
    segments = plan_segments(steps, SEGMENT_SECONDS * WAV2VEC_RATE, OVERLAP_SECONDS * WAV2VEC_RATE)
    clip = family.open(speech[None], device, segments)
    return encode_at(clip, steps, report_progress(segments), range(1, family.layer_count))


def whisper_pieces(family: Whisper, device: torch.device, speech: Tensor, end: int, noise: torch.Generator | None
                   ) -> Pieces:
    """The five groups; like upstream whisper encodes 30 s at a time, each stretch by itself. There is no noise
    floor."""
    stretch = family.segment_frames * family.hop
    stretches = level_loudness(pad_track(speech, end), RATE).split(stretch)
    whole = Segment(0, family.segment_frames, 0, family.segment_frames)

    def groups(samples: Tensor) -> Tensor:
        clip = family.open(samples[None], device, [whole])
        return whisper_groups(clip.encode(whole, range(family.layer_count)))

    steps = end * WHISPER_RATE // RATE
    pieces = halve_rate(map(groups, report_progress(stretches)), steps)
    return ([layer[None] for layer in piece.unbind(1)] for piece in pieces)


def mel_pieces(family: LogMel, device: torch.device, speech: Tensor, end: int, noise: torch.Generator | None) -> Pieces:
    """Each piece by itself: a feature frame covers its own time alone, beyond the speech silence. There is no noise
    floor."""
    frames, size = family.rows(end), SEGMENT_SECONDS * family.rate_hz
    segments = [Segment(first, min(first + size, frames), first, min(first + size, frames))
                for first in range(0, frames, size)]
    clip = family.open(speech[None], device, segments)
    return (clip.encode(segment, range(family.layer_count)) for segment in report_progress(segments))


BELONGS_TO = {Wav2Vec2: AVATAR_10, Whisper: AVATAR_15, LogMel: PUPPET}
ENCODE: dict[type, Callable[..., Pieces]] = {Wav2Vec2: wav2vec_pieces, Whisper: whisper_pieces, LogMel: mel_pieces}
