"""CPU time of LongCat-Video-Avatar 1.5 as a ComfyUI MODEL / of the same network without ComfyUI, on one thread."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Callable, Iterator

import longcat
import longcat_flops
import torch
from in_process import CPU
from lodestar.backbones.sampling_run import RUN, Run
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.longcat.versions import REFERENCE_INDEX
from lodestar.techniques.conditioning_cache import ConditioningCache
from longcat import CONTEXT, NOISE, SMALL
from rows import Row, show
from timing import compare_times

SIZE = (12, 12)     # of the latent: 36 tokens
SIGMA = 0.7         # what in_process.denoise asks for


def small():
    """(a MODEL, a chunk's latents, its conditions), float32."""
    return longcat.longcat_model(SMALL, CPU, torch.float32), *longcat.chunk(SMALL, CPU, SIZE)


def headless(model, x: torch.Tensor, conditions: dict) -> Callable[[], torch.Tensor]:
    """A plain forward of the same weights in torch's own layers -> (1, 16, 20, h, w), denoised as ComfyUI's answer."""
    from comfy.ldm.modules.attention import optimized_attention
    network = LongCat(SMALL, torch.nn, optimized_attention, device="meta")
    network.load_state_dict(model.model.diffusion_model.state_dict(), assign=True)
    network.requires_grad_(False)
    sequence, text = torch.cat([conditions["reference"], x], 2), conditions["c_crossattn"]
    timestep = torch.tensor([[0.0] * (1 + CONTEXT) + [1000 * SIGMA] * NOISE])
    times = [REFERENCE_INDEX, *range(CONTEXT + NOISE)]

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            prediction = network(sequence, timestep, text, (text != 0).any(-1), clean=(1, CONTEXT), times=times,
                                 audio=conditions["audio"])
            return (sequence + SIGMA * prediction)[:, :, -NOISE:]

    return forward


def native() -> tuple[str, bool]:
    """(native, wrapped, no technique / headless; whether the wrapper changed a bit)."""
    model, x, conditions = small()
    wrapped, plain = in_process.with_techniques(model), headless(model, x, conditions)
    answer = in_process.denoise(wrapped, x, conditions)
    torch.testing.assert_close(answer[:, :, -NOISE:], plain(), atol=1e-4, rtol=0)
    return compare_times(lambda: in_process.denoise(wrapped, x, conditions), plain), \
        torch.equal(answer, in_process.denoise(model, x, conditions))


def compare_cached() -> tuple[str, str, longcat_flops.Chunk]:
    """(step with the KV cache / joint step, / LongCat's own step without it, the same counted)."""
    model, x, conditions = small()
    sequence, joint = longcat.joint(SMALL, CPU, SIZE)
    caching, run = in_process.with_techniques(model, ConditioningCache()), Run(tuple(x.shape))

    def step() -> torch.Tensor:
        return in_process.denoise(caching, x, conditions, **{RUN: run})

    torch.testing.assert_close(step(), in_process.denoise(model, x, conditions), atol=1e-4, rtol=0)
    return (compare_times(step, lambda: in_process.denoise(model, sequence, joint)),
            compare_times(step, lambda: in_process.denoise(model, x, conditions)),
            longcat_flops.count_chunk(config=SMALL, size=SIZE))


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    ratios, same = native()
    yield Row("timed: LongCat 1.5 as a MODEL, wrapped, no technique / plain torch forward of the same network", ratios,
              "1.03")
    yield Row("LongCat 1.5: no technique, the same bits as unpatched", "yes" if same else "no", "yes", same)
    joint, own, counted = compare_cached()
    yield Row("timed: LongCat 1.5: step with the KV cache / joint step", joint,
              f"{counted.step_ratio:.3f}, by counted FLOPs")
    yield Row("timed: LongCat 1.5: the same step / LongCat's own without it", own,
              f"{counted.cached.flops / counted.own.flops:.3f}, by counted FLOPs")


if __name__ == "__main__":
    show(rows)
