"""The seam to speech networks: wav2vec2 (and hubert) and whisper, from ComfyUI or transformers, driven in segments; and
log-mel, which needs no network.

Both libraries name the parts of wav2vec2 alike, so one walk serves both. Whatever in the published preprocessing spans
the whole clip (unit variance, GroupNorm, whisper's loudest mel bin) is measured over the whole clip, whichever segment
is being encoded; without that, segments could not equal one pass.
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torchaudio
from torch import Tensor
from torch.nn.functional import gelu, pad

from ...techniques.audio import mel as speech_mel
from ...techniques.audio.segments import Segment, moments
from ...techniques.audio.waveform import level_loudness

RATE = 16_000
SPAN_SECONDS = 30       # whole-clip statistics are gathered over spans of this length
MEL_HOP, MEL_RANGE = 160, 8.0


def first_of(output: Tensor | tuple) -> Tensor:
    """transformers returns some hidden states alone and some in a tuple, depending on its version."""
    return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True, eq=False)
class Wav2Vec2:
    """`network` has feature_extractor.conv_layers, feature_projection and encoder, as core's and transformers' do.

    `variance_correction` is None where the encoder takes the waveform as it is; where it wants zero mean and unit
    variance, core divides by N - 1 (1) and transformers by N (0).
    """
    network: torch.nn.Module
    stable_layer_norm: bool
    variance_correction: int | None
    name = "wav2vec2"
    segment_frames = None

    @property
    def convs(self) -> list[torch.nn.Conv1d]:
        return [layer.conv for layer in self.network.feature_extractor.conv_layers]

    @property
    def hop(self) -> int:
        return math.prod(conv.stride[0] for conv in self.convs)

    @property
    def field(self) -> int:
        """Samples that one feature frame covers."""
        size = 1
        for conv in reversed(self.convs):
            size = (size - 1) * conv.stride[0] + conv.kernel_size[0]
        return size

    @property
    def rate_hz(self) -> float:
        return RATE / self.hop

    @property
    def layer_count(self) -> int:
        return len(self.network.encoder.layers) + 1

    def rows(self, samples: int) -> int:
        return max(1, (samples - self.field) // self.hop + 1)

    def open(self, speech: Tensor, device: torch.device, segments: Sequence[Segment]) -> "Wav2Vec2Clip":
        """`speech` (1, N) at 16 kHz on the CPU; a clip shorter than one feature frame's field is padded with
        silence."""
        if speech.shape[1] < self.field:
            speech = pad(speech, (0, self.field - speech.shape[1]))
        mean, deviation = torch.zeros(()), torch.ones(())
        if self.variance_correction is not None:
            mean, deviation = speech.mean(), torch.sqrt(speech.var(correction=self.variance_correction) + 1e-7)
        clip = Wav2Vec2Clip(self, speech, device, mean.item(), deviation.item())
        first = self.network.feature_extractor.conv_layers[0]
        grouped = isinstance(getattr(first, "layer_norm", None), torch.nn.GroupNorm)
        return clip.with_group_norm(first) if grouped and len(segments) > 1 else clip

    def walk(self, hidden: Tensor, keep: Sequence[int]) -> Iterator[Tensor]:
        """Projected features (1, S, C) -> the kept hidden states, in order; the others die at once.

        The last is the final output, norm included, as in core (transformers' own list leaves it out since version 5).
        """
        encoder = self.network.encoder
        hidden = hidden + encoder.pos_conv_embed(hidden)
        if not self.stable_layer_norm:
            hidden = encoder.layer_norm(hidden)
        for index, layer in enumerate(encoder.layers):
            if index in keep:
                yield hidden
            hidden = first_of(layer(hidden))
        if len(encoder.layers) in keep:
            yield encoder.layer_norm(hidden) if self.stable_layer_norm else hidden


@dataclass(frozen=True, eq=False)
class Wav2Vec2Clip:
    family: Wav2Vec2
    speech: Tensor              # (1, N), CPU
    device: torch.device
    mean: float
    deviation: float
    scale: Tensor | None = None  # (1, C, 1): the first layer's GroupNorm with the statistics of the whole clip
    shift: Tensor | None = None

    def samples(self, first: int, end: int) -> Tensor:
        """(1, 1, end - first), normalised, on the device."""
        return ((self.speech[:, first:end].to(self.device) - self.mean) / self.deviation)[:, None]

    def with_group_norm(self, layer: torch.nn.Module) -> "Wav2Vec2Clip":
        """Measure the first convolution over the whole clip, in spans; the norm's own weights are read by calling it
        on a known signal, because the host may keep them in another type or on another device."""
        kernel, stride, norm = layer.conv.kernel_size[0], layer.conv.stride[0], layer.layer_norm
        steps, span = (self.speech.shape[1] - kernel) // stride + 1, SPAN_SECONDS * RATE // stride
        mean, variance = moments(
            layer.conv(self.samples(first * stride, (min(first + span, steps) - 1) * stride + kernel))[0]
            for first in range(0, steps, span))
        known = torch.tensor([1.0, -1.0], device=self.device).expand(1, mean.shape[0], 2)
        high, low = norm(known).cpu().double().unbind(-1)
        scale = (high - low) / 2 * math.sqrt(1 + norm.eps) * torch.rsqrt(variance + norm.eps)
        shift = (high + low) / 2 - mean * scale
        scale, shift = (value[..., None].to(self.device, torch.float32) for value in (scale, shift))
        return replace(self, scale=scale, shift=shift)

    def features(self, first: int, end: int) -> Tensor:
        """Convolutional features (1, end - first, C) of feature frames [first, end), equal to those of the whole
        clip."""
        family = self.family
        last = end == family.rows(self.speech.shape[1])
        x = self.samples(first * family.hop, self.speech.shape[1] if last else (end - 1) * family.hop + family.field)
        front, *rest = family.network.feature_extractor.conv_layers
        if self.scale is None:
            x = front(x)
        else:
            x = getattr(front, "activation", gelu)(front.conv(x) * self.scale + self.shift)
        for layer in rest:
            x = layer(x)
        return x.transpose(1, 2)

    def encode(self, segment: Segment, keep: Sequence[int]) -> list[Tensor]:
        hidden = first_of(self.family.network.feature_projection(self.features(segment.first, segment.end)))
        return list(self.family.walk(hidden, keep))


@dataclass(frozen=True, eq=False)
class Whisper:
    """`encoder` is the encoder half of whisper; it takes exactly `segment_frames` feature frames (30 s) at a time."""
    encoder: torch.nn.Module
    name = "whisper"
    hop = 2 * MEL_HOP
    rate_hz = RATE / hop

    @property
    def segment_frames(self) -> int:
        return self.encoder.embed_positions.num_embeddings

    @property
    def layer_count(self) -> int:
        return len(self.encoder.layers) + 1

    def rows(self, samples: int) -> int:
        return -(-samples // self.hop)

    def open(self, speech: Tensor, device: torch.device, segments: Sequence[Segment]) -> "WhisperClip":
        """`speech` (1, N) at 16 kHz on the CPU; a clip shorter than one segment is padded with silence, as always."""
        mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=RATE, n_fft=400, hop_length=MEL_HOP, n_mels=self.encoder.conv1.in_channels, f_min=0, f_max=8000,
            norm="slaney", mel_scale="slaney")
        rows = max(self.segment_frames, self.rows(speech.shape[1]))
        clip = WhisperClip(self, speech, device, rows, mel, floor=-math.inf)
        loudest = max(clip.log_mel(first, min(first + self.segment_frames, rows)).max().item()
                      for first in range(0, rows, self.segment_frames))
        return replace(clip, floor=loudest - MEL_RANGE)


@dataclass(frozen=True, eq=False)
class WhisperClip:
    family: Whisper
    speech: Tensor              # (1, N), CPU
    device: torch.device
    rows: int                   # of the clip with its padding
    mel: torch.nn.Module
    floor: float                # log10 of the quietest value that is distinguished, from the loudest of the whole clip

    def log_mel(self, first: int, end: int) -> Tensor:
        """log10 mel (1, mels, 2 * (end - first)) of rows [first, end), equal to that of the whole clip."""
        hop = self.family.hop
        left, right = max(0, (first - 1) * hop), min(self.rows, end + 1) * hop
        piece = self.speech[:, left:right]
        frames = self.mel(pad(piece, (0, right - left - piece.shape[1])))
        start = 2 * first - left // MEL_HOP
        return frames[:, :, start:start + 2 * (end - first)].clamp(min=1e-10).log10()

    def encode(self, segment: Segment, keep: Sequence[int]) -> list[Tensor]:
        mel = self.log_mel(segment.first, segment.first + self.family.segment_frames).clamp(min=self.floor)
        mel = ((mel + 4.0) / 4.0).to(self.device)
        layers = hidden_states(self.family.encoder, mel)
        return [layers[index][:, :segment.end - segment.first] for index in keep]


@dataclass(frozen=True, eq=False)
class LogMel:
    """Nothing but energies in bands, for the puppet; no weights. Its layers are channels, all of one row."""
    name = "log-mel"
    rate_hz = speech_mel.RATE_HZ
    layer_count = speech_mel.LAYERS
    segment_frames = None

    def rows(self, samples: int) -> int:
        return max(1, samples // speech_mel.STEP)

    def open(self, speech: Tensor, device: torch.device, segments: Sequence[Segment]) -> "LogMelClip":
        """`speech` (1, N) at 16 kHz on the CPU."""
        return LogMelClip(level_loudness(speech[0], RATE))


@dataclass(frozen=True, eq=False)
class LogMelClip:
    speech: Tensor      # (N,), at the loudness of training

    def encode(self, segment: Segment, keep: Sequence[int]) -> list[Tensor]:
        rows = speech_mel.mel_steps(self.speech, segment.first, segment.end)
        return [rows[None, :, index] for index in keep]


def hidden_states(encoder: torch.nn.Module, mel: Tensor) -> Sequence[Tensor]:
    """Core's encoder returns (last, all layers) and takes nothing else; transformers' is asked for all layers."""
    if hasattr(encoder, "config"):
        return encoder(mel, output_hidden_states=True).hidden_states
    return encoder(mel)[1]
