"""Audio features as one family was trained with: what is the same for all of them, and what a family says of its own.

The encoder is loaded, and the streams are encoded one after the other into files: memory is that of one segment.
"""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..allocator import give_back
from .encoder import SpeechEncoder, as_speech_encoder, encode_speech
from .families import RATE
from .feature_file import FeatureFile

Pieces = Iterable[Sequence[Tensor]]     # piece by piece every layer (1, n, C) of a stream


@dataclass(frozen=True, eq=False)
class Recipe:
    """`name`: what users know it by. `encode`: (audio encoder, streams (N,) at 16 kHz, masks of who has them or None)
    -> AUDIO_ENCODER_OUTPUT; ValueError for an encoder that the family was not trained with. `speakers`: at most."""
    name: str
    encode: Callable[..., dict]
    speakers: int = 1


def encode_as_trained(backbone: Any, audio_encoder: Any, speech: Tensor) -> dict:
    """Speech (N,) at 16 kHz -> AUDIO_ENCODER_OUTPUT as the family was trained with it: by its own `encode_speech`, its
    recipe, or with every layer. ValueError for another encoder."""
    own = getattr(backbone, "encode_speech", None)
    if own is not None:
        return own(audio_encoder, speech)
    if backbone.recipe is not None:
        return backbone.recipe.encode(audio_encoder, [speech])
    return encode_speech(as_speech_encoder(audio_encoder), {"waveform": speech[None, None], "sample_rate": RATE})


@torch.no_grad()
def write_features(encoder: SpeechEncoder, streams: Sequence[Callable[[], Pieces]], samples: int, rate_hz: float,
                   family: str, speakers: Tensor | None = None) -> dict:
    """Encode audio streams -> AUDIO_ENCODER_OUTPUT. Each of `streams` makes its pieces once the encoder is loaded.

    `samples`: length of the longest at 16 kHz. `rate_hz`: feature frames a second. `family`: what made them.
    `speakers`: masks (1, K, H, W) of who has which stream.
    """
    give_back()     # what decoding the sound left behind
    comfy.model_management.load_model_gpu(encoder.patcher)
    files = tuple(FeatureFile() for _ in streams)
    for make_pieces, file in zip(streams, files, strict=True):
        for layers in make_pieces():
            file.append(layers)
            del layers      # or the next piece would be made beside it
    give_back()
    stored = tuple(file.layers() for file in files)
    several = {} if speakers is None else {"audio_streams": stored, "speaker_masks": speakers}
    return {"encoded_audio": stored[0][-1], "encoded_audio_all_layers": stored[0], "audio_samples": samples,
            "rate_hz": float(rate_hz), "family": family, "files": files, **several}
