"""LongCat's pure pieces beside naive oracles: filters, loudness, audio slots, schedules, guidance, speakers, tracks."""
import math

import pytest
import torch
from lodestar.techniques.audio import waveform
from lodestar.techniques.audio.features import (
    halve_rate,
    interpolate_frames,
    positions,
    silence_after,
    slot_steps,
    whisper_groups,
)
from lodestar.techniques.audio.speaker_tracks import pad_track, place_tracks
from lodestar.techniques.flow_schedules import schedule
from lodestar.techniques.speaker_masks import (
    background,
    box_masks,
    centers,
    check_masks,
    fitted_masks,
    person_map,
    query_positions,
    token_masks,
)
from lodestar.techniques.speech_guidance import as_pair, combine_predictions, projection_scale, shares, zero_guided
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def recursion(x: list[float], numerator, denominator) -> list[float]:
    """A recursive filter one sample at a time."""
    y: list[float] = []
    for n in range(len(x)):
        value = sum(b * x[n - i] for i, b in enumerate(numerator) if n >= i)
        value -= sum(a * y[n - i] for i, a in enumerate(denominator) if i and n >= i)
        y.append(value / denominator[0])
    return y


def filtered(x: torch.Tensor, sections) -> torch.Tensor:
    return torch.cat(list(waveform.filter_blocks((block for _, block in waveform.blocks(x)), sections)))


@pytest.mark.parametrize("sections", [waveform.lowpass(3000, 16000), waveform.k_weighting(16000)])
def test_filters_equal_the_recursion_across_blocks(sections, monkeypatch):
    monkeypatch.setattr(waveform, "FILTER_BLOCK", 700)
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    expected = x.double().tolist()
    for section in sections:
        expected = recursion(expected, section[:3], section[3:])
    assert (filtered(x, sections) - torch.tensor(expected)).abs().max() < 1e-5


def test_the_low_pass_is_that_of_the_bilinear_transform():
    k = math.tan(math.pi * 3000 / 16000)
    numerator = [k ** 3 * weight for weight in (1, 3, 3, 1)]
    denominator = torch.zeros(4, dtype=torch.float64)
    for power, first in enumerate((k + 1, k - 1)):
        for shift, second in enumerate((1 + k + k * k, 2 * (k * k - 1), 1 - k + k * k)):
            denominator[power + shift] += first * second
    impulse = torch.zeros(200, dtype=torch.float64)
    impulse[0] = 1
    expected = torch.tensor(recursion(impulse.tolist(), numerator, denominator.tolist()), dtype=torch.float64)
    assert (filtered(impulse, waveform.lowpass(3000, 16000)) - expected).abs().max() < 1e-12


def test_a_full_scale_sine_has_the_loudness_of_the_standard():
    """BS.1770: 0 dBFS at 997 Hz in one channel reads -3.01 LKFS."""
    seconds = torch.arange(48000 * 3) / 48000
    sine = torch.sin(2 * math.pi * 997 * seconds)
    assert waveform.integrated_loudness(sine, 48000) == pytest.approx(-3.01, abs=0.1)
    leveled = waveform.level_loudness(sine, 48000)
    assert waveform.integrated_loudness(leveled, 48000) == pytest.approx(-23, abs=1e-3)


def test_silence_and_very_short_speech_stay_what_they_are():
    silence, short = torch.zeros(16000), torch.ones(100)
    assert torch.equal(waveform.level_loudness(silence, 16000), silence)
    assert torch.equal(waveform.level_loudness(short, 16000), short)
    assert waveform.prepare_speech(silence, 16000, None).abs().max() == 0


