"""Tiny HunyuanVideo models in this process, one call of them as ComfyUI makes it, and the same call written by hand."""
import comfy.ldm.flux.math
import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.flux.layers import timestep_embedding
from draws import random
from tiny_hunyuan import POOLED, TEXT, VISION

NAMES = ("hunyuan_t2v", "hunyuan_i2v", "hunyuan_skyreels", "hunyuan15")
SIZE, FRAMES, SIGMA = (4, 4), 5, 0.7


def load(tiny_models, name, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    comfy.model_management.load_models_gpu([model])
    return model


def latents(model, frames=1, batch=1, seed=2):
    return random(batch, model.model.latent_format.latent_channels, frames, *SIZE, seed=seed)


def tokens(model):
    return SIZE[0] * SIZE[1] // model.model.diffusion_model.patch_size[1] ** 2


def conditions(model, frames=FRAMES, batch=1, text=7):
    """What a sampler would hand to apply_model for this model, as keyword arguments."""
    network = model.model.diffusion_model
    found = {"c_crossattn": random(batch, text, TEXT, seed=3)}
    if network.vector_in is not None:
        found |= {"y": random(batch, POOLED, seed=4), "guidance": torch.full((batch,), 6.0)}
    if network.vision_in is not None:
        found["clip_fea"] = random(batch, 3, VISION, seed=5)
    if (beside := network.in_channels - network.out_channels) > 0:
        found["c_concat"] = random(batch, beside, frames, *SIZE, seed=6)
    return found


def apply(model, x, options=None, **conds):
    """The denoised prediction through BaseModel.apply_model, with the patcher's wrappers, as a sampler calls it."""
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    with torch.inference_mode():
        return model.model.apply_model(x, torch.full((x.shape[0],), SIGMA), transformer_options=transformer_options,
                                       **{**conditions(model, x.shape[2], x.shape[0]), **conds})


def vector(network, timestep, conds):
    """(B, C) that modulates what has this timestep."""
    made = network.time_in(timestep_embedding(torch.tensor([timestep]), 256, time_factor=1.0))
    if network.vector_in is not None:
        made = made + network.vector_in(conds["y"]) + network.guidance_in(timestep_embedding(conds["guidance"], 256))
    return made


def text_of(network, timestep, conds):
    """The text's tokens (1, S, C), a picture's before them."""
    text = network.txt_in(conds["c_crossattn"], torch.tensor([timestep]), None)
    if network.cond_type_embedding is None:
        return text
    kinds = network.cond_type_embedding.weight
    return torch.cat([network.vision_in(conds["clip_fea"]) + kinds[2], text + kinds[0]], 1)


@torch.inference_mode()
def by_hand(model, x, times, timesteps, conds, bias=None):
    """The velocity (1, C, T, h, w) of latent frames `x`, all channels, each at its RoPE time and with its timestep, on
    a network without segments: every token has modulation of its own. `bias`: added to the attention of all tokens,
    the text's first."""
    network, step = model.model.diffusion_model, SIGMA * 1000
    per_frame, heads = tokens(model), network.num_heads
    side = int(per_frame ** 0.5)
    rows = torch.tensor([[time, row, column] for time in times for row in range(side) for column in range(side)])
    text = text_of(network, step, conds)
    length = text.shape[1]
    pe = network.pe_embedder(torch.cat([torch.zeros(length, 3), rows])[None])
    own = [vector(network, step, conds)] * length
    own += [each for each in (vector(network, at, conds) for at in timesteps) for _ in range(per_frame)]
    levels = torch.stack(own, 1)
    both = torch.cat([text, network.img_in(x)], 1)

    def attend(qkv, norms):
        streams = []
        for part, norm in zip(qkv, norms, strict=True):
            q, k, v = part.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            streams.append((*norm(q, k, v), v))
        q, k, v = (torch.cat(parts, 2) for parts in zip(*streams, strict=True))
        return comfy.ldm.flux.math.attention(q, k, v, pe=pe, mask=bias)

    for block in network.double_blocks:
        streams = ((slice(length), block.txt_mod, block.txt_norm1, block.txt_attn, block.txt_norm2, block.txt_mlp),
                   (slice(length, None), block.img_mod, block.img_norm1, block.img_attn, block.img_norm2,
                    block.img_mlp))
        modulated = [mod(levels[:, part]) for part, mod, *_ in streams]
        mixed = attend([attn.qkv(norm(both[:, part]) * (1 + first.scale) + first.shift)
                        for (part, _, norm, attn, _, _), (first, _) in zip(streams, modulated, strict=True)],
                       [attn.norm for _, _, _, attn, _, _ in streams])
        parts = []
        for (part, _, _, attn, norm, mlp), (first, second) in zip(streams, modulated, strict=True):
            tokens_in = both[:, part] + attn.proj(mixed[:, part]) * first.gate
            parts.append(tokens_in + mlp(norm(tokens_in) * (1 + second.scale) + second.shift) * second.gate)
        both = torch.cat(parts, 1)
    for block in network.single_blocks:
        mod = block.modulation(levels)[0]
        qkv, mlp = (block.linear1(block.pre_norm(both) * (1 + mod.scale) + mod.shift)
                    .split([3 * network.hidden_size, block.mlp_hidden_dim], -1))
        both = both + block.linear2(torch.cat([attend([qkv], [block.norm]), block.mlp_act(mlp)], 2)) * mod.gate
    made = network.final_layer(both[:, length:], vector(network, step, conds))
    patch = network.patch_size[1]
    made = made.unflatten(-1, (network.out_channels, patch, patch)).unflatten(1, (len(times), side, side))
    return made.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)


def denoised(x, velocity):
    return x - SIGMA * velocity[:, :, :x.shape[2]]
