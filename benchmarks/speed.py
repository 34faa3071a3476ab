"""CPU time of the pack's work / the same work without it, on one thread: printed with its spread, never asserted."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator

import flops
import torch
from in_process import BLOCKS, CPU, META
from lodestar.backbones.vae import open_stream
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.visibility import attend_by_groups, query_groups
from rows import Row, show
from timing import compare_times

SIZE, FRAMES, LAYERS = (8, 8), 9, 2      # of the latent, for whole calls of the model
QUERIES, KEYS, TOKENS = 20, 25, 120      # latents, and tokens of each, for attention alone


def empty_list() -> tuple[str, bool]:
    """(patched with no technique / unpatched, whether both give the same bits)."""
    model = in_process.wan_model("1.3B", LAYERS, CPU, torch.float32)
    noisy, empty = in_process.latents(FRAMES, CPU, SIZE), in_process.with_techniques(model)
    same = torch.equal(in_process.denoise(empty, noisy), in_process.denoise(model, noisy))
    return compare_times(lambda: in_process.denoise(empty, noisy), lambda: in_process.denoise(model, noisy)), same


def one_anchor() -> tuple[str, float]:
    """(one anchor / unpatched, what the counted FLOPs of one more latent predict)."""
    model, counted = (in_process.wan_model("1.3B", LAYERS, device, torch.float32) for device in (CPU, META))
    noisy, anchor = in_process.latents(FRAMES, CPU, SIZE), LookaheadAnchor(latents=in_process.latents(1, CPU, SIZE))
    anchored = in_process.with_techniques(model, anchor)
    more, bare = (flops.count(counted, in_process.latents(frames, META, SIZE)).flops for frames in (FRAMES + 1, FRAMES))
    timed = compare_times(lambda: in_process.denoise(anchored, noisy), lambda: in_process.denoise(model, noisy))
    return timed, more / bare


def split_attention() -> str:
    """Hard skip of 7 latents as split queries / full attention, 12 heads of 128, PyTorch's fused attention."""
    from comfy.ldm.modules.attention import attention_pytorch
    width, _, heads = BLOCKS["1.3B"]
    query, key, value = (torch.randn(1, latents * TOKENS, width) for latents in (QUERIES, KEYS, KEYS))
    groups = query_groups({(latent, KEYS - 1): 0.0 for latent in range(7, 14)}, QUERIES)

    def attend(q, k, v):
        return attention_pytorch(q, k, v, heads)

    return compare_times(lambda: attend_by_groups(attend, query, key, value, TOKENS, groups),
                       lambda: attend(query, key, value))


def streamed_decode() -> str:
    """A stream of chunks / the whole latent at once, by the tiny VAE."""
    vae, latents = in_process.tiny_vae(), in_process.latents(21, CPU, SIZE)

    def stream():
        frames = open_stream(vae)
        for chunk in latents.split(7, dim=2):
            for _ in frames.push(chunk):
                pass
        for _ in frames.flush():
            pass

    return compare_times(stream, lambda: vae.decode(latents))


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    ratios, same = empty_list()
    yield Row("timed: empty technique list / unpatched", ratios, "1.01")
    yield Row("empty technique list: the same bits as unpatched", "yes" if same else "no", "yes", same)
    ratios, predicted = one_anchor()
    yield Row(f"timed: one anchor on {FRAMES} latents / unpatched", ratios, f"{predicted:.3f}, by counted FLOPs")
    yield Row("timed: hard skip as split queries / full attention", split_attention(), "1.08 (FLOPs 0.986)")
    yield Row("timed: streamed decode / whole decode", streamed_decode(), "1.03")


if __name__ == "__main__":
    show(rows)
