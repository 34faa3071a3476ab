"""OmniAvatar's audio features of a recording, and the take's sound: silence first, the picture before all sound.

Upstream shows the picture as frame 0, gives frame 1 the first feature, and delays the finished video's sound to
match. Here the delay comes first: one AUDIO for the plan, and frame f has the features of what sounds with it.
"""
from torch import Tensor
from torch.nn.functional import pad

from ...networks.omniavatar.settings import CHUNK_FRAMES, FPS, SPEECH_LAYERS, speech_frames
from ...techniques.audio.recording_digests import sound_marks
from ..audio.encoder import as_speech_encoder, report_progress
from ..audio.families import RATE, Wav2Vec2
from ..audio.recipes import Pieces, write_features
from ..audio.resampler import resample_speech
from .features import encode_speech, prepare_speech

FAMILY = "omniavatar"


def delay(audio: dict, seconds: float) -> dict:
    """An AUDIO with `seconds` of silence and one video frame's in front."""
    samples = round((seconds + 1 / FPS) * audio["sample_rate"])
    return {**audio, "waveform": pad(audio["waveform"], (samples, 0))}


def encode_delayed(audio_encoder, audio: dict) -> dict:
    """A delayed AUDIO -> AUDIO_ENCODER_OUTPUT as the OmniAvatar backbone reads it: 13 layers, a row for each
    video frame, zeros for the first. Silence follows the speech to the end of its last whole chunk.

    ValueError where the encoder is not the one that the model was trained with.
    """
    encoder = as_speech_encoder(audio_encoder)
    family = encoder.family
    if not isinstance(family, Wav2Vec2) or family.layer_count != SPEECH_LAYERS:
        raise ValueError(f"audio_encoder: got {family.name} with {family.layer_count - 1} layers, "
                         f"wanted wav2vec2-base-960h with {SPEECH_LAYERS - 1}, which OmniAvatar was trained with")
    speech = resample_speech(audio)
    own = speech[RATE // FPS:]
    frames = speech_frames(max(1, -(-len(own) * FPS // RATE)), CHUNK_FRAMES)

    def pieces() -> Pieces:
        for index, layers in enumerate(encode_speech(family, encoder.patcher.load_device,
                                                     prepare_speech(own, frames), frames, report_progress)):
            yield layers if index else [with_picture(layer) for layer in layers]

    return {**write_features(encoder, [pieces], len(speech), FPS, FAMILY), "sound_marks": sound_marks(audio)}


def with_picture(layer: Tensor) -> Tensor:
    """(1, n, C) -> (1, n + 1, C): the take's first frame is the picture, and has zeros."""
    return pad(layer, (0, 0, 1, 0))
