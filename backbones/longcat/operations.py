"""Packed linear layers inside ComfyUI: moved and offloaded like any weight, and a LoRA never makes them coarser.

Unpacking comes first among the functions that ComfyUI calls on a weight it has brought to the device, so whatever it or
a node puts behind it (a LoRA, a weight wrapper) sees the weight itself, per call, and the packed one is never written.
"""
import comfy.ops
import torch
from torch import Tensor, nn

from ...networks.packed import SCALED, unpacked


class PackedLinear(comfy.ops.manual_cast.Linear):
    """Its weight is what its state dict brings: scaled rows, blocks, or a plain one."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype=None, device=None):
        super().__init__(inputs, outputs, bias, device=device, dtype=dtype)
        self.float_dtype = dtype or torch.get_default_dtype()
        self.blocks: tuple[tuple[int, int], ...] = ()
        self._patch: list = []
        self.weight_function = []

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        scale, blocks = state_dict.get(f"{prefix}weight_scale"), state_dict.get(f"{prefix}weight_blocks")
        if scale is not None:
            self.weight_scale = nn.Parameter(scale, requires_grad=False)
        if blocks is not None:
            self.register_buffer("weight_blocks", blocks)
            self.blocks = tuple((kind, rows) for kind, rows in blocks.tolist())
        if scale is not None or blocks is not None:
            self.weight = nn.Parameter(state_dict[f"{prefix}weight"], requires_grad=False)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def weight_function(self) -> list:
        return self._functions

    @weight_function.setter
    def weight_function(self, functions: list) -> None:
        self._functions = [self.unpacked, *self._patch, *functions]

    @property
    def weight_lowvram_function(self) -> None:
        """What ComfyUI's dynamic loading would add to the packed weight, and write back: never there for it."""

    @weight_lowvram_function.setter
    def weight_lowvram_function(self, patch) -> None:   # it sets the weight's other functions next
        self._patch = [patch] if patch is not None else []

    def unpacked(self, weight: Tensor) -> Tensor:
        """The packed weight, already in the dtype of the call, as numbers; one that a patch replaced as it is."""
        if self.weight.dtype == torch.uint8:
            return unpacked(weight.to(torch.uint8), self.blocks, self.in_features).to(weight)
        return weight * self.weight_scale.to(weight)[:, None] if self.weight.dtype in SCALED else weight

    def convert_weight(self, weight: Tensor, **_) -> Tensor:
        """What core's LoRA loader patches where it has the memory to: the float weight."""
        return self.unpacked(weight.float())

    def set_weight(self, weight: Tensor, inplace_update: bool = False, return_weight: bool = False, **_):
        """Takes a patched float weight as it is, never packed again: exact, at twice the memory or more."""
        if inplace_update:
            raise ValueError("quantised weights: a LoRA that is scheduled by hooks cannot be undone on them. Use Load "
                             "LongCat LoRA (Lodestar), or the bf16 checkpoint")
        patched = nn.Parameter(weight.to(self.float_dtype), requires_grad=False)
        if return_weight:
            return patched
        self.weight = patched


class Int8Linear(PackedLinear):
    """One that is known to be scaled int8 rows before it is loaded."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype=None, device=None):
        super().__init__(inputs, outputs, bias, dtype, "meta")      # a float weight beside it would be made for nothing
        if bias:
            self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype, device=device))
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.int8, device=device), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(outputs, dtype=torch.float32, device=device), requires_grad=False)


class LongCatOperations(comfy.ops.manual_cast):
    """ComfyUI's casting layers, and int8 linear ones for the networks that ask for them."""
    Int8Linear = Int8Linear


class PackedOperations(LongCatOperations):
    """The same where linear layers may come packed."""
    Linear = PackedLinear
