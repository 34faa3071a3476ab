"""ComfyUI and the pack in this process, on CPU, and the models that are measured. Imported before anything of either.

A test run has them already; alone, ComfyUI is $COMFYUI_PATH or the newest one in the cache that scripts/test.py fills.
"""
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
sys.path.append(str(PACK / "scripts"))
from lib import environment  # noqa: E402
from lib.pack import load_pack  # noqa: E402

load_pack()     # before ComfyUI is on the path, so that no node is imported yet

COMFYUI = environment.newest_comfyui()
if "comfy" not in sys.modules:
    BASE = tempfile.TemporaryDirectory(prefix="lodestar-bench-", ignore_cleanup_errors=True)
    environment.bring_comfyui(COMFYUI, BASE.name)

import comfy.cli_args  # noqa: E402
import torch  # noqa: E402
from lodestar.techniques.technique import ChunkPosition  # noqa: E402

META = torch.device("meta")
CPU = torch.device("cpu")
BLOCKS = {"1.3B": (1536, 8960, 12), "14B": (5120, 13824, 40)}   # of Wan 2.1: width, feed-forward width, heads
LATENT_SIZE = (60, 104)                                         # 480x832 pixels: 1,560 tokens a latent


def use_gpu() -> None:
    """Let ComfyUI choose the GPU. To be called before anything imports its model management."""
    comfy.cli_args.args.cpu = False


def wan_model(blocks: str, layers: int, device: torch.device, dtype: torch.dtype = torch.bfloat16):
    """A MODEL: ComfyUI's own Wan 2.1 T2V with `layers` blocks of the widths of "1.3B" or "14B", random weights."""
    import comfy.model_patcher
    import comfy.supported_models
    width, feed_forward, heads = BLOCKS[blocks]
    config = comfy.supported_models.WAN21_T2V({
        "image_model": "wan2.1", "model_type": "t2v", "dim": width, "ffn_dim": feed_forward, "num_heads": heads,
        "num_layers": layers, "in_dim": 16, "out_dim": 16, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, device=device)
    for weight in base.diffusion_model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return comfy.model_patcher.ModelPatcher(base, device, device)


def latents(frames: int, device: torch.device, size: tuple[int, int] = LATENT_SIZE) -> torch.Tensor:
    """(1, 16, frames, h, w) of noise."""
    return torch.randn(1, 16, frames, *size, device=device)


def denoise(model, noisy: torch.Tensor, conditions: dict | None = None, **options) -> torch.Tensor:
    """One call of the model as a sampler makes it, through its wrappers: denoised latents in the shape of `noisy`.

    `conditions` are given beside (or instead of) an empty prompt; `options` join transformer_options.
    """
    given = {**model.model_options["transformer_options"], "wrappers": model.wrappers, "cond_or_uncond": [0],
            "uuids": ["bench"], **options}
    text = torch.zeros(1, 512, 4096, device=noisy.device, dtype=model.model.get_dtype())
    with torch.inference_mode():
        denoised = model.model.apply_model(noisy, torch.full((1,), 0.7, device=noisy.device), transformer_options=given,
                                           **{"c_crossattn": text, **(conditions or {})})
    assert denoised.shape == noisy.shape
    return denoised


def with_techniques(model, *techniques, context: torch.Tensor | None = None):
    """The model with `techniques`, as Long Take patches it for a chunk that continues from `context`."""
    from lodestar.backbones import attach
    return attach.install_techniques(model, techniques, ChunkPosition(context=context))


def tiny_model(name: str):
    """A MODEL of the pack's tiny checkpoints: "omniavatar", "infinitetalk", or one of core's loader, such as
    "wan21_t2v"."""
    import comfy.sd
    from lodestar.backbones.omniavatar.loader import load_omniavatar
    folder = environment.tiny_models(Path(sys.executable)) / "models" / "diffusion_models"
    if name == "omniavatar":
        return load_omniavatar(folder / "lodestar_tiny_omniavatar_wan21_t2v.safetensors",
                               folder / "lodestar_tiny_omniavatar.pt")
    if name == "infinitetalk":
        import folder_paths
        from comfy_extras.nodes_model_patch import ModelPatchLoader
        from lodestar.backbones.infinitetalk.patching import with_speech_patch
        folder_paths.add_model_folder_path("model_patches", str(folder.parent / "model_patches"))
        patch = ModelPatchLoader().load_model_patch("lodestar_tiny_infinitetalk.safetensors")[0]
        return with_speech_patch(tiny_model("infinitetalk_i2v"), patch)
    return comfy.sd.load_diffusion_model(str(folder / f"lodestar_tiny_{name}.safetensors"))


def tiny_vae():
    """The pack's tiny Wan VAE as ComfyUI's VAE object."""
    import comfy.sd
    import comfy.utils
    path = environment.tiny_models(Path(sys.executable)) / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
