"""LongCat-Video-Avatar 1.5 with random weights in the sizes that are measured, and what a step of it is given."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from dataclasses import replace

import torch
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.versions import AVATAR_15
from lodestar.networks.packed import Scaled, Weight, state_of
from lodestar.techniques.timeline import frames_of

OFFICIAL = LongCatConfig(audio=AudioConfig(width=AVATAR_15.audio_width))
SMALL = replace(OFFICIAL, hidden=1024, heads=8, ffn=2816, depth=2)      # a step of it is a second on one CPU thread
TINY = replace(OFFICIAL, hidden=64, heads=2, ffn=128, depth=2)
NOISE, CONTEXT = 20, 4      # latents of a chunk, behind one of reference
SPREAD = 0.02               # of the weights


def longcat_model(config: LongCatConfig, device: torch.device, dtype: torch.dtype = torch.bfloat16, int8: bool = False
                  ):
    """A MODEL whose weights are made one by one where they stay: a card that holds them once is enough."""
    import comfy.model_patcher
    import comfy.ops
    from lodestar.backbones.longcat.model import LongCatModelConfig
    from lodestar.backbones.longcat.operations import PackedOperations
    model_config = LongCatModelConfig(config, AVATAR_15, PackedOperations if int8 else comfy.ops.manual_cast)
    model_config.set_inference_dtype(dtype, None)
    base = model_config.get_model({}, device=torch.device("meta") if int8 else device)
    if int8:
        base.diffusion_model.load_state_dict(int8_state(base.diffusion_model, device), assign=True)
        base.device = device
    for name, weight in base.diffusion_model.named_parameters():
        fill(name, weight)
    return comfy.model_patcher.ModelPatcher(base, device, device)


def int8_state(network: torch.nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """Room for the weights of a network on meta, linear layers but the last as int8 rows with a scale each."""
    found: dict[str, Weight] = {}
    for name, weight in network.state_dict().items():
        rows = name.endswith(".weight") and weight.ndim == 2 and not name.startswith("final_layer.linear")
        found[name] = torch.empty_like(weight, device=device) if not rows else \
            Scaled(torch.empty_like(weight, dtype=torch.int8, device=device), torch.empty(len(weight), device=device))
    return state_of(found)


def fill(name: str, weight: torch.Tensor) -> None:
    """Norms do nothing, biases are 0; int8 rows spread as the others do."""
    if weight.dtype == torch.int8:
        weight.random_(-127, 128)
    elif name.endswith("weight_scale"):
        weight.fill_(SPREAD * 3 ** 0.5 / 127)
    elif weight.ndim > 1:
        weight.normal_(std=SPREAD)
    else:
        weight.fill_(float(name.endswith("weight")))


def chunk(config: LongCatConfig, device: torch.device, size: tuple[int, int]) -> tuple[torch.Tensor, dict]:
    """Latents (1, 16, 24, h, w) of a continuation, the first 4 given, and the conditions: reference, text, speech."""
    x, conditions = joint(config, device, size, CONTEXT + NOISE)
    return x, {**conditions, "num_cond_frames": CONTEXT, "reference": in_process.latents(1, device, size),
               "reference_key": "it"}


def joint(config: LongCatConfig, device: torch.device, size: tuple[int, int], frames: int = 1 + CONTEXT + NOISE
          ) -> tuple[torch.Tensor, dict]:
    """As many latents as a chunk has in all, none of them given: each sees all others, text and its own speech."""
    audio = config.audio
    speech = (1, 1, frames_of(frames, audio.ratio), audio.window, 1, audio.width)
    return in_process.latents(frames, device, size), {
        "c_crossattn": torch.randn(1, 512, config.caption, device=device), "audio": torch.randn(speech, device=device)}
