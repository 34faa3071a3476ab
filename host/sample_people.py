"""The people that come with the pack, a picture and a speech recording of each, and its videos, in assets/."""
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


def load_person(name: str) -> tuple[Tensor, dict[str, Any]]:
    """Picture (1, H, W, 3) and AUDIO."""
    from comfy_extras.nodes_audio import load  # what Load Audio reads with
    files = people()[name]
    with Image.open(ASSETS / files["picture"]) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    waveform, rate = load(str(ASSETS / files["speech"]))
    return torch.from_numpy(pixels)[None], {"waveform": waveform[None], "sample_rate": rate}


def find_video(name: str) -> Path:
    """The file of one of VIDEOS."""
    return ASSETS / VIDEOS[name]
