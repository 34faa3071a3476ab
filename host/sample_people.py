"""The people that come with the pack: a picture and a speech recording of each, in assets/."""
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ASSETS = Path(__file__).parent.parent / "assets"


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
