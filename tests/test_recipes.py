"""Losses against their papers' formulas, written out with loops, and recipes that depend on seed and step alone."""
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from draws import random
from lodestar.pipelines.training.clips import check_arrays
from lodestar.pipelines.training.distilling_recipes import CRITIC, Matching, Regression
from lodestar.pipelines.training.flow_recipes import Chunks, FlexibleAnchor, Silence, Stitching
from lodestar.pipelines.training.preference_recipe import Preference
from lodestar.pipelines.training.recipe import LORA
from lodestar.pipelines.training.restoring_recipe import RestorativeFlow
from lodestar.pipelines.training.run import LossNotFinite, Settings, TrainingRun
from lodestar.pipelines.training.video_recipe import CrossScene, SameScene
from lodestar.techniques import distillation, flow_matching, preference
from lodestar.techniques.reference_tokens import tokens_in_masks
from lodestar.techniques.rolling_window import Rolling, roll
from torch import nn
from training_clips import MadeClips, make_clips

pytestmark = pytest.mark.once
CHUNKS = Chunks(chunk_latents=4, context_latents=2, farthest_frames=20)
ROLLING = Rolling((1.0, 0.75, 0.5, 0.25, 0.0), block_latents=2)
CLIPS = make_clips(channels=3, size=(4, 4), speech=(2, 5))


class ToyNetwork:
    """v = weight x + 0.1 sigma, whatever the example; each adapter is a weight."""

    def __init__(self):
        self.weights = {LORA: nn.Parameter(torch.tensor([0.3])), CRITIC: nn.Parameter(torch.tensor([0.2]))}
        self.on, self.calls = LORA, []

    def to_model(self, latents):
        return latents

    def velocity(self, example, x, sigmas, first=0):
        self.calls.append((self.on, first, tuple(x.shape), tuple(sigmas.tolist()), torch.is_grad_enabled()))
        weight = self.weights[self.on] if self.on else torch.tensor(0.1)
        return weight * x + 0.1 * sigmas.view(1, 1, -1, 1, 1)

    @contextmanager
    def with_adapter(self, name):
        before, self.on = self.on, name
        yield
        self.on = before

    def without_adapter(self):
        return self.with_adapter(None)


def recipes():
    return [FlexibleAnchor(CLIPS, CHUNKS), Stitching(CLIPS, CHUNKS), Silence(CLIPS, CHUNKS),
            RestorativeFlow(CLIPS, CHUNKS, adaptation=10), Preference(CLIPS, CHUNKS),
            Regression(CLIPS, CHUNKS, ROLLING), Matching(CLIPS, CHUNKS, ROLLING, blocks=4),
            SameScene(CLIPS, CHUNKS), CrossScene(scenes(), CHUNKS)]


def scenes(*pairs):
    """Clips of (person, scene)."""
    pairs = pairs or (("anna", "park"), ("ben", "park"), ("anna", "office"))
    clips = make_clips(3, 16, (4, 4), len(pairs), (2, 5))
    return MadeClips(replace(clip, info=replace(clip.info, person=person, scene=scene))
                     for clip, (person, scene) in zip(clips, pairs, strict=True))


@pytest.mark.parametrize("number", range(len(recipes())))
def test_an_example_depends_on_seed_and_step_alone(number):
    recipe = recipes()[number]
    later = [recipe.example(step) for step in (5, 11, 12)]
    for step, before in zip((5, 11, 12), later, strict=True):
        now = recipes()[number].example(step)
        assert now.clip.info == before.clip.info and torch.equal(now.noise, before.noise)
        assert torch.equal(now.latents, before.latents) and torch.equal(now.sigmas, before.sigmas)
        assert (now.first_latent, now.sound) == (before.first_latent, before.sound)
        one = [recipe.loss(ToyNetwork(), example).item() for example in (now, before)]
        assert one[0] == one[1] and math.isfinite(one[0])
    assert not torch.equal(later[0].noise, later[1].noise) or number == 5


