"""What can only be measured on a GPU, at usual sizes: 480x832, real widths, random weights. Without one it says so."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator

import flops
import torch
from in_process import BLOCKS, LATENT_SIZE
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.visibility import attend_by_groups, query_groups
from rows import Row, show
from timing import compare_times, gpu_clock, seconds

TOKENS = LATENT_SIZE[0] * LATENT_SIZE[1] // 4
QUERIES, KEYS, SKIPPED = 20, 25, range(7, 14)   # latents: 31,200 x 39,000 tokens, 7 of them without the reference
CHUNK, SHORT, LONG = 21, 21, 95                 # latents
LAYERS = 2
CUDA = torch.device("cuda")


def split_attention(heads: int) -> str:
    from comfy.ldm.modules.attention import attention_pytorch
    query, key, value = (torch.randn(1, latents * TOKENS, heads * 128, device=CUDA, dtype=torch.bfloat16)
                         for latents in (QUERIES, KEYS, KEYS))
    groups = query_groups({(latent, KEYS - 1): 0.0 for latent in SKIPPED}, QUERIES)

    def attend(q, k, v):
        return attention_pytorch(q, k, v, heads)

    return compare_times(lambda: attend_by_groups(attend, query, key, value, TOKENS, groups),
                       lambda: attend(query, key, value), gpu_clock)


def one_anchor(blocks: str) -> str:
    model, noisy = in_process.wan_model(blocks, LAYERS, CUDA), in_process.latents(CHUNK, CUDA)
    anchored = in_process.with_techniques(model, LookaheadAnchor(latents=in_process.latents(1, CUDA)))
    return compare_times(lambda: in_process.denoise(anchored, noisy), lambda: in_process.denoise(model, noisy),
                         gpu_clock)


def full_width_vae():
    import comfy.ldm.wan.vae
    import comfy.sd
    model = comfy.ldm.wan.vae.WanVAE(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                                     temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd=model.state_dict())


def stream(vae, latents: torch.Tensor) -> int:
    """Decode chunk by chunk and forget; returns the frames."""
    from lodestar.backbones.vae import open_stream
    frames = open_stream(vae)
    made = sum(len(group) for chunk in latents.split(CHUNK, dim=2) for group in frames.push(chunk))
    return made + sum(len(group) for group in frames.flush())


def peak_memory(vae, latents: torch.Tensor) -> int:
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        stream(vae, latents)
    return torch.cuda.max_memory_allocated()


def decode() -> Iterator[Row]:
    vae = full_width_vae()
    short, long = (in_process.latents(count, in_process.CPU) for count in (SHORT, LONG))
    taken = min(seconds(lambda: stream(vae, short), gpu_clock) for _ in range(3))
    yield Row("streamed decode, ms per frame", f"{1000 * taken / (4 * SHORT - 3):.1f}", "10")
    yield Row("streamed decode / whole decode", compare_times(lambda: stream(vae, short), lambda: vae.decode(short),
                                                            gpu_clock), "1.03")
    first, second = peak_memory(vae, short), peak_memory(vae, long)
    yield Row.at_most(f"peak VRAM of streaming {LONG} latents / {SHORT}", second / first, 1.02,
                      note=f" ({second / 1e9:.2f} GB)")


def rows() -> Iterator[Row]:
    if not torch.cuda.is_available():
        for what in ("hard skip as split queries / unmasked, 31,200 x 39,000 tokens, 12 and 40 heads of 128",
                     "one anchor / unpatched, 21 latents, 1.3B and 14B blocks",
                     "streamed decode at 480x832: ms per frame, / whole decode, peak VRAM by length"):
            yield Row(what, "not measured yet: needs a GPU, `python benchmarks/gpu.py`")
        return
    in_process.use_gpu()
    for blocks, (_, _, heads) in BLOCKS.items():
        yield Row(f"{heads} heads: hard skip as split queries / unmasked", split_attention(heads), "1.03")
        yield Row(f"{blocks}: one anchor on {CHUNK} latents / unpatched", one_anchor(blocks),
                  f"{flops.one_anchor(blocks)[1]:.3f}, by counted FLOPs")
    yield from decode()


if __name__ == "__main__":
    show(rows)
