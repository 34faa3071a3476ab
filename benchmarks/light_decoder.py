"""What a light decoder loses against the full VAE, and how long each takes, on the frames of a video of yours.

    python benchmarks/light_decoder.py --vae wan_2.1_vae.safetensors --light lighttaew2_1.safetensors video.mp4
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
from in_process import use_gpu

FRAMES = 33


def compare(vae, light, frames: torch.Tensor) -> dict[str, float]:
    """Both decodings of the same latents of `frames` (T, H, W, 3): `psnr` in dB and mean `difference` (0..1) of the
    light one from the full one, `psnr_full` and `psnr_light` from the frames, milliseconds a frame of each."""
    from lodestar.backbones.vae import encode_frames, open_stream

    def decode(decoder) -> tuple[torch.Tensor, float]:
        list(open_stream(decoder).push(latents[:, :, :3]))      # load it
        start, stream = time.perf_counter(), open_stream(decoder)
        pictures = torch.cat([group.cpu() for group in (*stream.push(latents), *stream.flush())])
        return pictures, 1000 * (time.perf_counter() - start) / len(pictures)

    with torch.inference_mode():
        latents = encode_frames(vae, frames)
        (full, full_ms), (fast, fast_ms) = decode(vae), decode(light)
    return {"psnr": psnr(fast, full), "difference": (fast - full).abs().mean().item(), "psnr_full": psnr(full, frames),
            "psnr_light": psnr(fast, frames), "full_ms": full_ms, "light_ms": fast_ms}


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * math.log10(max((one - other).square().mean().item(), 1e-12))


def main() -> None:
    import av
    import comfy.sd
    import comfy.utils
    import numpy as np
    from lodestar.backbones.images import fit_picture

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--light", type=Path, required=True)
    parser.add_argument("video", type=Path, nargs="+")
    options = parser.parse_args()
    vae, light = (comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path))) for path in (options.vae, options.light))
    for path in options.video:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(FRAMES),
                                                                          strict=False)]
        pictures = torch.from_numpy(np.stack(frames)[:(len(frames) - 1) // 4 * 4 + 1]).float() / 255
        height, width = (size // 16 * 16 for size in pictures.shape[1:3])
        found = compare(vae, light, fit_picture(pictures, width, height))
        sys.stdout.write(f"{path.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()) + "\n")


if __name__ == "__main__":
    if torch.cuda.is_available():
        use_gpu()
    main()