def test_an_anchor_stands_at_its_own_time_from_the_first_latent_to_d_max_ahead():
    recipe, seen = FlexibleAnchor(CLIPS, CHUNKS), []
    for step in range(200):
        example = recipe.example(step)
        (anchor,) = example.techniques
        frames, pictures = example.clip["picture_frames"] / 4, example.clip["pictures"].float()
        place = next(place for place in range(len(pictures)) if torch.equal(pictures[place], anchor.latents[0, :, 0]))
        own = float(frames[place]) - example.first_latent
        assert anchor.schedule == (min(max(own, 0), 3 + 5),)
        seen.append(anchor.schedule[0])
    assert min(seen) == 0 and max(seen) == 8 and len(set(seen)) > 5


def shown_in(recipe, step):
    """The example of a step, its video, and which clips that is from."""
    example = recipe.example(step)
    (video,) = example.techniques
    length = video.frames
    places = [(index, begin) for index, clip in enumerate(recipe.clips) for begin in range(17 - length)
              if torch.equal(clip["latents"][None, :, begin:begin + length].float(), video.latents)]
    return example, video, places


def test_the_video_of_one_scene_is_another_clip_of_it_or_what_the_chunk_leaves():
    """A person's two clips of a park, one of somebody else there, one of the person elsewhere."""
    clips = scenes(("anna", "park"), ("ben", "park"), ("anna", "park"), ("anna", "office"))
    recipe, others = SameScene(clips, CHUNKS), set()
    for step in range(60):
        example, video, ((shown, begin),) = shown_in(recipe, step)
        own = clips.index(example.clip)
        others.add((own, shown))
        assert 1 <= video.frames <= 6 and (shown == own or (begin == 0 and video.frames >= 4))
        if shown == own:
            known = 2 if example.first_latent else 0
            assert begin + video.frames <= example.first_latent - known or begin >= example.first_latent + 4
        kept = tokens_in_masks(clips[shown]["mask"][0, begin:begin + video.frames].float(), (2, 2), 0.15)
        assert torch.equal(video.tokens.keep, kept)
    assert others == {(0, 0), (0, 2), (1, 1), (2, 0), (2, 2), (3, 3)}


def test_the_video_of_another_scene_is_never_of_the_same():
    clips = scenes(("anna", "park"), ("ben", "park"), ("anna", "office"), ("anna", "park"), ("", "office"))
    found = {(clips.index(example.clip), shown) for example, _, ((shown, _),) in (
        shown_in(CrossScene(clips, CHUNKS), step) for step in range(60))}
    assert found == {(0, 2), (3, 2), (2, 0), (2, 3)}
    with pytest.raises(ValueError, match="clips: no two of 3 show one person in two scenes"):
        CrossScene(CLIPS, CHUNKS)


def test_stitched_context_is_the_clip_s_own_latents_before_the_chunk():
    recipe, re_encoded = Stitching(CLIPS, CHUNKS), 0
    for step in range(100):
        example = recipe.example(step)
        clip, first = example.clip["latents"].float(), example.first_latent
        assert torch.equal(example.latents[0], clip[:, first:first + 4])
        if example.re_encoded:
            re_encoded += 1
            starts = example.clip["context_starts"].tolist()
            assert torch.equal(example.context[0], example.clip["contexts"][starts.index(first - 2)].float())
        elif example.context is None:
            assert first == 0
        else:
            assert torch.equal(example.context[0], clip[:, first - 2:first])
    assert re_encoded


def test_silence_is_encoded_and_never_nothing():
    sounds = {(example.clip.info.silent, example.sound)
              for example in map(Silence(CLIPS, CHUNKS).example, range(300))}
    assert sounds == {(True, "silence"), (False, "speech"), (False, "null")}


