"""A chunk of a finished take made again: all frames but its own stay, its end is where the next chunk went on from."""
from dataclasses import replace
from itertools import pairwise

import av
import pytest
import torch
from lodestar.backbones import attach
from lodestar.host.progress import TakeProgress
from lodestar.host.remakes import RemakingSampler, held_latents
from lodestar.host.stream_chunk_sampler import choose_chunk_sampler
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.tests.comfy.in_process.test_session import changed, session, wan_vae
from safetensors.torch import load_file


def packets(path) -> list[bytes]:
    with av.open(str(path)) as video:
        return [bytes(packet) for packet in video.demux(video=0) if packet.size]


def take_of(tiny_models, wan, tmp_path, script="", kind="wan22_ti2v"):
    model = attach.with_technique(wan.load(tiny_models, kind), LookaheadAnchor())
    vae, fps = (wan.wan22_vae(tiny_models), 24.0) if kind == "wan22_ti2v" else (wan_vae(tiny_models), 16.0)
    overlap = {"overlap_frames": -1} if kind == "wan22_s2v" else {}
    take = session(model, vae, tmp_path, fps=fps, script=script, max_seconds=3.0, **overlap)
    if kind == "wan22_s2v":
        take = changed(take, features={"encoded_audio_all_layers": [torch.zeros(1, 200, 1024)], "rate_hz": 50.0})
    return replace(take, make_sampler=choose_chunk_sampler)


def make(take, keep=True, name="again/take"):
    with torch.inference_mode():
        return take.make(name, keep)


@pytest.mark.parametrize("kind", ["wan22_ti2v", "wan22_s2v"])
def test_all_frames_but_the_chunk_s_own_are_the_same_packets(tiny_models, wan, tmp_path, kind):
    first = make(take_of(tiny_models, wan, tmp_path, kind=kind))
    take = take_of(tiny_models, wan, tmp_path, "0:01.2 [again]", kind)
    plan, (chunk,) = take.take.plan, take.take.plan.remakes
    again = make(take)
    assert again.path != first.path and torch.equal(again.tail, first.tail)
    counts = [len(packets(path)) for path in sorted((tmp_path / "lodestar_takes").glob("again_take-????????????????/"
                                                                                       "chunk_*.mp4"))]
    start = sum(counts[:chunk.index])
    stop, before, after = start + counts[chunk.index], packets(first.path), packets(again.path)
    assert sum(counts) == len(before) == len(after) == plan.total_frames
    assert before[:start] == after[:start] and before[stop:] == after[stop:] and before[start:stop] != after[start:stop]
    assert 0 < chunk.index < len(plan.chunks) - 1
    old, new = (load_file(next((tmp_path / "lodestar_takes").glob(f"again_take-{name}.safetensors")))["latents"]
                for name in (f"????????????????/chunk_{chunk.index:04}", "*-again-*/chunk_0000"))
    held = held_latents(plan, chunk)
    assert torch.equal(old[:, :, -held:], new[:, :, -held:])    # where the next chunk goes on from
    assert (old - new)[:, :, :-held].abs().amax((0, 1, 3, 4)).min() > 0.1


def test_it_is_the_same_from_nothing_and_another_noise_is_another(tiny_models, wan, tmp_path):
    take = take_of(tiny_models, wan, tmp_path / "two", "0:01.2 [again]")
    at_once = make(take, keep=False)
    assert not [path for path in (tmp_path / "two" / "lodestar_takes").iterdir() if path.is_dir()]
    make(take_of(tiny_models, wan, tmp_path / "one"))
    later = make(take_of(tiny_models, wan, tmp_path / "one", "0:01.2 [again]"), keep=False)
    assert packets(later.path) == packets(at_once.path)
    (chunk,), plan = take.take.plan.remakes, take.take.plan
    other = take_of(tiny_models, wan, tmp_path, "0:01.2 [again 2]").take.plan.remakes[0]
    assert len({one.seed(3) for one in (*plan.chunks, chunk, other)}) == len(plan.chunks) + 2


def test_the_last_chunk_is_made_again_to_its_end(tiny_models, wan, tmp_path):
    first = make(take_of(tiny_models, wan, tmp_path))
    again = make(take_of(tiny_models, wan, tmp_path, "0:02.9 [again]"))
    assert not torch.equal(first.tail, again.tail) and len(packets(first.path)) == len(packets(again.path))
    assert packets(first.path)[0] == packets(again.path)[0]
    assert torch.equal(make(take_of(tiny_models, wan, tmp_path, "0:02.9 [again]")).tail, again.tail)    # as it stands


def test_two_neighbours_are_made_again(tiny_models, wan, tmp_path):
    take = take_of(tiny_models, wan, tmp_path)
    middles = [float(sum(take.take.plan.seconds_of(chunk))) / 2 for chunk in take.take.plan.chunks[1:3]]
    both = take_of(tiny_models, wan, tmp_path, "\n".join(f"0:0{middle:.2f} [again]" for middle in middles))
    assert [chunk.index for chunk in both.take.plan.remakes] == [1, 2]
    assert packets(make(take).path) != packets(make(both).path)


def test_a_sampler_that_does_not_keep_the_end_is_refused(tiny_models, wan, tmp_path):
    class Deaf:
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
                   disable_pbar=False):
            return noise * 0.1

        def max_denoise(self, model_wrap, sigmas):
            return True

    take = take_of(tiny_models, wan, tmp_path, "0:01.2 [again]")
    inputs, chunk = take.inputs, take.take.plan.remakes[0]
    progress = TakeProgress(None, take.take.plan, 2)
    sampler = RemakingSampler(inputs, replace(take.sampling, sampler=Deaf()), progress, torch.ones(1, 48, 1, 4, 4))
    with torch.inference_mode(), pytest.raises(
            ValueError, match="cannot be made again by itself: this sampler and model do not keep the end"):
        sampler.new_latents(chunk, None, None, inputs.reference)


def test_how_much_of_a_chunk_stays(tiny_models, wan, tmp_path):
    plan = take_of(tiny_models, wan, tmp_path).take.plan
    assert [held_latents(plan, chunk) for chunk in plan.chunks][-1] == 0
    for chunk, _ in pairwise(plan.chunks):
        assert held_latents(plan, chunk) == min(plan.overlap_latents, chunk.new_latents // 2) > 0
    with pytest.raises(ValueError, match="chunk 1 cannot be made again .*: it has 1 latents of its own, wanted 2"):
        held_latents(plan, replace(plan.chunks[0], latents=1))
