"""OmniAvatar (Gan et al. 2025) as an ordinary ComfyUI MODEL: core's WanModel with 17 more channels, and speech.

What a noise mask keeps is clean at every step and has the step's own timestep, as in training; channels beside the
noisy latent show the reference in every frame, and which frames are to be made. Speech is added before some blocks.
"""
from functools import partial

import comfy.conds
import comfy.ldm.wan.model
import comfy.model_base
import comfy.supported_models
import torch
from torch import Tensor, nn

from ...networks.omniavatar.audio import AudioPack, add_to_tokens
from ...networks.omniavatar.settings import SHIFT, injected_blocks

AUDIO = "omniavatar_audio"      # in CONDITIONING: (1, 4 C, T, 1, 1), as ComfyUI cuts latents into context windows


class OmniAvatarNetwork(comfy.ldm.wan.model.WanModel):
    """Core's network and the speech's layers, under their published names."""

    def __init__(self, *args, audio_width: int, audio_hidden: int, operations, dtype=None, device=None, **settings):
        super().__init__(*args, operations=operations, dtype=dtype, device=device, **settings)
        where = {"dtype": dtype, "device": device}
        self.audio_proj = AudioPack(audio_width, audio_hidden, operations, **where)
        self.audio_cond_projs = nn.ModuleList(operations.Linear(audio_hidden, self.dim, **where)
                                              for _ in injected_blocks(self.num_layers))

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None = None,
                 time_dim_concat: Tensor | None = None, transformer_options: dict = {},  # noqa: B006 - as core's
                 audio: Tensor | None = None, **others) -> Tensor:
        """The velocity of `x` (B, 16 + 17, T, h, w): latents, the reference, and where frames are to be made.

        `audio` (B, 4 C, T, 1, 1): features of each latent; None is zeros. `time_dim_concat` (B, 16, t, h, w): clean
        frames, which get the channels of known ones and get zeros as audio.
        """
        ahead = 0
        if time_dim_concat is not None:
            ahead = time_dim_concat.shape[2]
            reference = x[:, self.out_dim:2 * self.out_dim, :1].expand(-1, -1, ahead, -1, -1)
            known = torch.zeros_like(time_dim_concat[:, :1])
            time_dim_concat = torch.cat([time_dim_concat, reference, known], 1)
        if audio is None:
            audio = x.new_zeros(x.shape[0], self.audio_proj.proj.in_features, x.shape[2], 1, 1)
        rows = audio.flatten(2).transpose(1, 2).to(x)
        packed = self.audio_proj(torch.cat([rows, rows.new_zeros(len(rows), ahead, rows.shape[2])], 1))
        options = self.with_speech(transformer_options, packed)
        return super()._forward(x, timestep, context, clip_fea, time_dim_concat, options, **others)

    def rope_encode(self, *args, dtype=None, **others) -> Tensor:
        """Core's, with positions in float32 whatever the model computes in: in bf16 they merge from 256 on."""
        return super().rope_encode(*args, dtype=torch.float32, **others)

    def with_speech(self, options: dict, packed: Tensor) -> dict:
        """The options with speech before its blocks, and behind it whatever another node put in a block's place."""
        replacements = options.get("patches_replace", {})
        blocks = dict(replacements.get("dit", {}))
        for index, projection in zip(injected_blocks(self.num_layers), self.audio_cond_projs, strict=True):
            place = "double_block", index
            block = partial(speak, projection(packed), blocks.get(place))
            blocks[place] = torch.compiler.disable(block, recursive=False)  # a compiled model would keep it
        return {**options, "patches_replace": {**replacements, "dit": blocks}}


class OmniAvatar(comfy.model_base.WAN21):
    """What the sampler asks."""

    def __init__(self, model_config: "OmniAvatarConfig", device=None):
        super(comfy.model_base.WAN21, self).__init__(model_config, comfy.model_base.ModelType.FLOW, device=device,
                                                     unet_model=OmniAvatarNetwork)
        self.diffusion_model.requires_grad_(False)
        self.image_to_video = True

    def concat_cond(self, **kwargs) -> Tensor:
        """Channels (1, 17, T, h, w) beside the noisy latent: the reference in every frame, and 1 where to generate.

        The reference is the first frame of `reference_latents`' last, or of `concat_latent_image`, in LATENT space.
        Raises ValueError where there is none, or where it is not the video's size.
        """
        noise, references = kwargs["noise"], kwargs.get("reference_latents")
        picture = references[-1] if references else kwargs.get("concat_latent_image")
        if picture is None:
            raise ValueError("reference: OmniAvatar makes a picture talk, and none came. Connect one to Long Take, or "
                             "put its latent into the conditioning with ReferenceLatent")
        picture = (picture.unsqueeze(2) if picture.ndim == 4 else picture)[:1, :, :1]
        wanted = (1, self.diffusion_model.out_dim, 1, *noise.shape[3:])
        if tuple(picture.shape) != wanted:
            raise ValueError(f"reference: got a latent of {picture.shape[1]} channels, {picture.shape[4]}x"
                             f"{picture.shape[3]}, wanted {wanted[1]}, {wanted[4]}x{wanted[3]}: scale and crop the "
                             "picture to the video's size, and encode it with the Wan 2.1 VAE")
        mask = kwargs.get("denoise_mask")
        unknown = torch.ones_like(noise[:1, :1]) if mask is None else mask[:1, :1].to(noise)
        shown = self.process_latent_in(picture).to(noise).expand(-1, -1, noise.shape[2], -1, -1)
        return torch.cat([shown, unknown.expand(-1, -1, *noise.shape[2:])], 1).to(kwargs["device"])

    def extra_conds(self, **kwargs) -> dict:
        """CONDITIONING to arguments of the network. Raises ValueError where reference or speech do not fit."""
        out = super().extra_conds(**kwargs)
        out.pop("reference_latent", None)     # core's Wan would take it for another model's
        audio, noise = kwargs.get(AUDIO), kwargs["noise"]
        width = self.diffusion_model.audio_proj.proj.in_features
        if audio is None:
            audio = noise.new_zeros(1, width, noise.shape[2], 1, 1)
        if tuple(audio.shape) != (1, width, noise.shape[2], 1, 1):
            raise ValueError(f"audio_features: got {audio.shape[1]} numbers for each of {audio.shape[2]} latents, "
                             f"wanted {width} for each of {noise.shape[2]}. Use OmniAvatar Speech and Long Take")
        out["audio"] = comfy.conds.CONDRegular(audio.to(kwargs["device"]))
        return out

    def scale_latent_inpaint(self, latent_image: Tensor, **kwargs) -> Tensor:
        """What the noise mask keeps is clean at every step."""
        return latent_image


class OmniAvatarConfig(comfy.supported_models.WAN21_T2V):
    """ComfyUI's view of one checkpoint; `unet_config` is the network's arguments."""
    sampling_settings = {"shift": SHIFT}

    def get_model(self, state_dict, prefix: str = "", device=None) -> OmniAvatar:
        return OmniAvatar(self, device)


def speak(residual: Tensor, earlier, values: dict, originals: dict) -> dict:
    """A block's replacement: the speech, then the block or another node's replacement of it."""
    values = {**values, "img": add_to_tokens(values["img"], residual)}
    return originals["original_block"](values) if earlier is None else earlier(values, originals)