def test_flow_loss_is_the_formula():
    clean, noise, velocity = (random(1, 2, 3, 2, 2, seed=seed) for seed in range(3))
    weight = random(1, 1, 3, 2, 2, seed=4).abs()
    total = 0.0
    for c in range(2):
        for t in range(3):
            for y in range(2):
                for x in range(2):
                    error = velocity[0, c, t, y, x] - (noise[0, c, t, y, x] - clean[0, c, t, y, x])
                    total += float(weight[0, 0, t, y, x] * error ** 2) / 24
    assert float(flow_matching.flow_loss(velocity, clean, noise, weight)) == pytest.approx(total, rel=1e-5)
    sigmas = torch.tensor([0.0, 0.5, 1.0])
    x = flow_matching.mix(clean, noise, sigmas)
    assert torch.equal(x[:, :, 0], clean[:, :, 0]) and torch.equal(x[:, :, 2], noise[:, :, 2])
    assert torch.allclose(flow_matching.clean_of(x, noise - clean, sigmas), clean, atol=1e-6)


def test_matching_s_gradient_is_critic_less_teacher_over_the_distance():
    student, teacher, critic = (random(2, 2, 2, 2, 2, seed=seed) for seed in range(3))
    student.requires_grad_()
    gradient = distillation.matching_gradient(student.detach(), teacher, critic)
    for one in range(2):
        scale = (student[one] - teacher[one]).abs().sum().item() / 16
        assert torch.allclose(gradient[one], (critic[one] - teacher[one]) / scale, rtol=1e-5)
    distillation.matching_loss(student, gradient).backward()
    assert torch.allclose(student.grad, gradient / student.numel(), rtol=1e-4, atol=1e-7)
    assert distillation.regression_loss(teacher, critic).item() == pytest.approx(
        sum(float(v) ** 2 for v in (teacher - critic).flatten()) / 32, rel=1e-5)


def test_states_lie_between_the_two_nearest_of_the_path():
    path, levels = random(3, 1, 2, 1, 1), torch.tensor([1.0, 0.5, 0.0])
    made = distillation.mix_states(path, levels, [0.75, 0.1])
    assert torch.allclose(made[0, :, 0], 0.5 * path[0, :, 0] + 0.5 * path[1, :, 0])
    assert torch.allclose(made[0, :, 1], 0.2 * path[1, :, 1] + 0.8 * path[2, :, 1])
    with pytest.raises(ValueError, match="sigmas: got 1.5, the teacher's path has 1 down to 0"):
        distillation.mix_states(path, levels, [1.5, 0])


def test_preference_loss_is_equation_7():
    errors = [0.02, 0.05, 0.03, 0.04]
    win, lose, win_before, lose_before = map(torch.tensor, errors)
    apart = (errors[0] - errors[2]) - (errors[1] - errors[3])
    wanted = -math.log(1 / (1 + math.exp(500 / 2 * apart)))
    made = preference.preference_loss(win, lose, win_before, lose_before)
    assert float(made) == pytest.approx(wanted, rel=1e-3)
    mask = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)
    assert preference.face_weight(mask).flatten().tolist() == [1, 2]
    velocity, clean, noise = (random(1, 1, 1, 1, 2, seed=seed) for seed in range(3))
    own = (noise - clean - velocity).flatten()
    assert float(preference.masked_error(velocity, clean, noise, preference.face_weight(mask))) == pytest.approx(
        float(own[0] ** 2 + 4 * own[1] ** 2) / 2, rel=1e-5)


def test_a_preference_begins_at_log_2_and_both_takes_have_one_noise():
    network, recipe = ToyNetwork(), Preference(CLIPS, CHUNKS)
    network.weights[LORA].data.fill_(0.1)           # as the network without it
    assert recipe.loss(network, recipe.example(0)).item() == pytest.approx(math.log(2), rel=1e-5)
    assert [call[0] for call in network.calls] == [None, None, LORA, LORA]


