"""InfiniteTalk's audio features as a node makes them: one or two audio streams, in files."""
from collections.abc import Sequence

import comfy.model_management
import torch
from torch import Tensor

from ..allocator import give_back
from ..audio.encoder import as_speech_encoder, report_progress
from ..audio.families import Wav2Vec2
from ..audio.feature_file import FeatureFile
from .features import FPS, LAYERS, encode_speech

NAME = "InfiniteTalk"


@torch.no_grad()
def encode_streams(audio_encoder, streams: Sequence[Tensor], masks: Tensor | None = None) -> dict:
    """Waveforms (N,) at 16 kHz, one per speaker -> AUDIO_ENCODER_OUTPUT as the backbone reads it. `masks`: masks
    (1, K, H, W) of who has which. ValueError where the encoder is not the one that InfiniteTalk was trained with."""
    encoder = as_speech_encoder(audio_encoder)
    if not isinstance(encoder.family, Wav2Vec2) or encoder.family.layer_count != LAYERS + 1:
        raise ValueError(f"audio_encoder: got {encoder.family.name} of {encoder.family.layer_count - 1} layers, wanted "
                         f"chinese-wav2vec2-base, of {LAYERS}: {NAME} was trained with it")
    give_back()
    comfy.model_management.load_model_gpu(encoder.patcher)
    files = tuple(FeatureFile() for _ in streams)
    for stream, file in zip(streams, files, strict=True):
        for layers in encode_speech(encoder.family, encoder.patcher.load_device, stream, report_progress):
            file.append(layers)
            del layers      # or the next window would be made beside it
    give_back()
    stored = tuple(file.layers() for file in files)
    several = {} if masks is None else {"audio_streams": stored, "speaker_masks": masks}
    return {"encoded_audio": stored[0][-1], "encoded_audio_all_layers": stored[0],
            "audio_samples": max(map(len, streams)), "rate_hz": float(FPS), "family": NAME, "files": files, **several}
