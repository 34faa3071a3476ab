"""InfiniteTalk's audio features as a node makes them: one or two audio streams, in files."""
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from ..audio.encoder import as_speech_encoder, report_progress
from ..audio.families import Wav2Vec2
from ..audio.recipes import Recipe, write_features
from .features import FPS, LAYERS, encode_speech

NAME = "InfiniteTalk"


def encode_streams(audio_encoder, streams: Sequence[Tensor], masks: Tensor | None = None) -> dict:
    """Waveforms (N,) at 16 kHz, one per speaker -> AUDIO_ENCODER_OUTPUT as the backbone reads it. `masks`: masks
    (1, K, H, W) of who has which. ValueError where the encoder is not the one that InfiniteTalk was trained with."""
    encoder = as_speech_encoder(audio_encoder)
    if not isinstance(encoder.family, Wav2Vec2) or encoder.family.layer_count != LAYERS + 1:
        raise ValueError(f"audio_encoder: got {encoder.family.name} of {encoder.family.layer_count - 1} layers, wanted "
                         f"chinese-wav2vec2-base, of {LAYERS}: {NAME} was trained with it")
    makers = [partial(encode_speech, encoder.family, encoder.patcher.load_device, stream, report_progress)
              for stream in streams]
    return write_features(encoder, makers, max(map(len, streams)), FPS, NAME, masks)


RECIPE = Recipe(NAME, encode_streams, speakers=2)
