"""Speech encoders on ComfyUI's AUDIO_ENCODER socket, and their features for speech of any length.

No paper: wav2vec2 and whisper as their authors publish them. Core's loader serves the checkpoints it knows and
transformers the rest; both run in overlapping segments: the memory of one segment, and whisper does not stop at 30 s.
"""
import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.audio_encoders.audio_encoders as core
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...techniques.audio.segments import Segment, plan_segments, select_layers, trim_segments
from ..allocator import give_back
from ..socket_values import audio_clip, describe, name_input
from ..weight_loading import load_weights
from .families import RATE, LogMel, Wav2Vec2, Whisper
from .feature_file import FeatureFile
from .resampler import resample_speech

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NORMALIZE = ("auto", "on", "off")
# model_type of the config -> config class, network class, prefixes its weights may carry
TRANSFORMERS = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model", ("wav2vec2.", "")),
    "hubert": ("HubertConfig", "HubertModel", ("hubert.", "")),
    "whisper": ("WhisperConfig", "WhisperEncoder", ("model.encoder.", "encoder.", "")),
}
logger = logging.getLogger("lodestar")


@dataclass(frozen=True, eq=False)
class SpeechEncoder:
    """What our loader puts on an AUDIO_ENCODER socket."""
    family: Wav2Vec2 | Whisper | LogMel
    patcher: comfy.model_patcher.ModelPatcher

    def encode_audio(self, audio: Tensor, sample_rate: int) -> dict:
        """Core's manners: `audio` (1, channels, N) -> AUDIO_ENCODER_OUTPUT with every layer."""
        return encode_speech(self, audio_clip({"waveform": audio, "sample_rate": sample_rate}))


def as_speech_encoder(audio_encoder) -> SpeechEncoder:
    """Ours as it is; one from core's loader, wrapped around the same model and patcher."""
    if isinstance(audio_encoder, SpeechEncoder):
        return audio_encoder
    network = getattr(audio_encoder, "model", None)
    if isinstance(network, core.Wav2Vec2Model):
        family: Wav2Vec2 | Whisper = Wav2Vec2(network, network.encoder.do_stable_layer_norm,
                                              1 if network.do_normalize else None)
    elif isinstance(network, core.WhisperLargeV3):
        family = Whisper(network.encoder)
    else:
        raise ValueError(f"got {describe(network or audio_encoder)}, wanted wav2vec2, hubert or whisper from Load "
                         "Audio Encoder (core's or Lodestar's)")
    return SpeechEncoder(family, audio_encoder.patcher)


@torch.no_grad()
def encode_speech(encoder: SpeechEncoder, audio: dict, layers: str = "all", window_seconds: float = 30.0,
                  overlap_seconds: float = 4.0) -> dict:
    """Encode a whole AUDIO (one `audio_clip`) -> AUDIO_ENCODER_OUTPUT, float32 feature frames on disk that read as CPU
    tensors.

    `encoded_audio` (1, S, C) is the final output, `encoded_audio_all_layers` a tuple of the selected layers (1, S, C),
    `audio_samples` the length at 16 kHz, `rate_hz` the feature frames per second, `family` wav2vec2 or whisper, `files`
    what holds the layers. One pass where the speech fits one segment; whisper's segment is always its own 30 s.
    ValueError names the input at fault.
    """
    give_back()     # what decoding the sound left behind
    speech = resample_speech(audio)[None]
    family = encoder.family
    with name_input("layers"):
        chosen = select_layers(layers, family.layer_count)
    needed = tuple(sorted({*chosen, family.layer_count - 1}))
    with name_input("overlap_seconds"):
        size = family.segment_frames or round(window_seconds * family.rate_hz)
        segments = plan_segments(family.rows(speech.shape[1]), size, round(overlap_seconds * family.rate_hz))
    logger.info("%s: %.2f s of speech in %d segment(s), %d of %d layers", family.name, speech.shape[1] / RATE,
                len(segments), len(chosen), family.layer_count)
    comfy.model_management.load_model_gpu(encoder.patcher)
    clip = family.open(speech, encoder.patcher.load_device, segments)
    file = FeatureFile()
    encoded = (clip.encode(segment, needed) for segment in report_progress(segments))
    for layers_of_segment in trim_segments(segments, encoded):
        file.append(layers_of_segment)
    give_back()
    stored = dict(zip(needed, file.layers(), strict=True))
    return {"encoded_audio": stored[needed[-1]], "encoded_audio_all_layers": tuple(stored[index] for index in chosen),
            "audio_samples": speech.shape[1], "rate_hz": family.rate_hz, "family": family.name, "files": (file,)}


