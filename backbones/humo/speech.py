"""HuMo's audio features as a node makes them: five groups of whisper's states at 25 Hz, in a file."""
from collections.abc import Sequence

from torch import Tensor

from ..audio.encoder import as_speech_encoder, report_progress
from ..audio.families import Whisper
from ..audio.recipes import Pieces, Recipe, write_features
from .features import FPS, encode_speech

NAME = "HuMo"


def encode_streams(audio_encoder, streams: Sequence[Tensor], masks: Tensor | None = None) -> dict:
    """One waveform (N,) at 16 kHz -> AUDIO_ENCODER_OUTPUT as the backbone reads it. ValueError where the encoder is no
    whisper."""
    encoder, (speech,) = as_speech_encoder(audio_encoder), streams
    family = encoder.family
    if not isinstance(family, Whisper):
        raise ValueError(f"audio_encoder: got {family.name}, wanted whisper-large-v3: {NAME} was trained with "
                         "it")

    def pieces() -> Pieces:
        for rows in encode_speech(family, encoder.patcher.load_device, speech, report_progress):
            yield [group[None] for group in rows.unbind(1)]

    return write_features(encoder, [pieces], len(speech), FPS, NAME, masks)


RECIPE = Recipe(NAME, encode_streams)
