"""The people that come with the pack and a room for them, a picture and a speech recording of each, and its videos, in
assets/."""
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ASSETS = Path(__file__).parent.parent / "assets"
VIDEOS = {"talking character": "talking.mp4", "poses": "poses.mp4", "face": "face.mp4"}     # all of the same 4 s


def people() -> dict[str, dict[str, str]]:
    """By name, the files of each: {"picture": ..., "speech": ...}."""
    return json.loads((ASSETS / "people.json").read_text(encoding="utf-8"))


def load_person(name: str) -> tuple[Tensor, dict[str, Any], Tensor]:
    """Picture (1, H, W, 3), AUDIO, and the picture's mask (1, H, W): 1 where it is transparent."""
    from comfy_extras.nodes_audio import load  # what Load Audio reads with
    files = people()[name]
    with Image.open(ASSETS / files["picture"]) as picture:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255)[None]
    waveform, rate = load(str(ASSETS / files["speech"]))
    return pixels[..., :3], {"waveform": waveform[None], "sample_rate": rate}, 1 - pixels[..., 3]


def find_video(name: str) -> Path:
    """The file of one of VIDEOS."""
    return ASSETS / VIDEOS[name]
