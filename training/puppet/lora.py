"""A variant of a network as a LoRA: trained on frozen weights, kept in the layout that ComfyUI's own loader reads."""
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

PREFIX = "diffusion_model."
TRAINED = ("attn.qkv", "attn.proj", "ffn.w1", "ffn.w2", "ffn.w3", "audio_cross_attn.q_linear",
           "audio_cross_attn.kv_linear", "audio_cross_attn.proj")


class Lora(nn.Module):
    """What is added to one layer's weight (out, in), alpha being the rank; nothing at first."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1], device=weight.device))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=5 ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def attach(network: nn.Module, rank: int) -> nn.ModuleDict:
    """Freeze `network` and put a LoRA on each of its TRAINED layers; all of them by path, "/" for the dot."""
    network.requires_grad_(False)
    found = nn.ModuleDict()
    for path, layer in list(network.named_modules()):
        if path.split(".", 2)[-1] in TRAINED:
            found[path.replace(".", "/")] = lora = Lora(layer.weight, rank)
            parametrize.register_parametrization(layer, "weight", lora)
    return found


def layout(averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of what `attach` gave, as a LoRA file's weights in fp16."""
    weights = {}
    for name, tensor in averaged.items():
        path, part = name.rsplit(".", 1)
        path = PREFIX + path.replace("/", ".")
        weights[f"{path}.lora_{part}.weight"] = tensor.half().contiguous()
        if part == "down":
            weights[f"{path}.alpha"] = torch.tensor(float(len(tensor)))
    return weights


def join(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One LoRA file that adds what two of the same layers add, each with its rank as alpha."""
    joined = {}
    for name, tensor in first.items():
        other = second[name]
        joined[name] = tensor + other if name.endswith(".alpha") else torch.cat(
            [tensor, other], 0 if name.endswith(".lora_down.weight") else 1).contiguous()
    return joined


def is_lora(weights: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(".lora_up.weight") for name in weights)


@torch.no_grad()
def add(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Add a LoRA to the weights for good."""
    for name in filter(lambda name: name.endswith(".lora_up.weight"), weights):
        path = name.removesuffix(".lora_up.weight")
        up, down = weights[name].float(), weights[f"{path}.lora_down.weight"].float()
        layer = network.get_submodule(path.removeprefix(PREFIX))
        layer.weight += weights[f"{path}.alpha"].float() / len(down) * up @ down
