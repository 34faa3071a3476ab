"""LongCat Schedule: the authors' sigmas for the version of the model at hand, and what it refuses before running."""
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from lodestar.nodes.longcat_schedule import LodestarLongCatSchedule
from lodestar.techniques.flow_schedules import KINDS, schedule


def sigmas(model, kind="normal", steps=50, shift=0.0):
    return LodestarLongCatSchedule.execute(model, kind, steps, shift).args[0]


@pytest.mark.parametrize(("name", "shift"), [("BASE", 12.0), ("AVATAR", 12.0), ("AVATAR15", 7.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_version_says_the_shift(tiny_models, longcat, name, shift, kind):
    model, steps = longcat.load(tiny_models, getattr(longcat, name)), 8 if kind == "distilled 8" else 16
    assert torch.equal(sigmas(model, kind, steps), schedule(kind, steps, shift))
    assert torch.equal(sigmas(model, kind, steps, 3.0), schedule(kind, steps, 3.0))


def test_the_eight_steps_of_avatar_15(tiny_models, longcat):
    found = sigmas(longcat.load(tiny_models, longcat.AVATAR15), "distilled 8", 8)
    expected = torch.tensor([1, .97998, .95449, .92094, .87478, .80728, .69916, .49799, 0])
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_shift_that_another_node_set_counts(tiny_models, longcat):
    model = ModelSamplingSD3().patch(longcat.load(tiny_models, longcat.AVATAR15), 5.0)[0]
    assert torch.equal(sigmas(model), schedule("normal", 50, 5.0))


def test_a_longcat_model_samples_with_it(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.AVATAR15)
    guider = longcat.comfy.samplers.CFGGuider(model)
    guider.set_conds(longcat.prompt(model), longcat.prompt(model))
    noise = longcat.noise()
    with torch.inference_mode():
        out = guider.sample(noise, torch.zeros_like(noise), longcat.comfy.samplers.sampler_object("euler"),
                            sigmas(model, "distilled 8", 8), disable_pbar=True)
    assert out.isfinite().all() and out.std() > 0.1


def test_another_model_is_refused_by_name(tiny_models, wan):
    with pytest.raises(ValueError, match="model: got Wan text-to-video, wanted a LongCat model"):
        sigmas(wan.load(tiny_models, "wan21_t2v"))


@pytest.mark.parametrize(("kind", "steps", "says"), [
    ("distilled 8", 7, "distilled for exactly 8"), ("distilled", 51, "the distilled grid has 50"),
    ("normal", 0, "steps: got 0, wanted a whole number from 1"), ("normal", 10 ** 9, "steps: got 1000000000, wanted"),
    ("sharp", 8, "kind: got 'sharp', wanted one of normal")])
def test_steps_it_cannot_have_are_refused(tiny_models, longcat, kind, steps, says):
    with pytest.raises(ValueError, match=says):
        sigmas(longcat.load(tiny_models, longcat.AVATAR15), kind, steps)
