"""HuMo's audio features as a node makes them: five groups of whisper's states at 25 Hz, in a file."""
import comfy.model_management
import torch
from torch import Tensor

from ..allocator import give_back
from ..audio.encoder import as_speech_encoder, report_progress
from ..audio.families import Whisper
from ..audio.feature_file import FeatureFile
from .features import FPS, encode_speech

NAME = "HuMo"


@torch.no_grad()
def encode_stream(audio_encoder, speech: Tensor) -> dict:
    """A waveform (N,) at 16 kHz -> AUDIO_ENCODER_OUTPUT as the backbone reads it. ValueError where the encoder is no
    whisper."""
    encoder = as_speech_encoder(audio_encoder)
    if not isinstance(encoder.family, Whisper):
        raise ValueError(f"audio_encoder: got {encoder.family.name}, wanted whisper-large-v3: {NAME} was trained with "
                         "it")
    give_back()
    comfy.model_management.load_model_gpu(encoder.patcher)
    file = FeatureFile()
    for rows in encode_speech(encoder.family, encoder.patcher.load_device, speech, report_progress):
        file.append([group[None] for group in rows.unbind(1)])
    give_back()
    layers = file.layers()
    return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": len(speech),
            "rate_hz": float(FPS), "family": NAME, "files": (file,)}
