"""Training through ComfyUI's own guider and adapters: resumed to the last bit, stopped whole, and a LoRA that core
loads and that changes what the model makes."""
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch
from families import FAMILIES, FamilyChunk, load_family
from lodestar.backbones import attach, find, train_host
from lodestar.host.recipe_training import LORA_FILE, train
from lodestar.pipelines.take.folder_lock import FolderBusy, FolderLock
from lodestar.pipelines.training.distilling_recipes import Matching, Regression
from lodestar.pipelines.training.flow_recipes import Chunks, FlexibleAnchor, Silence, Stitching
from lodestar.pipelines.training.preference_recipe import Preference
from lodestar.pipelines.training.restoring_recipe import RestorativeFlow
from lodestar.pipelines.training.run import CHECKPOINT, LossNotFinite, Settings
from lodestar.techniques.rolling_window import Rolling
from training_clips import make_clips

CHUNKS = Chunks(chunk_latents=3, context_latents=2, farthest_frames=20)
ROLLING = Rolling((1.0, 0.75, 0.5, 0.25, 0.0), block_latents=2)
SETTINGS = Settings(steps=3, rank=4, rate=2e-2, seed=3)
GRADIENTS = hasattr(comfy.model_management, "in_training")     # of core's RoPE
OWN_ROPE = ("longcat_avatar", "longcat_video", "cogvideox_5b")
TRAINED = ("wan21_t2v", "wan22_s2v", "humo_1_7b", "omniavatar", "longcat_avatar", "longcat_video", "cogvideox_5b",
           "avatarforcing")
REFUSED = {"hunyuan_t2v": "HunyuanVideo cannot be trained .* overwrite what a gradient needs",
           "wan21_i2v": "Wan .* channels that a VAE fills"}


def load(name: str, tiny_models: Path) -> FamilyChunk:
    if not FAMILIES[name].exists:
        pytest.skip("not in this ComfyUI")
    return FamilyChunk(FAMILIES[name], load_family(name, tiny_models / "models"))


def clips_of(chunk: FamilyChunk):
    backbone = find(chunk.model)
    return make_clips(backbone.latent_channels(chunk.model.model), speech=backbone.audio_shape)


@pytest.fixture(scope="module")
def learner(tiny_models) -> FamilyChunk:
    """Wan, or LongCat where this ComfyUI has no gradient of Wan's RoPE."""
    return load("wan21_t2v" if GRADIENTS else "longcat_video", tiny_models)


def test_a_lora_that_core_loads_changes_the_model(learner, tmp_path):
    clips = clips_of(learner)
    made = train(learner.model, FlexibleAnchor(clips, CHUNKS), SETTINGS, tmp_path, clips.digest)
    assert len(made.losses) == len(made.loss_map["loss"]) == 3
    file = comfy.utils.load_torch_file(str(tmp_path / LORA_FILE))
    alphas = [value for name, value in file.items() if name.endswith(".alpha")]
    assert alphas and all(float(alpha) == SETTINGS.rank for alpha in alphas)
    patched, _ = comfy.sd.load_lora_for_models(learner.model, None, file, 1.0, 0)
    assert len(patched.patches) == len(alphas)
    plain, changed = learner.sample(), learner.sample(model=patched)
    assert (plain - changed).abs().max() > 1e-3
    assert torch.equal(learner.sample(), plain)


def adapters_of(folder: Path) -> dict[str, torch.Tensor]:
    return comfy.utils.load_torch_file(str(folder / CHECKPOINT))


class Stopped(Exception):
    """What ends a run at a step."""


def stop_after(recipe, steps: int):
    """The recipe, whose example of that step and later ones are never made."""
    made = recipe.example

    def example(step: int):
        if step >= steps:
            raise Stopped
        return made(step)

    recipe.example = example
    return recipe


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(learner, tmp_path):
    clips, settings = clips_of(learner), Settings(steps=8, rank=2, rate=1e-3)     # of 20 steps: test_recipes.py
    whole = train(learner.model, FlexibleAnchor(clips, CHUNKS), settings, tmp_path / "whole", clips.digest)
    with pytest.raises(Stopped):
        train(learner.model, stop_after(FlexibleAnchor(clips, CHUNKS), 3), settings, tmp_path / "parts", clips.digest)
    resumed = train(learner.model, FlexibleAnchor(clips, CHUNKS), settings, tmp_path / "parts", clips.digest)
    assert resumed.losses == whole.losses
    one, other = adapters_of(tmp_path / "whole"), adapters_of(tmp_path / "parts")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.startswith("lora/exp_avg_sq/") for name in one)


