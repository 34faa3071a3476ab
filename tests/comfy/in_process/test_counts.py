"""What benchmarks/ counts, held to its goals: FLOPs at real widths, attention calls, VAE calls, bytes alive."""
import importlib
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.once

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
flops, humo_flops, longcat_bytes, longcat_flops, stream_flops, video_flops, takes, live_bytes, plans, fingerprints = (
    importlib.import_module(name) for name in ("flops", "humo_flops", "longcat_bytes", "longcat_flops", "stream_flops",
                                               "video_flops", "take_calls", "live_bytes", "plans", "fingerprints"))


@pytest.mark.parametrize("blocks", ["1.3B", "14B"])
def test_a_hard_skip_saves_what_it_hides_without_a_mask(blocks):
    skip, full = flops.hard_skip(blocks)
    latents = flops.NOISE + flops.CONTEXT + 1
    assert skip.self_attention / full.self_attention == pytest.approx(1 - flops.SKIPPED / latents ** 2, abs=1e-9)
    assert flops.noise_attention(blocks) <= 0.987
    assert skip.masked == 0 and flops.LAYERS < skip.calls <= 3 * flops.LAYERS and full.calls == flops.LAYERS


@pytest.mark.parametrize("blocks", ["1.3B", "14B"])
def test_an_anchor_costs_one_more_latent(blocks):
    assert flops.one_anchor(blocks)[0] == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("variant", humo_flops.WIDTHS)
def test_on_humo_an_anchor_costs_one_more_latent_and_a_skip_saves_what_it_hides(variant):
    assert humo_flops.one_anchor(variant)[0] == pytest.approx(1, abs=0.001)
    skip, full = humo_flops.hard_skip(variant)
    share = 1 - flops.SKIPPED / (humo_flops.LATENTS + 1) ** 2
    assert skip.self_attention / full.self_attention == pytest.approx(share, abs=1e-9)
    assert skip.masked == full.masked == 0 and full.calls == flops.LAYERS


def test_a_stream_s_block_costs_the_same_however_late_it_is():
    """Two calls of the model, no mask, and keys and values of the picture and two latents."""
    bench = stream_flops.bench_of(4, 3)
    early, late = (stream_flops.count_block(bench, block) for block in (10, 200))
    assert early == late and (late.calls, late.masked) == (2, 0)
    assert late.kept == (1 + 2) * 2 * 3 * 1536 * 1560 * 2


@pytest.mark.parametrize("blocks", ["1.3B", "14B"])
def test_a_long_take_costs_its_chunks(blocks):
    assert flops.take_flops(blocks, 20) <= 1.001 * 10 * flops.take_flops(blocks, 2)


def test_the_kv_cache_saves_longcats_conditioning_frames():
    chunk, noise, clean = longcat_flops.count_chunk(), 20, 1 + 4
    assert chunk.step_ratio <= 0.802 and chunk.chunk_ratio <= 0.815
    assert chunk.cached.self_attention / chunk.joint.self_attention == pytest.approx(noise / (noise + clean), abs=1e-9)
    assert chunk.cached.self_attention / chunk.own.self_attention == pytest.approx(500 / (500 + 1 + 16), abs=1e-9)
    assert chunk.kept == 2 * 48 * clean * 1560 * 4096 * 2 and chunk.masked == 0
    assert (chunk.cached.calls, chunk.own.calls, chunk.build.calls) == (48, 3 * 48, 2 * 47)


def test_upstreams_skip_on_longcat_saves_what_it_hides_without_a_mask():
    seeing, skipping = (longcat_flops.count_chunk(*techniques, config=longcat_flops.TWO_BLOCKS)
                        for techniques in ((), (longcat_flops.SKIP,)))
    assert skipping.cached.self_attention / seeing.cached.self_attention == pytest.approx(1 - 7 / 500, abs=1e-9)
    assert skipping.own.self_attention / seeing.own.self_attention == pytest.approx(1 - 7 / 517, abs=1e-9)
    assert skipping.masked == 0 and skipping.cached.calls == 2 * 2


def test_block_sparse_attention_multiplies_a_sixteenth_without_a_mask():
    dense, sparse = (longcat_flops.count_refinement(*techniques)
                     for techniques in ((), (longcat_flops.BlockSparseAttention(),)))
    assert sparse.self_attention / dense.self_attention == pytest.approx(82 / 1320, abs=1e-9)
    assert sparse.masked == 0 and sparse.flops < 0.5 * dense.flops


def test_a_longcat_block_moves_little_beside_its_products_and_a_second_speaker_adds_few_kernels():
    """Rotation, norms, modulation and residuals each read once and write once: no float32 copy of a sequence."""
    (alone, kernels), (pair, more) = longcat_bytes.block(), longcat_bytes.block(2)
    assert alone.total() <= 17.0e9 and pair.total() <= 18.5e9
    assert more - kernels <= 40
    assert alone["_to_copy"] <= 0.2e9 and alone["apply_rope1"] <= 1.3e9


@pytest.mark.parametrize("name", takes.MODELS)
def test_a_stitched_chunk_encodes_nothing_decodes_nothing_twice_and_masks_nothing(name):
    encoder_calls, decoded_again, take = takes.per_continuation(name)
    assert (encoder_calls, decoded_again, take.masked) == (0, 0, 0)
    assert take.attention_calls > 0 and take.decoded_frames == take.frames > 0


def test_the_hooks_see_what_re_encoding_costs():
    encoder_calls, decoded_again, _ = takes.per_continuation("wan21_t2v", "re-encode")
    assert encoder_calls > 0 and decoded_again > 0


def test_a_long_script_is_placed_without_asking_every_chunk():
    plan, per_line = plans.count_plan()
    assert len(plan.chunks) == plans.CHUNKS and plan.chunks[-1].prompt == f"line {plans.LINES - 1}"
    assert len({chunk.prompt for chunk in plan.chunks}) > plans.CHUNKS * 0.9
    assert 10 < per_line <= plans.GOAL


def test_a_longer_stream_keeps_no_more_bytes_alive():
    assert live_bytes.growth(live_bytes.decode_as_stream) <= 1.01


def test_bytes_alive_are_counted_once_and_let_go():
    def work():
        kept = torch.ones(10).view(2, 5).add_(1)
        for _ in range(3):
            kept = kept + 1

    assert live_bytes.peak_bytes(work) == 2 * 10 * 4


def test_one_more_lora_loader_costs_the_same_however_many_there_are():
    near, far = fingerprints.per_loader()
    assert 0 < near == far < 30


def test_a_video_reference_costs_its_keys_alone():
    """A step's own queries and no others; its selection drops what TAVR's does, from the keys and from the pass."""
    model = video_flops.models()["LongCat"]
    whole, selected = (video_flops.count_video(model, select) for select in (False, True))
    frame = video_flops.GRID[0] * video_flops.GRID[1]
    own, kept = video_flops.NOISE * frame, [video_flops.tokens(select).count for select in (False, True)]
    assert whole.step.masked == selected.step.masked == 0 and whole.step.calls == selected.step.calls == flops.LAYERS
    assert selected.step.self_attention / whole.step.self_attention == pytest.approx((own + kept[1]) / (own + kept[0]))
    assert selected.build / whole.build < 1.1 * kept[1] / kept[0] and selected.chunk_ratio < 0.71
    assert (own + kept[1]) / (own + kept[0]) == pytest.approx(1 - 0.169, abs=0.005)
