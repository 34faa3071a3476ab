"""What Long Take refuses, or says, before its first chunk, and Blank Prompt for every model."""
from fractions import Fraction
from pathlib import Path

import comfy.samplers
import latent_preview
import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.take_checks import check_guider, check_pictures, check_schedule, log_unused
from lodestar.nodes.blank_prompt import LodestarBlankPrompt
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.timeline import Timeline

PUPPET = Path(__file__).resolve().parents[3] / "models" / "diffusion_models" / "lodestar_puppet.safetensors"


@pytest.fixture(scope="module")
def models(tiny_models, wan):
    return {"wan": wan.load(tiny_models, "wan21_t2v"), "s2v": wan.load(tiny_models, "wan22_s2v"),
            "puppet": load_longcat(str(PUPPET))}


def guider(model, positive, negative):
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, negative)
    return made


def prompt(width=4096, tokens=4):
    return [[torch.zeros(1, tokens, width), {}]]


@pytest.mark.parametrize(("name", "shown"), [("wan", True), ("puppet", False)])
def test_no_preview_is_in_false_colours(models, monkeypatch, name, shown):
    """The puppet's VAE is its own: what ComfyUI knows of Wan's latents is not true of its."""
    for method in (latent_preview.LatentPreviewMethod.Auto, latent_preview.LatentPreviewMethod.TAESD):
        monkeypatch.setattr(latent_preview.args, "preview_method", method)
        previewer = latent_preview.get_previewer(torch.device("cpu"), models[name].model.latent_format)
        assert (previewer is not None) == shown


@pytest.mark.parametrize(("name", "width"), [("wan", 4096), ("s2v", 4096), ("puppet", 64)])
def test_a_blank_prompt_is_as_wide_as_its_model_reads(models, name, width):
    blank = LodestarBlankPrompt.execute(16, 0, models[name]).args[0]
    assert blank[0][0].shape == (1, 16, width)
    check_guider(guider(models[name], blank, blank))
    assert LodestarBlankPrompt.execute(16, 0).args[0][0][0].shape == (1, 16, 4096)
    assert LodestarBlankPrompt.execute(16, 32, models[name]).args[0][0][0].shape == (1, 16, 32)


@pytest.mark.parametrize(("name", "positive", "negative", "words"), [
    ("wan", prompt(64), prompt(), "its positive conditioning: got a prompt of width 64, wanted 4096 for Wan text-to-"),
    ("s2v", prompt(), prompt(768), "its negative conditioning: got a prompt of width 768, wanted 4096 for Wan 2.2 S2V"),
    ("puppet", prompt(), prompt(64), "its positive conditioning: got a prompt of width 4096, wanted 64 for the puppet.*"
                                     "to which this model is connected"),
    ("wan", [], prompt(), "its positive conditioning: got an empty conditioning"),
    ("wan", prompt(), [], "its negative conditioning: got an empty conditioning"),
    ("wan", prompt(), [[torch.full((1, 4, 4096), torch.nan), {}]], "its negative conditioning: got text of NaN")])
def test_a_prompt_that_the_model_cannot_read(models, name, positive, negative, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        check_guider(guider(models[name], positive, negative))


@pytest.mark.parametrize("name", ["wan", "s2v", "puppet"])
def test_every_scheduler_of_core_is_whole_and_its_halves_are_not(models, name):
    sampling = models[name].get_model_object("model_sampling")
    for scheduler in comfy.samplers.SCHEDULER_NAMES:
        for steps in (4, 20) if scheduler != "ddim_uniform" else (20,):     # that begins late with few steps
            sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
            check_schedule(models[name], sigmas)
            if steps == 20:
                with pytest.raises(ValueError, match="^got a schedule that ends at .*first half of a split one"):
                    check_schedule(models[name], sigmas[:11])
                with pytest.raises(ValueError, match="^got a schedule that begins at .*second half of a split one"):
                    check_schedule(models[name], sigmas[10 if scheduler == "simple" else 16:])


def test_pictures_of_another_size_are_named_as_the_user_knows_them(models):
    story = NarrativeKeyframes().plus(Fraction(3), torch.zeros(1, 16, 1, 8, 8))
    story = story.plus(Fraction("7.5"), torch.zeros(1, 16, 1, 8, 16))
    with pytest.raises(ValueError, match="^keyframe at 7.5 s: got latents of 16x8, the take's are 8x8"):
        check_pictures([LookaheadAnchor(), story], 8, 8)
    with pytest.raises(ValueError, match="^anchor: got latents of 4x8, the take's are 8x8"):
        check_pictures([LookaheadAnchor(latents=torch.zeros(1, 16, 1, 8, 4))], 8, 8)
    own = attach.techniques_of(attach.with_technique(models["wan"], LookaheadAnchor()))
    check_pictures(own, 8, 8)


def test_keyframes_that_no_frame_reaches_are_said(caplog):
    story, picture = NarrativeKeyframes(), torch.zeros(1, 16, 1, 8, 8)
    for seconds in (0, 3, 5, 9):
        story = story.plus(Fraction(seconds), picture)
    with caplog.at_level("WARNING", "lodestar"):
        log_unused([LookaheadAnchor(), story], Fraction(5))
    assert [record.getMessage() for record in caplog.records] == [
        "the keyframe at 0 s is passed before the take begins; give it a later time",
        "the keyframe at 5 s is never reached: the take ends at 5 s",
        "the keyframe at 9 s is never reached: the take ends at 5 s"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_speech_features_that_are_no_numbers(value):
    layer = torch.zeros(1, 200, 8)
    layer[0, 150] = value
    speech, clock = Speech.of({"encoded_audio_all_layers": [layer] * 2, "rate_hz": 50.0}), Timeline(Fraction(25))
    assert speech.frame_features(clock, 0, 40).shape == (2, 40, 8) and speech.audio_slots(0, 40, 2).shape[2] == 40
    for read in (lambda: speech.frame_features(clock, 60, 40), lambda: speech.audio_slots(60, 40, 2)):
        with pytest.raises(ValueError, match="^audio_features: got NaN or infinite features"):
            read()
