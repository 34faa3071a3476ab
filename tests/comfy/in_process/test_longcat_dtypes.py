"""LongCat's network from ComfyUI's own layers, in the dtypes that ComfyUI keeps weights in: the float32 islands hold.

The expected outputs are the same network's in float32 at the timestep rounded to bfloat16, as the model was trained.
"""
from pathlib import Path

import comfy.ldm.modules.attention
import comfy.ops
import golden
import pytest
import torch
from golden_longcat import Dit, forward, layers_for
from lodestar.backbones.longcat import model as longcat_model
from lodestar.networks.longcat.checkpoint_formats import convert_to_official
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.packed import state_of
from lodestar.techniques.rope import rotate, rotation

FOLDER = Path(__file__).parents[2] / "golden" / "longcat"
HOST = golden.Host(comfy.ops.manual_cast, comfy.ldm.modules.attention.optimized_attention)
FLOAT, INT8 = "model.safetensors", "model_int8.safetensors"
CASES = [("base_dit", "t2v_b1", FLOAT), ("avatar_v10_dit", "vc_ref7_mask1", FLOAT),
         ("avatar_v10_dit", "ai2v_3streams", FLOAT), ("avatar_v15_dit", "ai2v_1cond", FLOAT),
         ("avatar_v15_dit", "ai2v_1cond", INT8)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 0.0), (torch.bfloat16, 0.02), (torch.float16, 0.002)])
def test_comfyui_s_rotation_turns_as_ours(dtype, error, batch):
    """`batch` rows of their own, as speakers have them, or the same for all."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40, 2, 16, generator=generator).to(dtype)
    rows = rotation(torch.rand(batch * 40, generator=generator, dtype=torch.float64) * 500, 16)
    rows = rows.reshape(batch, 40, 1, 8, 2, 2)
    turned = longcat_model.rotate_fused(x, rows)
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float(), rotate(x.float(), rows), atol=error, rtol=0)


@pytest.mark.parametrize(("weights_dtype", "dtype", "error"), [
    (torch.bfloat16, torch.bfloat16, 0.02), (torch.float16, torch.float16, 0.005),
    (torch.float32, torch.bfloat16, 0.02), (torch.float8_e4m3fn, torch.bfloat16, 0.1)], ids=str)
@pytest.mark.parametrize(("folder", "case", "file"), CASES)
def test_low_precision_is_only_rounding(folder, case, file, weights_dtype, dtype, error):
    dit = Dit(golden.Fixtures(FOLDER / folder), HOST)
    call = dit.fixtures.call(case)
    expected_call = {**call, "timestep": call["timestep"].bfloat16().float()}
    weights = state_of(convert_to_official(dit.fixtures.load(file), {}))
    network = LongCat(dit.config, layers_for(weights, HOST), HOST.attention, dtype=weights_dtype).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        expected = forward(dit.build(file), expected_call, ())
        got = forward(network, {**call, "hidden_states": call["hidden_states"].to(dtype)}, ())
    assert got.dtype == torch.float32
    assert (got - expected).norm() / expected.norm() < error
