"""What benchmarks/ counts, held to its goals: FLOPs at real widths, attention calls, VAE calls, bytes alive."""
import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
flops, takes, live_bytes = (importlib.import_module(name) for name in ("flops", "takes", "live_bytes"))


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


@pytest.mark.parametrize("blocks", ["1.3B", "14B"])
def test_a_long_take_costs_its_chunks(blocks):
    assert flops.take_flops(blocks, 20) <= 1.001 * 10 * flops.take_flops(blocks, 2)


@pytest.mark.parametrize("name", takes.MODELS)
def test_a_stitched_chunk_encodes_nothing_decodes_nothing_twice_and_masks_nothing(name):
    encoder_calls, decoded_again, take = takes.per_continuation(name)
    assert (encoder_calls, decoded_again, take.masked) == (0, 0, 0)
    assert take.attention_calls > 0 and take.decoded_frames == take.frames > 0


def test_the_hooks_see_what_re_encoding_costs():
    encoder_calls, decoded_again, _ = takes.per_continuation("wan21_t2v", "re-encode")
    assert encoder_calls > 0 and decoded_again > 0


def test_a_longer_stream_keeps_no_more_bytes_alive():
    assert live_bytes.growth(live_bytes.streamed) <= 1.01


def test_bytes_alive_are_counted_once_and_let_go():
    def work():
        kept = torch.ones(10).view(2, 5).add_(1)
        for _ in range(3):
            kept = kept + 1

    assert live_bytes.peak_bytes(work) == 2 * 10 * 4
