"""The official int8 layers inside ComfyUI: moved and offloaded like any weight, and a LoRA never makes them coarser.

Row scales come first among the functions that ComfyUI calls on a weight it has brought to the device, so whatever it or
a node puts behind them (a low-VRAM LoRA, a weight wrapper) sees the dequantised weight, per call, and int8 stays int8.
"""
import comfy.ops
import torch
from torch import Tensor, nn

from .longcat import int8


class LongCatOperations(comfy.ops.manual_cast):
    """ComfyUI's casting layers, and int8 linear ones for the networks that ask for them."""

    class Int8Linear(int8.Int8Linear, comfy.ops.CastWeightBiasOp):
        comfy_cast_weights = True

        def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype=None, device=None):
            super().__init__(inputs, outputs, bias, dtype, device)
            self.float_dtype = dtype or torch.get_default_dtype()
            self.patch: list = []
            self.weight_function = []

        @property
        def weight_function(self) -> list:
            return self.functions

        @weight_function.setter
        def weight_function(self, functions: list) -> None:
            self.functions = [self.dequantized, *self.patch, *functions]

        @property
        def weight_lowvram_function(self) -> None:
            """What ComfyUI's dynamic loading would add to the raw int8 rows, and write back: never there for it."""

        @weight_lowvram_function.setter
        def weight_lowvram_function(self, patch) -> None:   # it sets the weight's other functions next
            self.patch = [patch] if patch is not None else []

        def forward(self, x: Tensor) -> Tensor:
            weight, bias, held = comfy.ops.cast_bias_weight(self, x, offloadable=True)
            result = nn.functional.linear(x, weight, bias)
            comfy.ops.uncast_bias_weight(self, weight, bias, held)
            return result

        def dequantized(self, weight: Tensor) -> Tensor:
            """The rows as they lie in memory, already in the dtype of the call, times their scales."""
            return weight * self.weight_scale.to(weight)[:, None] if self.weight.dtype == torch.int8 else weight

        def convert_weight(self, weight: Tensor, **_) -> Tensor:
            """What core's LoRA loader patches where it has the memory to: the float weight."""
            return self.dequantized(weight.float())

        def set_weight(self, weight: Tensor, inplace_update: bool = False, return_weight: bool = False, **_):
            """Takes a patched float weight as it is, never rounded to int8 again: exact, at twice the memory."""
            if inplace_update:
                raise ValueError("int8 weights: a LoRA that is scheduled by hooks cannot be undone on them. Use Load "
                                 "LongCat LoRA (Lodestar), or the bf16 checkpoint")
            patched = nn.Parameter(weight.to(self.float_dtype), requires_grad=False)
            if return_weight:
                return patched
            self.weight = patched
