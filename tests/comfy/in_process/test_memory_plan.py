"""The memory of a training step, counted without weights: against what a real one saves, and for models of full
size."""
import comfy.supported_models
import pytest
import torch
from lodestar.backbones import attach, train_host
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.longcat.model import LongCatModelConfig
from lodestar.backbones.train_counting import OVERRIDE, count_attention
from lodestar.host.memory_plan import MemoryPlan, plan_memory
from lodestar.host.recipe_network import GuidedNetwork
from lodestar.host.recipe_training import Prompts, train
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.versions import AVATAR_15
from lodestar.pipelines.training.flow_recipes import Chunks, Silence, Stitching
from lodestar.pipelines.training.run import Settings
from training_clips import make_clips

pytestmark = pytest.mark.once
CHUNKS = Chunks(chunk_latents=3, context_latents=2)
WAN = {"image_model": "wan2.1", "model_type": "t2v", "dim": 1536, "out_dim": 16, "num_heads": 12, "ffn_dim": 8960,
       "num_layers": 30, "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True,
       "cross_attn_norm": True, "eps": 1e-6, "text_dim": 4096, "in_dim": 16}
S2V = {**WAN, "model_type": "s2v", "dim": 5120, "num_heads": 40, "ffn_dim": 13824, "num_layers": 40}
AVATAR = LongCatConfig(audio=AudioConfig(5 * 1280))


def on_meta(config):
    """A MODEL of a config, in bf16, without weights."""
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, device=torch.device("meta"))
    return attach.patcher_of(model, torch.device("cpu"), torch.device("cpu"))


def plan_for(model, clips, chunks, rank=32) -> MemoryPlan:
    copied = attach.copy_for_training(model, torch.bfloat16)
    backbone = attach.find(copied)
    recipe = Stitching(clips, chunks) if backbone.audio_shape is None else Silence(clips, chunks)
    return plan_memory(copied, recipe, rank, Prompts(backbone, copied.model, None).blank)


def test_the_count_is_what_a_real_step_saves(tiny_models, tmp_path, monkeypatch):
    """Without checkpoints all blocks' insides are held at once."""
    model = load_longcat(str(tiny_models / "models" / "diffusion_models" / "lodestar_tiny_longcat_video.safetensors"))
    clips = make_clips(size=(32, 32))
    recipe = Stitching(clips, CHUNKS)
    one = recipe.example(1)
    recipe.example = lambda step: one
    copied = attach.copy_for_training(model, torch.float32)
    planned = plan_memory(copied, recipe, 4, Prompts(attach.find(model), model.model, None).blank)
    held, velocity = {}, GuidedNetwork.velocity
    weights = {weight.untyped_storage().data_ptr() for weight in model.model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    def counted(*given):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return velocity(*given)

    monkeypatch.setattr(GuidedNetwork, "velocity", counted)
    monkeypatch.setattr(train_host, "repeated_blocks", lambda network: [])
    model.model_options["transformer_options"][OVERRIDE] = count_attention     # a CPU's holds what no card's does
    with pytest.raises(NotImplementedError, match="only counted"):
        train(model, recipe, Settings(1, 4), tmp_path, clips.digest)
    blocks = len(model.model.diffusion_model.blocks)
    real = sum(storage.nbytes() for storage in held.values())
    assert planned.inside * blocks + planned.between == pytest.approx(real, rel=0.15)
    _, adapters = train_host.make_adapters(copied, (), 4, ["lora"], 0)
    assert planned.adapters == 16 * sum(weight.numel() for weight in adapters.weights["lora"].values())
    assert planned.weights == sum(weight.nbytes for weight in model.model.parameters())


@pytest.mark.parametrize(("config", "speech", "chunk", "weights", "least", "most"), [
    (lambda: comfy.supported_models.WAN21_T2V(WAN), None, 21, 2.8, 8, 32),
    (lambda: comfy.supported_models.WAN22_S2V(S2V), (25, 1024), 20, 32.6, 36, 96),
    (lambda: LongCatModelConfig(AVATAR, AVATAR_15), (5, 1280), 24, 31.7, 32, 80)],
    ids=["wan_1_3b", "s2v_14b", "longcat_13_6b"])
def test_models_of_full_size_are_counted_without_their_weights(config, speech, chunk, weights, least, most):
    """A chunk at 832x480. The card is named that has room for it."""
    clips = make_clips(latents=chunk + 5, size=(60, 104), count=1, speech=speech, silent=False)
    plan = plan_for(on_meta(config()), clips, Chunks(chunk_latents=chunk, context_latents=4))
    assert plan.weights / 1e9 == pytest.approx(weights, rel=0.15) and least < plan.total / 1e9 < most
    assert "GB between blocks" in str(plan) and "has room for it" in str(plan)
    small = MemoryPlan(plan.weights, plan.adapters, plan.between, plan.inside, card=int(24e9))
    assert small.fits == (plan.total <= 24e9) and "this card has 24.0 GB" in str(small)
