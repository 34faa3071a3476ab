"""OmniAvatar's published files: what stands beside Wan 2.1 T2V, as PEFT and torch.save left it.

One file holds LoRA pairs for the base's linear layers, and whole the layers that the base has otherwise or not at all:
a patch embedding of more channels and the speech's. It holds no alpha; the scale is that of the authors' config.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .settings import EXTRA_CHANNELS, LORA_SCALE, injected_blocks

PREFIXES = ("", "module.", "model.", "dit.", "base_model.model.", "diffusion_model.", "model.diffusion_model.")
LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
PATCH, PACK, INJECTED = "patch_embedding.weight", "audio_proj.proj.weight", "audio_cond_projs.{}.weight"
WHOLE = ("patch_embedding.", "audio_proj.", "audio_cond_projs.")
AUDIO = WHOLE[1:]
BLOCK = re.compile(r"blocks\.(\d+)\.")


class Pair(NamedTuple):
    """down (rank, in), up (out, rank); the change of the layer is LORA_SCALE * up @ down."""
    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False)
class Published:
    """One published file. `pairs`: by the layer's path. `whole`: weights that the network takes as they are."""
    pairs: Mapping[str, Pair]
    whole: Mapping[str, Tensor]

    @property
    def width(self) -> int:
        return self.whole[PATCH].shape[0]

    def ordinary_pairs(self, prefix: str = "diffusion_model.") -> dict[str, Tensor]:
        """{prefix + path + .lora_down.weight | .lora_up.weight | .alpha}, as every LoRA loader reads them."""
        found = {}
        for path, pair in self.pairs.items():
            found[f"{prefix}{path}.lora_down.weight"], found[f"{prefix}{path}.lora_up.weight"] = pair
            found[f"{prefix}{path}.alpha"] = torch.tensor(LORA_SCALE * len(pair.down))
        return found


def read_published(weights: Mapping[str, Tensor]) -> Published:
    """Raises ValueError, without the file's name, for weights that are not OmniAvatar's, or not all of them."""
    prefix = next((prefix for prefix in PREFIXES if prefix + PATCH in weights), "")
    own = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    halves: dict[str, dict[str, Tensor]] = {}
    whole = {}
    for name, weight in own.items():
        if match := LORA.fullmatch(name):
            halves.setdefault(match[1], {})[match[2]] = weight
        elif name.startswith(WHOLE):
            whole[name] = weight
        else:
            raise ValueError(f"it holds {name}, wanted LoRA pairs (...lora_A.default.weight), patch_embedding and "
                             "audio layers alone; it is another model's, or merged with its base")
    if not halves:
        raise ValueError("it holds no LoRA pairs; it is another model's")
    if broken := [path for path, pair in halves.items() if len(pair) != 2]:
        raise ValueError(f"{broken[0]} has one half of a LoRA pair; the file is damaged, download it again")
    check_whole(whole)
    return Published({path: Pair(pair["A"], pair["B"]) for path, pair in halves.items()}, whole)


def check_whole(whole: Mapping[str, Tensor]) -> None:
    """Patch embedding and speech layers are all there, and fit each other."""
    layers = [name.removesuffix(".weight") for name in (PATCH, PACK, INJECTED.format(0))] + ["audio_proj.norm_out"]
    needed = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    if missing := [name for name in needed if name not in whole]:
        raise ValueError(f"it lacks {len(missing)} weights, {missing[0]} first; it is another model's, or cut short")
    channels, hidden = whole[PATCH].shape[1], whole[PACK].shape[0]
    if channels <= EXTRA_CHANNELS or whole[INJECTED.format(0)].shape != (whole[PATCH].shape[0], hidden):
        raise ValueError(f"it has a patch embedding of {channels} channels and speech of {hidden} numbers, "
                         f"wanted 16 + {EXTRA_CHANNELS} channels; it is another model's")


def check_base(base: Mapping[str, Tensor], published: Published) -> None:
    """Whether the two belong together. Raises ValueError that says which size each is."""
    depth = 1 + max((int(match[1]) for name in base if (match := BLOCK.match(name))), default=-1)
    if PATCH not in base or not depth:
        raise ValueError(f"the base has {len(base)} weights, such as {next(iter(base), 'none')}, wanted Wan 2.1 "
                         "text-to-video")
    width, channels = base[PATCH].shape[:2]
    if channels != published.whole[PATCH].shape[1] - EXTRA_CHANNELS or "img_emb.proj.0.weight" in base:
        raise ValueError(f"the base takes {channels} channels, wanted "
                         f"{published.whole[PATCH].shape[1] - EXTRA_CHANNELS}: Wan 2.1 text-to-video, not "
                         "image-to-video")
    injected = sum(name.startswith("audio_cond_projs.") and name.endswith(".weight") for name in published.whole)
    if width != published.width or injected != len(injected_blocks(depth)):
        raise ValueError(f"the base is {width} wide with {depth} blocks, OmniAvatar's file is {published.width} wide "
                         f"with speech in {injected} blocks: Wan 2.1 1.3B belongs to OmniAvatar 1.3B, 14B to 14B")
    for path, (down, up) in published.pairs.items():
        layer = base.get(f"{path}.weight")
        if layer is None or tuple(layer.shape) != (len(up), down.shape[1]):
            raise ValueError(f"{path} is changed from {down.shape[1]} to {len(up)} numbers, the base has "
                             f"{'none such' if layer is None else tuple(layer.shape)}; they do not belong together")

