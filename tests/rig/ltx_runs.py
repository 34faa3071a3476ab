"""Runs of ComfyUI's sampler with a tiny LTX-2, picture and sound, and what they are compared by."""
from dataclasses import replace

import comfy.sample
import torch
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from draws import random
from lodestar.backbones import attach, find
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.technique import ChunkPosition

FRAMES, HEIGHT, WIDTH, SOUND = 4, 3, 4, 25
TOKENS = HEIGHT * WIDTH
LAST = 8 * (FRAMES - 1)     # pixel frame


def latents(frames=FRAMES, seed=5):
    return random(1, 128, frames, HEIGHT, WIDTH, seed=seed)


def speech(seed=6):
    return random(1, 8, SOUND, 16, seed=seed)


def run(model, picture=None, sound=None, mask=None, steps=1, wrap=None, noise=None, cfg=1.0, **values):
    """[picture, sound] of a run of ComfyUI's sampler; `mask`: of both."""
    clone = model.clone()
    if wrap is not None:
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrap)
    latent = NestedTensor((torch.zeros_like(latents()) if picture is None else picture,
                           torch.zeros_like(speech()) if sound is None else sound))
    drawn = NestedTensor((random(*latent.unbind()[0].shape, seed=1), random(*latent.unbind()[1].shape, seed=2)))
    prompts = [[[random(1, 5, 80, seed=seed), {"frame_rate": 25, **values}]] for seed in (3, 4)]
    with torch.inference_mode():
        return comfy.sample.sample(clone, drawn if noise is None else noise, steps, cfg, "euler", "simple", *prompts,
                                   latent, denoise=1.0, noise_mask=mask, seed=1, disable_pbar=True).unbind()


def anchored(model, distance=3.0, *techniques, apart=True, position=None, **options):
    """With a Lookahead Anchor; `apart` False: it takes part in what passes between picture and sound."""
    anchor = LookaheadAnchor(distance, **{"latents": latents(1, 12), **options})
    clone = attach.install_techniques(model, (anchor, *techniques), position or ChunkPosition())
    attach.patch_of(clone).backbone = replace(find(model), anchors_apart=apart)
    return clone


def apart(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def locked(picture=None):
    return NestedTensor((torch.ones(1, 1, FRAMES, HEIGHT, WIDTH) if picture is None else picture,
                         torch.zeros(1, 1, SOUND, 16)))