@pytest.mark.parametrize("block", [1600, 7001, 2 ** 18])
def test_energy_is_that_of_all_samples_before(block, monkeypatch):
    speech = torch.randn(16000, generator=torch.Generator().manual_seed(7))
    power = filtered(speech.double(), waveform.k_weighting(16000)).square()
    places = torch.tensor([[0, 1, 1600, 1601], [7001, 8000, 15999, 16000]])
    wanted = torch.stack([power[:place].sum() for place in places.flatten()]).view(2, 4)
    monkeypatch.setattr(waveform, "FILTER_BLOCK", block)
    torch.testing.assert_close(waveform.energy_before(speech, places, 16000), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("noisy", [True, False])
def test_what_is_prepared_in_blocks_is_prepared_at_once(noisy, monkeypatch):
    speech, drawn = torch.randn(2, 24000, generator=torch.Generator().manual_seed(6))
    noise = drawn if noisy else None
    whole = waveform.prepare_speech(speech * 0.1, 16000, noise)
    monkeypatch.setattr(waveform, "FILTER_BLOCK", 7000)
    torch.testing.assert_close(waveform.prepare_speech(speech * 0.1, 16000, noise), whole, atol=1e-5, rtol=0)
    assert whole.mean().abs() < 1e-5 and whole.std() == pytest.approx(1, abs=1e-3)


def test_quiet_passages_do_not_count():
    loud, quiet = torch.randn(16000 * 3, generator=torch.Generator().manual_seed(1)), torch.zeros(16000 * 6)
    alone = waveform.integrated_loudness(loud, 16000)
    assert waveform.integrated_loudness(torch.cat([loud, quiet]), 16000) == pytest.approx(alone, abs=0.5)


@pytest.mark.parametrize(("below", "counts"), [(-8.0, True), (-20.0, False), (-40.0, False)])
def test_the_gate_of_bs_1770_is_relative_to_what_passes_the_absolute_one(below, counts):
    """Blocks at least 10 LU under the mean of all that are over -70 LUFS do not count, however audible they are."""
    loud = 0.3 * torch.randn(16000 * 3, generator=torch.Generator().manual_seed(1))
    quiet = 10 ** (below / 20) * loud.repeat(3)
    alone = waveform.integrated_loudness(loud, 16000)
    all_power = (10 ** (alone / 10) + 3 * 10 ** ((alone + below) / 10)) / 4
    wanted = 10 * math.log10(all_power) if counts else alone
    assert waveform.integrated_loudness(torch.cat([loud, quiet]), 16000) == pytest.approx(wanted, abs=0.3)


def test_windows_are_read_around_each_frame():
    features = torch.arange(40.0).view(20, 2, 1)
    got = features[slot_steps(first_frame=7, frames=4, stride=2, steps=20)]
    assert got.shape == (4, 5, 2, 1)
    for frame in range(4):
        for slot in range(5):
            step = min(max(2 * (7 + frame) + slot - 2, 0), 19)
            assert torch.equal(got[frame, slot], features[step])


def test_whisper_must_be_the_large_one():
    with pytest.raises(ValueError, match="got 25 hidden states, wanted 33"):
        whisper_groups(torch.zeros(25, 1, 4, 2))


def test_resampling_keeps_both_ends():
    assert interpolate_frames(torch.tensor([0.0, 1.0, 4.0]), *positions(3, 5)).tolist() == [0, 0.5, 1, 2.5, 4]


@pytest.mark.parametrize(("kind", "steps", "says"), [("distilled 8", 16, "exactly 8"), ("distilled", 51, "grid has 50"),
                                                     ("normal", 0, "at least 1"), ("karras", 8, "wanted one of")])
def test_impossible_schedules_are_refused(kind, steps, says):
    with pytest.raises(ValueError, match=says):
        schedule(kind, steps, 12.0)


@pytest.mark.parametrize("kind", ["normal", "distilled", "enhance-hf", "refine"])
@pytest.mark.parametrize("steps", [2, 16, 50])
def test_schedules_fall_to_zero(kind, steps):
    sigmas = schedule(kind, steps, 7.0)
    assert sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert sigmas[0] == (0.5 if kind == "refine" else 1)


@pytest.mark.parametrize(("scales", "made"), [((4, 4), "c u"), ((4, 3), "c t u"), ((4, 1), "c t"), ((1, 1), "c"),
                                              ((1, 4), "c t u"), ((0, 1), "t")])
def test_redundant_predictions_are_not_made(scales, made):
    weights = shares(*scales)
    predictions = dict(zip("ctu", torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2)), strict=True))
    assert " ".join(name for name, weight in zip("ctu", weights, strict=True) if weight) == made
    c, t, u = predictions.values()
    given = [predictions[name] if name in made else None for name in "ctu"]
    assert torch.allclose(combine_predictions(given, weights), u + scales[0] * (c - t) + scales[1] * (t - u), atol=1e-5)
    with pytest.raises(ValueError, match="was not made"):
        combine_predictions([None] * 3, weights)


@pytest.mark.parametrize("scales", [(4, 4), (4, 3), (3, 5), (4, 1), (0.5, 1), (1, 4), (0, 2), (2, 0), (1, 1), (0, 0)])
def test_the_guidance_is_that_of_a_pair(scales):
    """With the same predictions and never a weight beyond 1, so that nothing that sees the pair sees it blown up."""
    predictions = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights, unconditional, scale = as_pair(*scales)
    conditional, baseline = combine_predictions(predictions, weights), predictions[unconditional]
    expected = combine_predictions(predictions, shares(*scales))
    assert torch.allclose(baseline + scale * (conditional - baseline), expected)
    needed = {place for place, weight in enumerate(weights) if weight} | ({unconditional} if scale != 1 else set())
    assert needed == {place for place, weight in enumerate(shares(*scales)) if weight}
    assert all(-1 <= weight <= 1 for weight in weights)


def test_cfg_zero_projects_each_sample_for_itself():
    c, u = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(3))
    scale = projection_scale(c, u)
    for row in range(2):
        own = (c[row] * u[row]).sum() / (u[row] ** 2).sum()
        assert scale[row, 0] == pytest.approx(own.item(), abs=1e-5)
        assert torch.allclose(zero_guided(c, u, 4)[row], own * u[row] + 4 * (c[row] - own * u[row]), atol=1e-4)


