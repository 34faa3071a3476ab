"""ComfyUI's Wan VAE class, which the puppet's VAE is trained as."""
import sys
from pathlib import Path

import torch


def alone(lock: Path):
    """The context in which this process holds `lock`; it waits until no other does."""
    from lib import environment
    return environment.only_one(lock)


def wan_vae(width: int, device="cpu"):
    """ComfyUI's Wan 2.1 VAE of `width` channels at full size, randomly initialised, on `device`."""
    from lib import environment
    if "comfy" not in sys.modules:
        environment.bring_comfyui(environment.newest_comfyui(), cpu=str(device) == "cpu")
    import comfy.ldm.wan.vae
    vae = comfy.ldm.wan.vae.WanVAE(dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                                   temperal_downsample=[False, True, True]).to(device)
    for name, weight in vae.named_parameters():
        if name.endswith("residual.6.weight"):    # every residual block begins as nothing
            torch.nn.init.zeros_(weight)
        elif weight.ndim > 1 and "gamma" not in name:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
        elif name.endswith("bias"):
            torch.nn.init.zeros_(weight)
        else:
            torch.nn.init.ones_(weight)
    without_past(vae)
    return vae


@torch.no_grad()
def without_past(vae) -> None:
    """Every frame for itself, a latent the mean of its frames and every frame of it the same: what a VAE that knows
    single frames has to begin clips with. Nothing of this touches single frames."""
    for name, weight in vae.named_parameters():
        if "time_conv.weight" in name and weight.shape[0] == weight.shape[1]:
            weight.copy_(torch.eye(len(weight))[:, :, None, None, None] * torch.tensor([0, 0.5, 0.5])[:, None, None])
        elif "time_conv.weight" in name:
            weight.copy_(torch.eye(weight.shape[1]).repeat(2, 1)[..., None, None, None]
                         * torch.tensor([0.0, 0, 1])[:, None, None])
        elif weight.ndim == 5:
            weight[:, :, :-1] = 0
