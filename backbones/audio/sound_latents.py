"""Speech for models that make picture and sound together: the recording itself, which their audio VAE encodes for each
chunk from the sample at which its picture begins. So nothing is rounded to a grid of latents, and nothing adds up.
"""
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...techniques.audio.recording_digests import sound_marks
from .families import RATE

KINDS = {"AudioVAE": "ltx", "MiniMaxH3AudioVAE": "minimax h3"}     # class of the network: whose sound it makes


@dataclass(frozen=True, eq=False)
class SoundEncoder:
    """An audio VAE of ComfyUI's, or what its loader gives in 0.7.0."""
    vae: Any

    @property
    def kind(self) -> str:
        """Whose sound it makes; ValueError for another VAE."""
        network = getattr(self.vae, "first_stage_model", self.vae)
        kind = KINDS.get(type(network).__name__)
        if kind is None:
            raise ValueError(f"got {type(network).__name__}, wanted the audio VAE of LTX-2 or MiniMax H3. Load it with "
                             "LTXV Audio VAE Loader or Load VAE")
        return kind

    @property
    def rate(self) -> int:
        """Hz at which it is given sound."""
        return int(getattr(self.vae, "audio_sample_rate", None) or self.vae.sample_rate)

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """(1, S, channels) at its rate -> latents, silence behind it: ComfyUI cuts off what fills no block."""
        block = getattr(self.vae, "downscale_ratio", None) or self.rate // 10
        stereo = pad(samples.float(), (0, 0, 0, 2 * block - samples.shape[1] % block)).expand(-1, -1, 2)
        if hasattr(self.vae, "first_stage_model"):
            return self.vae.encode(stereo).float().cpu()
        return self.vae.encode({"waveform": stereo.movedim(-1, 1), "sample_rate": self.rate}).float().cpu()


def prepare_sound(audio: dict, audio_vae: Any, noise: float = 0.0, noise_seed: int = 0, seconds_ahead: float = 0.0
                  ) -> dict:
    """An AUDIO -> AUDIO_ENCODER_OUTPUT whose only layer is the recording at the audio VAE's rate, (1, S, channels).

    `noise`: how loud a noise is laid under it, of full scale. `seconds_ahead`: of speech behind a chunk that the model
    is given with it. ValueError for another VAE.
    """
    import torchaudio

    encoder = SoundEncoder(audio_vae)
    kind, waveform = encoder.kind, audio["waveform"]
    own = waveform if waveform.shape[1] <= 2 else waveform.mean(1, keepdim=True)
    if audio["sample_rate"] != encoder.rate:
        own = torchaudio.functional.resample(own, audio["sample_rate"], encoder.rate)
    if noise:
        own = own + noise * torch.randn(own.shape, generator=torch.Generator().manual_seed(noise_seed))
    layer = own.movedim(1, -1).contiguous()
    return {"encoded_audio": layer, "encoded_audio_all_layers": (layer,), "rate_hz": float(encoder.rate),
            "family": kind, "audio_samples": layer.shape[1] * RATE // encoder.rate, "sound_marks": sound_marks(audio),
            "sound_encoder": encoder, "seconds_ahead": seconds_ahead}
