"""The network of the rolling fixtures, as their README describes it: Wan 2.1 with 33 channels, a timestep for each
latent and OmniAvatar's audio, written plainly, so that what ComfyUI's is called with can be checked without a ComfyUI.

Keys before RoPE and values of each block are given back; what other latents left there is joined to a call's own.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lodestar.techniques.kv_cache import KVCache, Pair, standing
from lodestar.techniques.rope import rope_frequencies, rotate
from torch import Tensor
from torch.nn import functional


@dataclass
class Network:
    weights: dict[str, Tensor]
    config: dict

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weights[f"{name}.weight"]

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config["heads"], -1))

    def frequencies(self, times: Sequence[float]) -> Tensor:
        return rope_frequencies(times, self.config["height"] // 2, self.config["width"] // 2, self.config["rope_axes"])

    def embed_time(self, timestep: Tensor) -> Tensor:
        """(1, F) -> (1, F, dim)."""
        half = self.config["frequencies"] // 2
        angles = timestep.double()[..., None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        waves = torch.cat([angles.cos(), angles.sin()], -1).float()
        return self.linear("time_embedding.2", functional.silu(self.linear("time_embedding.0", waves)))

    def pack_audio(self, rows: Tensor) -> Tensor:
        """(1, 4 F, features) -> (1, F, hidden)."""
        packed = self.linear("audio_proj.proj", rows.unflatten(1, (-1, 4)).flatten(2))
        return functional.layer_norm(packed, packed.shape[-1:], self.weights["audio_proj.norm_out.weight"],
                                     self.weights["audio_proj.norm_out.bias"], 1e-5)

    def __call__(self, x: Tensor, y: Tensor, timestep: Tensor, text: Tensor, rows: Tensor, times: Sequence[float],
                 seen: Sequence[tuple[KVCache, float]] = ()) -> tuple[Tensor, list[Pair]]:
        """The flow (1, 16, F, h, w), and each block's own keys before RoPE and values. `rows`: four for each latent.
        `seen`: caches, and when the first frame of each stands."""
        tokens = self.config["tokens_per_latent"]
        hidden = functional.conv3d(torch.cat([x, y], 1), self.weights["patch_embedding.weight"],
                                   self.weights["patch_embedding.bias"], stride=(1, 2, 2)).flatten(2).transpose(1, 2)
        time, audio = self.embed_time(timestep), self.pack_audio(rows)
        shifts = self.linear("time_projection.1", functional.silu(time)).unflatten(-1, (6, -1))
        text = functional.gelu(self.linear("text_embedding.0", text), approximate="tanh")
        text = self.linear("text_embedding.2", text)
        own = self.frequencies(times)
        others = [cache.frequencies(first, self.config["rope_axes"]) for cache, first in seen]
        pairs = []
        for index in range(self.config["layers"]):
            if index in self.config["audio_blocks"]:
                extra = self.linear(f"audio_cond_projs.{index - 2}", audio)
                hidden = hidden + extra.repeat_interleave(tokens, 1)
            gates = (self.weights[f"blocks.{index}.modulation"] + shifts).repeat_interleave(tokens, 1).unbind(2)
            hidden, pair = self.block(f"blocks.{index}", index, hidden, gates, text, own, seen, others)
            pairs.append(pair)
        shift, scale = (self.weights["head.modulation"] + time[:, :, None]).repeat_interleave(tokens, 1).unbind(2)
        made = functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + scale) + shift
        made = self.linear("head.head", made)
        frames, rows_, columns = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
        made = made.unflatten(1, (frames, rows_, columns)).unflatten(-1, (1, 2, 2, -1))
        return made.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(1, -1, frames, *x.shape[3:]), pairs

    def block(self, name: str, index: int, hidden: Tensor, gates, text: Tensor, own: Tensor, seen, others
              ) -> tuple[Tensor, Pair]:
        normed = functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + gates[1]) + gates[0]
        own_name = f"{name}.self_attn"
        query, key = (self.heads(self.rms(f"{own_name}.norm_{part}", self.linear(f"{own_name}.{part}", normed)))
                      for part in "qk")
        value = self.heads(self.linear(f"{name}.self_attn.v", normed))
        keys = [cache.keys(index, frequencies) for (cache, _), frequencies in zip(seen, others, strict=True)]
        made = attend(rotate(query, own), torch.cat([*keys, rotate(key, own)], 1),
                      torch.cat([*(cache.blocks[index][1] for cache, _ in seen), value], 1))
        hidden = hidden + gates[2] * self.linear(f"{name}.self_attn.o", made)
        cross = functional.layer_norm(hidden, hidden.shape[-1:], self.weights[f"{name}.norm3.weight"],
                                      self.weights[f"{name}.norm3.bias"], 1e-6)
        text_query = self.heads(self.rms(f"{name}.cross_attn.norm_q", self.linear(f"{name}.cross_attn.q", cross)))
        text_key = self.heads(self.rms(f"{name}.cross_attn.norm_k", self.linear(f"{name}.cross_attn.k", text)))
        text_value = self.heads(self.linear(f"{name}.cross_attn.v", text))
        hidden = hidden + self.linear(f"{name}.cross_attn.o", attend(text_query, text_key, text_value))
        normed = functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + gates[4]) + gates[3]
        inner = functional.gelu(self.linear(f"{name}.ffn.0", normed), approximate="tanh")
        return hidden + gates[5] * self.linear(f"{name}.ffn.2", inner), (key, value)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, tokens, heads, D), unmasked -> (B, tokens, heads * D)."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def attend_seen(query: Tensor, frequencies: Tensor, caches: Sequence[KVCache], times: Sequence[float],
                axes: Sequence[int]) -> Tensor:
    """Attention of a query over caches of one block, each frame of which stands at its time."""
    placed = standing(caches, times)
    keys = torch.cat([cache.keys(0, cache.frequencies(time, axes)) for cache, time in placed], 1)
    return attend(rotate(query, frequencies), keys, torch.cat([cache.blocks[0][1] for cache, _ in placed], 1))
