"""LongCat's golden cases through the pack's network: single forwards, caches, LoRA and int8.

Whole sampling loops are in golden_loops.py, the white-box pieces in golden_pieces.py.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import golden
import golden_loops
import golden_pieces
import torch
from torch import Tensor


@dataclass
class Dit:
    """One folder with config.json, weights and single-forward cases."""
    fixtures: golden.Fixtures
    host: golden.Host

    @cached_property
    def config(self):
        from lodestar.networks.longcat.config import LongCatConfig
        return LongCatConfig.from_json(self.fixtures.config)

    @cached_property
    def network(self):
        return self.build("model.safetensors")

    def build(self, weights_name: str, **changes):
        from lodestar.networks.longcat.checkpoint_formats import convert_to_official
        from lodestar.networks.longcat.network import LongCat
        from lodestar.networks.packed import state_of
        weights = state_of(convert_to_official(self.fixtures.load(weights_name), {}))
        network = LongCat(replace(self.config, **changes), layers_for(weights, self.host), self.host.attention,
                          dtype=torch.float32)
        network.load_state_dict(weights)
        return network.eval()

    def with_lora(self, name: str, multiplier: float):
        from lodestar.networks.longcat.lora import ordinary
        network, pairs = self.build("model.safetensors"), ordinary(self.fixtures.load(name), prefix="")
        for key, up in pairs.items():
            if key.endswith(".lora_up.weight"):
                path = key.removesuffix(".lora_up.weight")
                strength = multiplier * pairs[f"{path}.alpha"] / up.shape[1]
                network.get_submodule(path).weight += strength * (up @ pairs[f"{path}.lora_down.weight"])
        return network

    def chosen(self, name: str, call: dict):
        if "lora" in call:
            return self.with_lora(call["lora"], call["lora_multiplier"])
        if "weights" in call:
            return self.build(call["weights"])
        return self.build("model.safetensors", keep_padding=False) if name.endswith("_varlen") else self.network

    def run(self, name: str) -> dict[str, Tensor]:
        call = self.fixtures.call(name)
        network = self.chosen(name, call)
        if call.get("return_kv"):
            spans = zip(*(cache.blocks for cache in self.caches_of(name)), strict=True)
            return {f"block{index}.{part}": torch.cat(tensors, 1).transpose(1, 2) for index, pairs in enumerate(spans)
                    for part, tensors in zip("kv", zip(*pairs, strict=True), strict=True)}
        return {"out": forward(network, call, self.caches_of(call["kv_cache"]) if "kv_cache" in call else ())}

    def caches_of(self, name: str):
        call = self.fixtures.call(name)
        frames = call["hidden_states"].shape[2]
        clean = clean_spans(call.get("num_cond_latents", frames), call.get("num_ref_latents", 0))
        return self.network.make_caches(call["hidden_states"], clean, times(call, frames))


def as_int8(weights: dict[str, Tensor]) -> dict:
    """Every linear layer but the last as int8 rows, as the official checkpoint has it."""
    from lodestar.networks.packed import quantize_int8
    return {name: quantize_int8(weight) if name.endswith(".weight") and weight.ndim == 2 and
            not name.startswith("final_layer.linear") else weight for name, weight in weights.items()}


def layers_for(weights: dict[str, Tensor], host: golden.Host):
    """The host's layers, or where linear ones come packed those that unpack them there."""
    if not any(name.endswith(".weight_scale") for name in weights):
        return host.operations
    if host.operations is torch.nn:
        from lodestar.networks.packed import PackedLayers
        return PackedLayers
    from lodestar.backbones.longcat.operations import PackedOperations
    return PackedOperations


def forward(network, call: dict, caches) -> Tensor:
    """One call in upstream's argument names."""
    from lodestar.techniques.kv_cache import standing
    from lodestar.techniques.layout import Layout, Span
    from lodestar.techniques.reference_skip import ReferenceSkip
    latents, count, references = call["hidden_states"], call.get("num_cond_latents", 0), call.get("num_ref_latents", 0)
    ahead = sum(cache.frames for cache in caches)
    frames = latents.shape[2] + ahead
    when, visibility = times(call, frames), {}
    if references and call.get("mask_frame_range"):
        layout = Layout((Span("reference", when[:references]), Span("context", when[references:count]),
                         Span("chunk", when[count:], clean=False)))
        visibility = ReferenceSkip("upstream", call["mask_frame_range"]).visibility(layout)
    audio, people = call.get("audio_embs"), call.get("ref_target_masks")
    if audio is not None:
        audio = audio[None] if people is not None else audio[:, None]
    return network(latents, call["timestep"], call["encoder_hidden_states"][:, 0], call.get("encoder_attention_mask"),
                   clean=() if caches else clean_spans(count, references), times=when[ahead:], visibility=visibility,
                   audio=audio, speaker_masks=None if people is None else people[None], cache=standing(caches, when))


def clean_spans(count: int, references: int) -> tuple[int, ...]:
    """Every reference stands for itself, the context frames belong together."""
    return tuple(length for length in (*[1] * references, count - references) if length)


def times(call: dict, frames: int) -> tuple[float, ...]:
    """RoPE times: the reference where it was put, the others from 0 on."""
    if call.get("num_ref_latents") and call.get("ref_img_index") is not None:
        return (call["ref_img_index"], *range(frames - 1))
    return tuple(range(frames))


def runner_of(fixtures: golden.Fixtures, host: golden.Host) -> Callable[[str], dict] | None:
    if (fixtures.folder / "config.json").is_file():
        return Dit(fixtures, host).run
    if fixtures.folder.name == "pipeline":
        return golden_loops.runner(fixtures, lru_cache(lambda folder: Dit(golden.Fixtures(folder), host)))
    piece = golden_pieces.PIECES.get(fixtures.folder.name)
    return None if piece is None else lambda name: piece(fixtures.call(name), host)