def test_a_rollout_is_the_window_s_own_and_its_last_pass_alone_has_a_gradient():
    recipe, network = Matching(CLIPS, CHUNKS, ROLLING, blocks=4, recents=2), ToyNetwork()
    example = next(example for example in map(recipe.example, range(2, 60, 3)) if example.more["last"].emits == 1)
    clean, call = recipe.roll_out(network, example)
    assert [grad for *_, grad in network.calls] == [False] * (len(network.calls) - 1) + [True]

    def predict(call, x):
        levels = torch.tensor([ROLLING.sigmas[level] for level in call.levels for _ in range(2)])
        return x - levels.view(1, 1, -1, 1, 1) * (0.3 * x + 0.1 * levels.view(1, 1, -1, 1, 1))

    def noise(block, level):
        from lodestar.techniques.rolling_window import noise_seed
        generator = torch.Generator().manual_seed(noise_seed(example.more["seed"], block, level))
        return torch.randn(1, 3, 2, 4, 4, generator=generator)

    blocks = list(roll(ROLLING, example.more["blocks"], 2, predict, noise, lambda call, clean: None))
    assert torch.allclose(clean[:, :, :2], blocks[1], atol=1e-5)
    held = len(call.recents)
    assert network.calls[-1][3][:held] == (0.0,) * held and network.calls[-1][1] == call.latents.start - 1 - held


def test_two_steps_of_the_critic_for_each_of_the_student():
    recipe, network = Matching(CLIPS, CHUNKS, ROLLING, blocks=3), ToyNetwork()
    assert [recipe.adapter_at(step) for step in range(6)] == [CRITIC, CRITIC, LORA] * 2
    for step in range(3):
        loss = recipe.loss(network, recipe.example(step))
        found = torch.autograd.grad(loss, list(network.weights.values()), allow_unused=True)
        assert [gradient is not None for gradient in found] == [step == 2, step != 2]


def run_of(folder, steps=4, network=None, **settings):
    network = ToyNetwork() if network is None else network
    weights = {name: {"w": weight} for name, weight in network.weights.items()}
    own = Settings(steps, rank=1, rate=1e-2, **settings)
    recipe = Matching(CLIPS, CHUNKS, ROLLING, blocks=2)
    return TrainingRun(folder, weights, own, own.fingerprint(recipe, "made")), recipe, network


def test_a_run_resumes_to_the_last_bit_with_all_its_adapters(tmp_path):
    ended = {}
    for name, stops in {"whole": (20,), "parts": (7, 20)}.items():
        for stop in stops:
            run, recipe, network = run_of(tmp_path / name, stop)
            run.train(recipe, network)
            run.close()
        ended[name] = [weight.item() for weight in network.weights.values()], run.losses
    assert ended["whole"] == ended["parts"] and len(ended["whole"][1]) == 20
    assert ended["whole"][0] != [0.3, 0.2]


def test_what_ends_a_run_leaves_whole_steps(tmp_path):
    run, recipe, network = run_of(tmp_path)

    def cancel():
        if run.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(recipe, network, cancel)
    run.close()
    again, recipe, network = run_of(tmp_path)
    assert again.done == 2 and len(again.losses) == 2
    recipe.loss = lambda network, example: network.weights[LORA].sum() * float("inf")
    kept = again.path.read_bytes()
    with pytest.raises(LossNotFinite, match="step 3, on clip "):
        again.train(recipe, network)
    again.close()
    assert again.path.read_bytes() == kept
    again.path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        run_of(tmp_path)


def test_bad_settings_and_clips_are_refused():
    for name, value in {"steps": 0, "rank": 0, "rate": 2}.items():
        with pytest.raises(ValueError, match=f"{name}: got {value}"):
            Settings(**{"steps": 1, name: value})
    with pytest.raises(ValueError, match="the folder has none"):
        check_arrays(MadeClips(), (), "stitching")
    mute = make_clips(channels=3, size=(4, 4))
    with pytest.raises(ValueError, match="3 of 3 have no speech .* disentangled silence needs.*Make Training Clips"):
        Silence(mute, CHUNKS)
    with pytest.raises(ValueError, match="'clip 0' has 16 latents, stitching takes 23"):
        Stitching(CLIPS, Chunks(chunk_latents=20, context_latents=2))
