"""The node Train Recipe in process: where it writes, what it says, what it refuses, and what an interrupt leaves."""
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host import recipe_training
from lodestar.host.events import TakeEvents
from lodestar.nodes.train_recipe import LodestarTrainRecipe
from lodestar.pipelines.training import run as training_run
from lodestar.pipelines.training.clip_store import ClipStore
from lodestar.pipelines.training.run import LossNotFinite
from training_clips import make_clips, write_store

pytestmark = pytest.mark.once
ASKED = {"recipe": "flexible anchor", "steps": 3, "rank": 2, "rate": 1e-2, "seed": 1, "folder": "one"}


@pytest.fixture(scope="module")
def model(tiny_models):
    return load_longcat(str(tiny_models / "models" / "diffusion_models" / "lodestar_tiny_longcat_video.safetensors"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("clips"), make_clips(count=1))


@pytest.fixture(autouse=True)
def output(tmp_path) -> Path:
    folder_paths.set_output_directory(str(tmp_path))
    return tmp_path


def run(model, clips, **changes):
    return LodestarTrainRecipe.execute(model=model, clips=clips, **{**ASKED, **changes}).args


def test_an_interrupt_saves_and_the_next_run_goes_on(model, clips, output, monkeypatch):
    said, lora_file = [], output / "loras" / "lodestar_training" / "one.safetensors"
    whole, _, _ = run(model, clips, folder="whole")
    monkeypatch.setattr(TakeEvents, "say", lambda self, text: said.append(text))
    step = recipe_training.StepProgress.__call__

    def interrupt(self, done, loss):
        step(self, done, loss)
        comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(recipe_training.StepProgress, "__call__", interrupt)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(model, clips)
    assert lora_file.is_file() and (output / "lodestar_training" / "one" / "checkpoint.safetensors").is_file()
    half = lora_file.read_bytes()
    lora, losses, steps = run(model, clips)
    assert steps == 3 and len(losses["loss"]) >= 3 and lora_file.read_bytes() != half
    assert lora.keys() == whole.keys() and all((lora[name] == whole[name]).all() for name in whole)
    assert said[-1].startswith("Step 3 of 3, loss ") and said[-1].endswith(" s left")
    again, _, steps = run(model, clips, steps=1)
    assert steps == 3 and all((lora[name] == again[name]).all() for name in lora)   # what is there, and no step more
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    assert len(patched.patches) == sum(name.endswith(".alpha") for name in lora)


@pytest.mark.parametrize(("changes", "words"), [
    ({"folder": "../out"}, r"^folder: got '../out', wanted the name of a folder"),
    ({"folder": " "}, "^folder: got ' ', wanted"),
    ({"rank": 1000}, "^rank: got 1000, but .* wide: choose"),
    ({"recipe": "restorative flow"}, "^clips: .* no spoilt|^clips: .* have no perturbed .* restorative flow needs"),
    ({"recipe": "student regression"}, "^clips: .*Backfill"),
    ({"recipe": "preference"}, "^clips: .*Preference Pairs"),
    ({"recipe": "disentangled silence"}, "^clips: .* have no speech")])
def test_what_does_not_fit_is_refused_by_name(model, tmp_path_factory, changes, words):
    made = make_clips(count=1)
    del made[0].arrays["perturbed"]
    with pytest.raises(ValueError, match=words):
        run(model, write_store(tmp_path_factory.mktemp("few"), made), **changes)


def test_clips_of_another_vae_with_as_many_channels(model, clips, tmp_path):
    manifest = tmp_path / "clips.json"
    manifest.write_bytes(replace(clips.format, vae="AutoencoderKLCogVideoX").as_json())
    with pytest.raises(ValueError, match="^clips: .* has latents of AutoencoderKLCogVideoX, .* wants those of WanVAE"):
        run(model, ClipStore.open(tmp_path))


def test_a_folder_of_another_base_is_not_gone_on_with(model, clips, tiny_models):
    run(model, clips, steps=1)
    other = load_longcat(str(tiny_models / "models" / "diffusion_models" / "lodestar_tiny_longcat_video.safetensors"))
    run(other, clips, steps=1)      # the same file
    with torch.no_grad():
        next(weight for weight in other.model.diffusion_model.parameters() if weight.ndim == 2)[0, 0] += 1
    with pytest.raises(ValueError, match="of another training .base '.*' there, '.*' here"):
        run(other, clips, steps=2)


def test_a_lora_to_begin_with_counts_by_its_alpha(model, clips):
    whole, _, _ = run(model, clips, steps=1)
    halved = {name: value / 2 if name.endswith(".alpha") else value * (2 if "lora_up" in name else 1)
              for name, value in whole.items()}
    one, other = (run(model, clips, folder=folder, steps=1, start=start)[0]
                  for folder, start in (("of one", whole), ("of the other", halved)))
    assert all((one[name] == other[name]).all() for name in one)


def test_broken_latents_are_named_by_their_clip(model, tmp_path_factory):
    made = make_clips(count=1)
    made[0].arrays["latents"][:, 3:] = torch.nan
    with pytest.raises(LossNotFinite, match="became nan in step 1, on clip 0. .*that clip's latents are broken"):
        run(model, write_store(tmp_path_factory.mktemp("broken"), made))


def test_too_little_disk_is_said_with_the_figure_before_the_first_step(model, clips, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(training_run.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match=r"^folder: checkpoints need 0\.\d\d GB, and .*one has 0\.00 GB free"):
        run(model, clips)
