"""Reads CogVideoX as its authors publish it, for ComfyUI's own network, whose loader knows other names.

What the weights alone do not say to ComfyUI is set here, as in the authors' configurations: the 2B's table of
positions (their file leaves it out) and its noisier schedule, the 5B I2V's rotary positions beside its table, and
rotary positions one apart in both 5B.
"""
import re
from pathlib import Path

import comfy.model_base
import comfy.model_detection
import comfy.model_sampling
import comfy.sd
import torch
from torch import Tensor

from ..weight_loading import WEIGHT_DTYPES, load_weights, strip_prefix
from .positions import formula_table

SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.safetensors")
NAMES = (     # of diffusers, in turn -> of ComfyUI
    (r"^transformer_blocks\.", "blocks."), (r"\.attn1\.to_out\.0\.", ".attn_out."), (r"\.attn1\.to_([qkv])\.", r".\1."),
    (r"\.attn1\.norm_([qk])\.", r".norm_\1."), (r"\.ff\.net\.0\.proj\.", ".ff_proj."), (r"\.ff\.net\.2\.", ".ff_out."),
    (r"^(time|ofs)_embedding\.linear_", r"\1_embedding_linear_"))
MARK, TABLE, PATCH = "blocks.0.norm1.linear.weight", "patch_embed.pos_embedding", "patch_embed.proj.weight"
WIDTH_2B, TEXT_TOKENS, TABLE_LATENTS, TABLE_SIZE, SPREAD = 1920, 226, 13, (30, 45), 1.875
NOISIER = 3.0     # the 2B's signal-to-noise ratio is a third of the others', step by step


def load_cogvideox(path: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """A file, or a folder of shards -> ComfyUI MODEL. ValueError names `model_name` and what is wrong with it.

    `weight_dtype`: a key of WEIGHT_DTYPES. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own.
    """
    if not hasattr(comfy.model_base, "CogVideoX"):
        raise ValueError("model_name: this ComfyUI has no CogVideoX. Update it to 0.33 or newer")
    weights = rename(strip_prefix(read(path)))
    if MARK not in weights or PATCH not in weights:
        raise ValueError(f"model_name: {path.name} is not CogVideoX's transformer. Wanted its file, such as "
                         "CogVideoX_1_5_5b_I2V_bf16.safetensors, or the folder transformer of its repository")
    small = weights[PATCH].ndim == 4 and weights[PATCH].shape[0] == WIDTH_2B
    if small and TABLE not in weights:
        weights[TABLE] = formula_table(WIDTH_2B, TEXT_TOKENS, TABLE_LATENTS, *TABLE_SIZE, SPREAD).to(weights[PATCH])
    options = {} if WEIGHT_DTYPES[weight_dtype] is None else {"dtype": WEIGHT_DTYPES[weight_dtype],
                                                              "fp8_optimizations": weight_dtype.endswith("_fast")}
    if gaps := missing(weights):
        raise ValueError(f"model_name: {path.name} lacks {len(gaps)} weights, {gaps[0]} first; it is incomplete. "
                         "Download it again")
    fixed = {"disable_dynamic": True} if disable_dynamic else {}
    patcher = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options, **fixed)
    set_up(patcher.model, small)
    patcher.cached_patcher_init = (load_cogvideox, (path, weight_dtype))     # how ComfyUI makes one elsewhere
    return patcher


def set_up(model, small: bool) -> None:
    """What a comfy.model_base.CogVideoX does not find in its weights. `small`: the 2B."""
    network = model.diffusion_model
    if network.patch_size_t is None:
        network.spatial_interpolation_scale = 1.0
        network.use_rotary_positional_embeddings = not small
    if small:
        plain = comfy.model_sampling.ModelSamplingDiscrete(model.model_config, zsnr=False).sigmas
        model.model_sampling.set_sigmas(comfy.model_sampling.rescale_zero_terminal_snr_sigmas(plain * NOISIER ** 0.5))


def read(path: Path) -> dict[str, Tensor]:
    """The weights of a file, or of all the shards in a folder."""
    if not path.is_dir():
        return load_weights(path, "model_name")[0]
    shards = sorted(file for file in path.iterdir() if SHARD.fullmatch(file.name))
    wanted = int(SHARD.fullmatch(shards[0].name)[2]) if shards else 0     # type: ignore[index]
    if not shards or len(shards) != wanted:
        raise ValueError(f"model_name: {path.name} has {len(shards)} of {wanted} shards. Download the whole folder")
    weights: dict[str, Tensor] = {}
    for shard in shards:
        weights |= load_weights(shard, "model_name")[0]
    return weights


def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under ComfyUI's names; those that have them already stay."""
    renamed = {}
    for name, weight in weights.items():
        for pattern, own in NAMES:
            name = re.sub(pattern, own, name)
        renamed[name] = weight
    return renamed


def missing(weights: dict[str, Tensor]) -> list[str]:
    """Names of ComfyUI's network that are not among the weights."""
    config = comfy.model_detection.model_config_from_unet(weights, "")
    whole = type(config).get_model(config, weights, device=torch.device("meta")).diffusion_model
    return [name for name in whole.state_dict() if name not in weights]