def test_person_map_equals_the_dense_one():
    generator = torch.Generator().manual_seed(4)
    query, key = torch.randn(1, 12, 2, 8, generator=generator), torch.randn(1, 6, 2, 8, generator=generator)
    masks = torch.tensor([[[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]]).float()
    dense = torch.einsum("bnhd,bshd->bhns", query, key).div(8 ** 0.5).softmax(-1).mean(1)
    got = person_map(query, key, masks)
    assert torch.allclose(got[0, 0], dense[0, :, :2].mean(1), atol=1e-6)
    assert torch.allclose(got[0, 1], dense[0, :, 3:5].mean(1), atol=1e-6)
    assert got[0, 2].abs().max() == 0      # an empty background wins nowhere
    positions = query_positions(got)
    assert ((positions <= 4) | (positions >= 20)).all() and positions.max() <= 24


def test_a_person_map_is_one_kernel_for_all_heads_and_holds_no_map():
    query, key, masks = torch.zeros(1, 96, 8, 16), torch.zeros(1, 64, 8, 16), torch.ones(1, 3, 64)
    seen = []

    class Kernels(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            seen.extend(tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor))
            return result

    with torch.no_grad(), Kernels():
        person_map(query, key, masks)
    assert max(seen) <= query.numel() and len(seen) < 30     # a map would be 8 * 96 * 64


def test_audio_streams_have_their_speakers_positions():
    assert centers(3, 2) == (2, 22) and centers(4, 3) == (2, 22, 100) and background(3) == 12


def test_masks_and_boxes_that_cover_nothing_are_refused():
    with pytest.raises(ValueError, match="one person's box"):
        box_masks(24, 40, (0, 0, 4, 4))
    with pytest.raises(ValueError, match="covers nothing"):
        box_masks(24, 40, (0, 0, 4, 4), (5, 40, 9, 50))
    masks = box_masks(480, 832)[None]
    check_masks(masks, 30, 52)
    assert token_masks(masks, 30, 52).shape == (1, 3, 1560)
    masks[:, 1] = 0
    with pytest.raises(ValueError, match="mask of speaker 2 is too small"):
        check_masks(masks, 30, 52)


@pytest.mark.parametrize("size", [(16, 20), (48, 20), (7, 400), (24, 40)])
def test_fitted_masks_have_the_size_asked_for(size):
    assert fitted_masks(box_masks(24, 40), *size).shape == (3, *size)


def test_tracks_are_silent_where_the_other_speaks():
    one, two = torch.ones(3), 2 * torch.ones(2)
    first, second = place_tracks("in turn", one, two)
    assert first.tolist() == [1, 1, 1, 0, 0] and second.tolist() == [0, 0, 0, 2, 2]
    assert place_tracks("together", None, two)[0].tolist() == [0, 0]
    assert pad_track(two, 4).tolist() == [2, 2, 0, 0] and pad_track(one, 1).tolist() == [1, 1, 1]
    first, second = place_tracks("together", one, two)
    assert first.tolist() == [1, 1, 1] and second.tolist() == [2, 2, 0]
    assert place_tracks("together", two[None], one[None])[0].tolist() == [[2, 2, 0]]
    for wrong, says in ((("in turn", None, None), "no speech at all"),
                        (("chorus", one, two), "wanted one of")):
        with pytest.raises(ValueError, match=says):
            place_tracks(*wrong)


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (2, 1), (5, 3), (237, 150), (1501, 961), (3000, 1500)])
def test_steps_lie_where_torch_puts_them(rows, steps):
    features = torch.randn(1, rows, 3, generator=torch.Generator().manual_seed(4))
    wanted = torch.nn.functional.interpolate(features.mT, steps, mode="linear", align_corners=True).mT
    torch.testing.assert_close(interpolate_frames(features[0], *positions(rows, steps)), wanted[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("cuts", [[], [1], [1500], [1500, 3000], [2, 3, 4, 3999]])
def test_halving_piece_by_piece_is_halving_at_once(cuts):
    rows = torch.randn(4500, 2, 3, generator=torch.Generator().manual_seed(5))
    pieces = rows.tensor_split(cuts)
    assert torch.equal(torch.cat(list(halve_rate(pieces, 2011))), torch.cat(list(halve_rate([rows], 2011))))


# ---------------------------------------------------------------- silence behind the speech

@pytest.mark.parametrize("fps", [16, 25])
def test_speech_is_followed_by_silence_to_the_end_of_its_last_chunk(fps):
    """As the authors pad it: 93 frames and 80 more for each further chunk."""
    for seconds in (0.01, 1.0, 3.0, 5.0, 33.3, 600.0):
        samples = round(seconds * 16_000)
        end = samples + silence_after(samples, 16_000, fps, 93, 13)
        lengths = [(93 + 80 * more) * 16_000 // fps for more in range(200)]
        wanted = next(length for length in lengths if length >= samples)
        assert end == wanted or wanted - samples < 8_000 and end == samples + 8_000


def test_half_a_second_follows_speech_that_fills_its_chunks():
    assert silence_after(93_000, 16_000, 16, 93, 13) == 8_000
    assert silence_after(93_000 - 9_000, 16_000, 16, 93, 13) == 9_000