@pytest.mark.once
def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(learner, tmp_path):
    clips = clips_of(learner)
    train(learner.model, FlexibleAnchor(clips, CHUNKS), Settings(2, 2), tmp_path, clips.digest)
    good = (tmp_path / CHECKPOINT).read_bytes()
    broken = FlexibleAnchor(clips, CHUNKS)
    broken.loss = lambda network, example: FlexibleAnchor.loss(broken, network, example) * float("nan")
    with pytest.raises(LossNotFinite, match="step 3.*last good one"):
        train(learner.model, broken, Settings(4, 2), tmp_path, clips.digest)
    assert (tmp_path / CHECKPOINT).read_bytes() == good


@pytest.mark.once
def test_what_does_not_fit_is_refused(learner, tmp_path):
    clips = clips_of(learner)
    recipe = FlexibleAnchor(clips, CHUNKS)
    tmp_path.mkdir(exist_ok=True)
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderBusy, match="in use by another run"):
        train(learner.model, recipe, Settings(1, 2), tmp_path, clips.digest)
    lock.release()
    with pytest.raises(ValueError, match="rank: got 4096, but .* wide"):
        train(learner.model, recipe, Settings(1, 4096), tmp_path, clips.digest)
    train(learner.model, recipe, Settings(1, 2), tmp_path, clips.digest)
    with pytest.raises(ValueError, match="of another training .*clips 'made' there, 'others' here"):
        train(learner.model, recipe, Settings(2, 2), tmp_path, "others")


@pytest.mark.parametrize("make", [
    lambda clips: RestorativeFlow(clips, CHUNKS, adaptation=1), lambda clips: Preference(clips, CHUNKS),
    lambda clips: Regression(clips, CHUNKS, ROLLING), lambda clips: Matching(clips, CHUNKS, ROLLING, blocks=4)],
    ids=["restorative", "preference", "regression", "matching"])
def test_the_other_recipes_train_through_the_model(make, tiny_models, tmp_path):
    """LongCat has a gradient in both versions, and a level for each latent."""
    chunk = load("longcat_avatar", tiny_models)
    clips = clips_of(chunk)
    recipe = make(clips)
    made = train(chunk.model, recipe, Settings(3, 2, rate=1e-2), tmp_path, clips.digest)
    assert len(made.losses) == 3 and any(weight.float().abs().sum() > 0 for name, weight in made.lora.items()
                                         if name.endswith("lora_down.weight"))
    assert set(adapter_names(tmp_path)) == set(recipe.adapters)


def adapter_names(folder: Path) -> set[str]:
    return {name.split("/")[0] for name in adapters_of(folder)}


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_cannot_be_trained_are_named(name, tiny_models, tmp_path):
    chunk = load(name, tiny_models)
    clips = clips_of(chunk)
    with pytest.raises(ValueError, match=REFUSED[name]):
        train(chunk.model, Stitching(clips, CHUNKS), Settings(1, 2), tmp_path, clips.digest)


@pytest.mark.parametrize("name", ["longcat_video", "omniavatar"])
def test_weights_that_were_loaded_in_inference_mode_are_copied(name, tiny_models):
    with torch.inference_mode():
        model = FAMILIES[name].load(tiny_models / "models")
    assert any(weight.is_inference() for weight in model.model.parameters())
    copied = attach.copy_for_training(model, torch.float32).model
    assert not any(weight.is_inference() for weight in copied.parameters())
    pairs = zip(model.model.parameters(), copied.parameters(), strict=True)     # patches may wait for the loading
    assert all(ours is not theirs and ours.shape == theirs.shape for ours, theirs in pairs)


@pytest.mark.parametrize("name", TRAINED)
def test_every_family_learns(name, tiny_models, tmp_path):
    """One clip at one level, over and over: the loss falls."""
    chunk = load(name, tiny_models)
    clips = clips_of(chunk)
    recipe = Stitching(clips, CHUNKS) if chunk.backbone.audio_shape is None else Silence(clips, CHUNKS)
    one = recipe.example(1)
    recipe.example = lambda step: one
    if not GRADIENTS and name not in OWN_ROPE:
        with pytest.raises(ValueError, match="cannot be trained in this ComfyUI, whose RoPE .* Update ComfyUI"):
            train(chunk.model, recipe, Settings(1, 2), tmp_path, clips.digest)
        return
    made = train(chunk.model, recipe, Settings(4, 2, rate=5e-2), tmp_path, clips.digest)
    assert made.losses[-1] < made.losses[0]


@pytest.mark.once
def test_held_activations_and_those_made_again_give_one_gradient(learner, tmp_path, monkeypatch):
    clips = clips_of(learner)
    made = [train(learner.model, FlexibleAnchor(clips, CHUNKS), Settings(2, 2), tmp_path / "again", clips.digest)]
    monkeypatch.setattr(train_host, "repeated_blocks", lambda network: [])
    made.append(train(learner.model, FlexibleAnchor(clips, CHUNKS), Settings(2, 2), tmp_path / "held", clips.digest))
    for name, weight in made[0].lora.items():
        assert torch.allclose(weight.float(), made[1].lora[name].float(), atol=1e-5), name
