"""The product's recipes on the pack's puppet, with clips of the puppet's own world: the same code as the command."""
from pathlib import Path

import comfy.samplers
import pytest
import torch
from draws import random
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host.recipe_choice import recipe_of, train_by_name
from lodestar.host.recipe_training import blank_prompt
from lodestar.host.teacher import Teacher, backfill
from lodestar.pipelines.training.run import Settings
from lodestar.techniques.flow_schedules import student_levels
from lodestar.techniques.rolling_window import Rolling
from lodestar.training.puppet import clips as puppet_clips
from lodestar.training.puppet.latents import FRAMES, LATENTS, MARGIN, PICTURES, RE_ENCODED

pytestmark = pytest.mark.once
PACK = Path(__file__).resolve().parents[3]
STUDENT = Rolling(tuple(student_levels("even", 4, 1, 3.0).tolist()), 2)
CAUSAL = Rolling(tuple(student_levels("even", 1, 4, 3.0).tolist()), 2, 4)      # one block, looked ahead to by none


@pytest.fixture(scope="module")
def puppet():
    with torch.inference_mode():
        return load_longcat(str(PACK / "models" / "diffusion_models" / "lodestar_puppet.safetensors"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    clips, cells = 2, (12, 12)
    world = {"latents": random(clips, 16, LATENTS, *cells), "silent": torch.tensor([False, True]),
             "re-encoded": random(clips, len(RE_ENCODED), 16, 4, *cells), "pictures": random(clips, len(PICTURES), 16,
                                                                                           *cells),
             "lips": random(clips, LATENTS, *cells).abs().clamp(max=1),
             "spoilt": random(clips, 16, LATENTS, *cells, seed=9), "audio": random(clips, FRAMES + 2 * MARGIN, 5, 16)}
    return world, puppet_clips.make(world, tmp_path_factory.mktemp("world"))


def test_the_world_s_latents_are_clips(store, puppet):
    world, clips = store
    clip = clips[0]
    assert torch.allclose(puppet.model.process_latent_in(clip["latents"][None].float())[0], world["latents"][0],
                          atol=0.02)
    assert torch.allclose(clip["speech"][2, 7].float(), world["audio"][0, MARGIN + 7, 2], atol=1e-2)
    assert clips[1].info.silent and not clip.info.silent and clip["speech"].shape == (5, FRAMES, 16)
    assert clip["context_starts"].tolist() == list(RE_ENCODED) and clip["mask"].shape == (1, LATENTS, 12, 12)
    spoilt = puppet.model.process_latent_in(clip["perturbed"][None].float())[0]
    assert clips.format.perturbed and torch.allclose(spoilt, world["spoilt"][0], atol=0.02)


@pytest.mark.parametrize(("name", "window"), [
    ("flexible anchor", None), ("stitching", None), ("disentangled silence", None), ("restorative flow", None),
    ("student matching", STUDENT), ("student matching", CAUSAL)],
    ids=["anchor", "stitching", "silence", "restored", "student", "causal_dmd"])
def test_a_recipe_trains_the_puppet(store, puppet, tmp_path, name, window):
    made = train_by_name(puppet, name, store[1].folder, tmp_path, Settings(1 if window is None else 3, 4, rate=1e-2),
                         window=window)
    assert any(weight.any() for key, weight in made.lora.items() if key.endswith("lora_up.weight"))


def test_the_first_stage_of_restorative_flow_is_as_long_as_is_asked(store, puppet, caplog):
    def recipe(steps, **given):
        return recipe_of(puppet, "restorative flow", store[1], Settings(steps, 4, batch=2), "clips", None, **given)[0]
    assert recipe(5).adaptation == 8000 and "second begins with step 4001" in caplog.text
    caplog.clear()
    short = recipe(5, adaptation=3)
    assert not caplog.text and short.adaptation == 6
    spoilt = [("spoilt" in short.example(example).more) for example in range(40)]
    assert any(spoilt) and not any(spoilt[:6])
    with pytest.raises(ValueError, match="^adaptation: stitching has one stage; it is for restorative flow"):
        recipe_of(puppet, "stitching", store[1], Settings(5, 4), "clips", None, adaptation=3)


def test_a_student_learns_the_puppet_s_own_paths(store, puppet, tmp_path):
    guider = comfy.samplers.CFGGuider(puppet)
    guider.set_conds(blank_prompt(puppet), blank_prompt(puppet))
    teacher = Teacher.of(guider, comfy.samplers.sampler_object("euler"), student_levels("even", 3, 1, 3.0), 0)
    with torch.inference_mode():
        shelf, _ = backfill(store[1], teacher, torch.tensor(STUDENT.sigmas), 1, 0, None)
    one = train_by_name(puppet, "student regression", shelf, tmp_path, Settings(6, 8, rate=2e-2), window=STUDENT)
    then = train_by_name(puppet, "student matching", shelf, tmp_path / "then", Settings(1, 8), window=STUDENT,
                         start=one.lora)
    assert all(torch.equal(then.lora[name], one.lora[name]) for name in one.lora)      # the first step is the critic's
    with pytest.raises(ValueError, match="^start: .* has .* there"):
        train_by_name(puppet, "student matching", shelf, tmp_path / "other", Settings(1, 4), window=STUDENT,
                      start=one.lora)
    assert len(shelf) == 1 and min(one.losses[3:]) < one.losses[0] * 2
