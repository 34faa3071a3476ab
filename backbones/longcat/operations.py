"""Packed linear layers inside ComfyUI: moved and offloaded like any weight, and a LoRA never makes them coarser.

Unpacking comes first among the functions that ComfyUI calls on a weight it has brought to the device, so whatever it or
a node puts behind it (a LoRA, a weight wrapper) sees the weight itself, per call, and the packed one is never written.
"""
import comfy.ops
import torch
from torch import Tensor, nn

from ...networks.packed import PackedWeight


class PackedLinear(PackedWeight, comfy.ops.manual_cast.Linear):
    """The layer as ComfyUI moves, casts and patches it."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype=None, device=None):
        super().__init__(inputs, outputs, bias, device=device, dtype=dtype)
        self.float_dtype = dtype or torch.get_default_dtype()
        self._patch: list = []
        self.weight_function = []

    @property
    def weight_function(self) -> list:
        return self._functions

    @weight_function.setter
    def weight_function(self, functions: list) -> None:
        self._functions = [self.unpack, *self._patch, *functions]

    @property
    def weight_lowvram_function(self) -> None:
        """What ComfyUI's dynamic loading would add to the packed weight, and write back: never there for it."""

    @weight_lowvram_function.setter
    def weight_lowvram_function(self, patch) -> None:   # it sets the weight's other functions next
        self._patch = [patch] if patch is not None else []

    def convert_weight(self, weight: Tensor, **_) -> Tensor:
        """What core's LoRA loader patches where it has the memory to: the float weight."""
        return self.unpack(weight.float())

    def set_weight(self, weight: Tensor, inplace_update: bool = False, return_weight: bool = False, **_):
        """Takes a patched float weight as it is, never packed again: exact, at twice the memory or more."""
        if inplace_update:
            raise ValueError("quantised weights: a LoRA that is scheduled by hooks cannot be undone on them. Use Load "
                             "LongCat LoRA (Lodestar), or the bf16 checkpoint")
        patched = nn.Parameter(weight.to(self.float_dtype), requires_grad=False)
        if return_weight:
            return patched
        self.weight = patched


class PackedOperations(comfy.ops.manual_cast):
    """ComfyUI's casting layers where linear ones may come packed."""
    Linear = PackedLinear
