"""OmniAvatar's network (Gan et al. 2025): core's WanModel with 17 more channels, and speech before some blocks."""
from functools import partial

import comfy.ldm.wan.model
import torch
from torch import Tensor, nn

from ...networks.omniavatar.audio import AudioPack, add_to_tokens
from ...networks.omniavatar.settings import injected_blocks


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
        heard = audio.flatten(2).transpose(1, 2).to(x)
        packed = self.audio_proj(torch.cat([heard, heard.new_zeros(len(heard), ahead, heard.shape[2])], 1))
        options = self.with_speech(transformer_options, packed)
        return super()._forward(x, timestep, context, clip_fea, time_dim_concat, options, **others)

    def with_speech(self, options: dict, packed: Tensor) -> dict:
        """The options with speech before its blocks, and behind it whatever another node put in a block's place."""
        replacements = options.get("patches_replace", {})
        blocks = dict(replacements.get("dit", {}))
        for index, projection in zip(injected_blocks(self.num_layers), self.audio_cond_projs, strict=True):
            place = "double_block", index
            blocks[place] = partial(speak, projection(packed), blocks.get(place))
        return {**options, "patches_replace": {**replacements, "dit": blocks}}


def speak(residual: Tensor, earlier, values: dict, originals: dict) -> dict:
    """A block's replacement: the speech, then the block or another node's replacement of it."""
    values = {**values, "img": add_to_tokens(values["img"], residual)}
    return originals["original_block"](values) if earlier is None else earlier(values, originals)
