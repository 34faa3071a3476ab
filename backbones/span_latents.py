"""A span's latents as a model's call takes them; those of another model or size are refused."""
from collections.abc import Callable

from torch import Tensor

from ..techniques.layout import Span
from .sampling_run import once


def check_shape(span: Span, wanted: tuple[int, ...]) -> None:
    """Raises ValueError for a span's latents of other channels, height or width."""
    assert span.latents is not None
    channels, height, width = wanted
    came = span.latents.shape
    if came[1] != channels:
        raise ValueError(f"{span.name}: got latents with {came[1]} channels, this model's have {channels}: they come "
                         "from another model's VAE. Encode the picture with the VAE that belongs to it")
    if came[-2:] != (height, width):
        raise ValueError(f"{span.name}: got latents of {came[-1]}x{came[-2]}, the take's are {width}x{height}. Encode "
                         "the picture at the take's width and height")


def latents_of(span: Span, x: Tensor, channels: int, process_in: Callable[[Tensor], Tensor], transformer_options: dict
               ) -> Tensor:
    """The span's latents in model space, in the size, batch, device and dtype of `x`. Refuses a foreign space."""
    latents = span.latents
    assert latents is not None
    check_shape(span, (channels, *x.shape[-2:]))
    _, own = once(transformer_options, ("latents", id(latents), x.dtype, x.device),
                  lambda: (latents, process_in(latents.float()).to(x)))     # while it is kept, the id is no other's
    return own.expand(x.shape[0], -1, -1, -1, -1)