def report_progress(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Each segment in turn, with ComfyUI's progress bar and its cancel button."""
    progress = comfy.utils.ProgressBar(len(segments))
    for segment in segments:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield segment
        progress.update(1)


def log_mel() -> SpeechEncoder:
    """The encoder without weights."""
    device = torch.device("cpu")
    return SpeechEncoder(LogMel(), comfy.model_patcher.ModelPatcher(torch.nn.ModuleList(), device, device))


def load_audio_encoder(path: Path, normalize: str = "auto") -> SpeechEncoder:
    """A weights file, or a folder in the transformers layout, -> an encoder. Never touches the network.

    `normalize` says whether wav2vec2 gets zero mean and unit variance; "auto" is what the model's own files say.
    ValueError names `audio_encoder_name` when the files cannot be read, are not supported, or do not fit together.
    """
    weights = path if path.is_file() else next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise ValueError(f"audio_encoder_name: {path.name} has neither {' nor '.join(WEIGHTS)}; download one of them")
    state, metadata = load_weights(weights, "audio_encoder_name")
    if path.is_file() and "config" not in metadata and core_knows(state):
        encoder = as_speech_encoder(core.load_audio_encoder_from_sd(state))
    else:
        encoder = transformers_encoder(state, read_config(weights, metadata), path.name)
    if normalize == "auto":
        return encoder
    if not isinstance(encoder.family, Wav2Vec2):
        raise ValueError(f"normalize: got {normalize!r}, but {encoder.family.name} has no such step; choose auto")
    correction = None if normalize == "off" else encoder.family.variance_correction or 0
    return replace(encoder, family=replace(encoder.family, variance_correction=correction))


def core_knows(state: dict[str, Tensor]) -> bool:
    """Core tells its three checkpoints by width alone; here depth and front end must fit too."""
    shapes = {name.removeprefix("wav2vec2."): tuple(tensor.shape) for name, tensor in state.items()}
    depth = len({name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")})
    front = "feature_extractor.conv_layers.1.layer_norm.weight" in shapes
    speech = shapes.get("encoder.layer_norm.bias"), depth, front
    return speech in (((1024,), 24, True), ((768,), 12, False)) or \
        shapes.get("model.encoder.conv1.weight") == (1280, 128, 3)


def read_config(weights: Path, metadata: dict[str, str]) -> dict:
    """The transformers config: from the file's metadata, or from config.json and preprocessor_config.json beside it."""
    try:
        if "config" in metadata:
            return json.loads(metadata["config"])
        beside = (weights.with_name(name) for name in ("config.json", "preprocessor_config.json"))
        merged: dict = {}
        for file in beside:
            merged |= json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (ValueError, OSError) as error:
        raise ValueError(f"audio_encoder_name: the config of {weights.name} is not readable JSON ({error})") from error
    return merged


def transformers_encoder(state: dict[str, Tensor], config: dict, name: str) -> SpeechEncoder:
    kind = config.get("model_type")
    if kind not in TRANSFORMERS:
        raise ValueError(f"audio_encoder_name: {name} is not a checkpoint that ComfyUI knows, and its config says "
                         f"model_type {kind!r}; wanted {', '.join(TRANSFORMERS)} with a config.json beside the weights")
    config_class, network_class, prefixes = TRANSFORMERS[kind]
    try:
        library = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    except ModuleNotFoundError as error:
        raise ValueError(f"audio_encoder_name: {name} needs a library that is missing ({error}); run: "
                         f"pip install transformers") from error
    network = getattr(library, network_class)(getattr(library, config_class).from_dict(config)).float().eval()
    fill(network, state, prefixes, name)
    if kind == "whisper":
        family: Wav2Vec2 | Whisper = Whisper(network)
    else:
        family = Wav2Vec2(network, network.config.do_stable_layer_norm, 0 if config.get("do_normalize", True) else None)
    holder = torch.nn.ModuleList([network])  # ComfyUI sets .device on what it manages; transformers models refuse that
    return SpeechEncoder(family, comfy.model_patcher.ModelPatcher(
        holder, load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device()))


def fill(network: torch.nn.Module, state: dict[str, Tensor], prefixes: Sequence[str], name: str) -> None:
    """Load the part of `state` that is the network; refuse when anything but the unused mask embedding is missing."""
    prefix = next(prefix for prefix in (*prefixes, "") if any(key.startswith(prefix) for key in state))
    own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    try:
        missing = sorted(set(network.load_state_dict(own, strict=False).missing_keys) - {"masked_spec_embed"})
    except RuntimeError as error:
        raise ValueError(f"audio_encoder_name: the weights of {name} do not fit its config ({error})") from error
    if missing:
        raise ValueError(f"audio_encoder_name: {name} lacks {len(missing)} weights of {type(network).__name__}, "
                         f"{missing[0]} first; it is incomplete, or the config belongs to another model")
