"""OmniAvatar on ComfyUI's WanModel, against the authors' own outputs."""
from pathlib import Path

import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.ops
import golden
import golden_omniavatar
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "omniavatar"
HOST = golden.Host(comfy.ops.manual_cast, comfy.ldm.modules.attention.optimized_attention,
                   comfy.latent_formats.Wan21())
OMNI = golden_omniavatar.OmniAvatar(golden.Fixtures(FOLDER), HOST)
ON_WAN = [name for name in OMNI.cases() if name.startswith(("dit", "lora_case", "sample"))]


@pytest.mark.parametrize("name", ON_WAN)
def test_a_golden_case(name):
    with torch.no_grad():
        result = golden.judge(name, OMNI.cases()[name]())
    assert result.passed, result.row(0)
