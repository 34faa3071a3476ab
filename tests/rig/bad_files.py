"""Files that no good take is made from, written with real tools, and a disk that is full."""
import itertools
import json
import os
import shutil
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import make_tiny_models
import numpy as np
import pytest
import tiny_audio
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

numbers = itertools.count(1)


def wav(folder: Path, samples: np.ndarray, rate: int) -> Path:
    """A float WAV of samples (N, channels), whatever they are: ComfyUI reads 7 channels and NaN as they stand."""
    path, data = folder / f"sound{next(numbers)}.wav", samples.astype("<f4").tobytes()
    channels = samples.shape[1]
    path.write_bytes(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, channels, rate,
                                 rate * channels * 4, channels * 4, 32, b"data", len(data)) + data)
    return path


def hum(samples: int, channels: int, rate: int) -> np.ndarray:
    clock = np.arange(samples)[:, None] / rate
    return 0.3 * np.sin(2 * np.pi * 220 * clock * (1 + np.arange(channels)))


def png(folder: Path, width: int, height: int) -> Path:
    path = folder / f"picture{next(numbers)}.png"
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)
    return path


def latent(path: Path, samples: torch.Tensor) -> None:
    save_file({"latent_tensor": samples, "latent_format_version_0": torch.zeros(0)}, path)


def write_bad_models(models: Path) -> None:
    """Beside the tiny models: cut and stub copies of each, a VACE model, one of NaN, an encoder of another width."""
    for kind in ("*s2v.safetensors", "*vae.safetensors", "*tiny_wav2vec2.safetensors"):
        path, = models.rglob(kind)
        data = path.read_bytes()
        path.with_name(f"cut_{path.name}").write_bytes(data[:len(data) * 2 // 3])
        path.with_name(f"stub_{path.name}").write_bytes(data[:100])
    folder = models / "diffusion_models"
    wan = load_file(folder / "lodestar_tiny_wan21_t2v.safetensors")
    save_file({**wan, "head.head.bias": torch.full_like(wan["head.head.bias"], torch.nan)}, folder / "nan.safetensors")
    save_file({**wan, "vace_patch_embedding.weight": torch.zeros(make_tiny_models.DIM, 96, 1, 2, 2),
               "vace_blocks.0.before_proj.bias": torch.zeros(make_tiny_models.DIM)}, folder / "vace.safetensors")
    config = {**tiny_audio.CONFIG, "hidden_size": 768}
    save_file({name: torch.full(shape, 0.01) for name, shape in tiny_audio.shapes(config).items()},
              models / "audio_encoders" / "narrow.safetensors", metadata={"config": json.dumps(config)})


@contextmanager
def small_disk(server, disk_kilobytes: int, file_kilobytes: int):
    """The server's output on a disk of that size, or, without the right to mount one, a limit on every file it writes.

    What is yielded makes room.
    """
    folder = str(server.base / "output")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={disk_kilobytes}k", "tmpfs", folder]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        return
    resource = pytest.importorskip("resource", reason="neither a disk can be mounted nor a file limited")
    if not hasattr(resource, "prlimit"):
        pytest.skip("neither a disk can be mounted nor another process's files limited")
    pid, kind = server.process.pid, resource.RLIMIT_FSIZE
    before = resource.prlimit(pid, kind)
    os.truncate(server.log, 0)    # it is one of the files
    resource.prlimit(pid, kind, (file_kilobytes * 1024, before[1]))
    try:
        yield lambda: resource.prlimit(pid, kind, before)
    finally:
        resource.prlimit(pid, kind, before)


@contextmanager
def peak_megabytes(server):
    """A list that holds, after the block, by how much the server's memory grew in it at most; empty where unknown."""
    grown, process = [], Path(f"/proc/{server.process.pid}")
    if not (process / "clear_refs").exists():
        yield grown
        return

    def peak() -> float:
        status = (process / "status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    (process / "clear_refs").write_text("5")    # the peak starts again from what is in use now
    before = peak()
    yield grown
    grown.append(peak() - before)
