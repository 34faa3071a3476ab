"""ComfyUI's Wan VAE with nothing but 2-D convolutions and all frames at once: the same outputs, several times as fast.

Of a causal 3-D convolution the last slice meets the frame itself and the others those before it: on a single frame the
last one is all there is, on a clip the three frames that meet are the channels of one 2-D convolution. Inside, clips
are (B, T, H, W, C), the order in which CPUs and GPUs convolve fastest.
"""
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad, rms_norm, scaled_dot_product_attention


def encode(vae, frames: Tensor) -> Tensor:
    """(B, 3, T, H, W) in -1..1, T = 4 t - 3 -> (B, 16, t, h, w); equals `vae.encode`."""
    coder = vae.encoder
    return through((coder.conv1, *coder.downsamples, *coder.middle, *coder.head, vae.conv1), frames).chunk(2, 1)[0]


def decode(vae, latents: Tensor) -> Tensor:
    """(B, 16, t, h, w) -> (B, 3, T, H, W); equals `vae.decode`."""
    coder = vae.decoder
    return through((vae.conv2, coder.conv1, *coder.middle, *coder.upsamples, *coder.head), latents)


def through(layers: Iterable[nn.Module], clips: Tensor) -> Tensor:
    x = clips.movedim(1, -1).contiguous()
    for layer in layers:
        x = apply_layer(layer, x)
    return x.movedim(-1, 1)


def apply_layer(layer: nn.Module, x: Tensor) -> Tensor:
    return HOW.get(type(layer).__name__, nn.Module.__call__)(layer, x)


def in_pictures(layer, x: Tensor) -> Tensor:
    """What knows (N, C, H, W) only, for every frame."""
    return layer(x.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).unflatten(0, x.shape[:2])


def over_time(layer, *frames: Tensor) -> Tensor:
    """A convolution over as many frames as are given, each of them (B, t, H, W, C): the last slices of its weight."""
    weight = layer.weight[:, :, -len(frames):].transpose(1, 2).flatten(1, 2)
    weight = weight.contiguous(memory_format=torch.channels_last)
    padding = [size // 2 for size in weight.shape[2:]]    # ComfyUI keeps a layer's own in one place or another
    return in_pictures(lambda x: conv2d(x, weight, layer.bias, padding=padding), torch.cat(frames, -1))


def convolve(layer, x: Tensor) -> Tensor:
    """Every frame with the two before it, zeros before the first."""
    if layer.weight.shape[2] == 1 or x.shape[1] == 1:
        return over_time(layer, x)
    past = pad(x, (0, 0, 0, 0, 0, 0, 2, 0))
    return over_time(layer, past[:, :-2], past[:, 1:-1], x)


def normalise(layer, x: Tensor) -> Tensor:
    weight = layer.gamma.flatten().to(x)
    return rms_norm(x, weight.shape, weight, eps=1e-20)


def residual(layer, x: Tensor) -> Tensor:
    out = x
    for part in layer.residual:
        out = apply_layer(part, out)
    return out + apply_layer(layer.shortcut, x)


def attend(layer, x: Tensor) -> Tensor:
    tokens = apply_layer(layer.norm, x).flatten(2, 3)
    q, k, v = linear(tokens, layer.to_qkv.weight.flatten(1), layer.to_qkv.bias).chunk(3, -1)
    out = scaled_dot_product_attention(q, k, v)
    return x + linear(out, layer.proj.weight.flatten(1), layer.proj.bias).view_as(x)


def resample(layer, x: Tensor) -> Tensor:
    """In space and, but for the first frame, which stands for itself, in time."""
    if layer.mode == "upsample3d" and x.shape[1] > 1:
        pairs = convolve(layer.time_conv, x[:, 1:]).unflatten(-1, (2, -1)).movedim(-2, 2).flatten(1, 2)
        x = torch.cat([x[:, :1], pairs], 1)
    x = in_pictures(layer.resample, x)
    if layer.mode == "downsample3d" and x.shape[1] > 1:
        x = torch.cat([x[:, :1], over_time(layer.time_conv, x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2])], 1)
    return x


HOW = {"CausalConv3d": convolve, "RMS_norm": normalise, "ResidualBlock": residual, "AttentionBlock": attend,
       "Resample": resample}
