"""Refine Take: what each chunk begins from, against a whole-array construction of the specification (section 16)."""
import types
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from comfy_extras.nodes_custom_sampler import Guider_Basic, Noise_RandomNoise
from draws import random
from lodestar.backbones import attach
from lodestar.host import refinement
from lodestar.host.chunk_sampler import GuiderChunkSampler
from lodestar.host.driving_sources import open_video
from lodestar.host.refinement import Asked, NumberedFrames, RefinementSampling, open_refinement
from lodestar.nodes.refine_take import LodestarRefineTake
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.block_sparse import BlockSparseAttention
from lodestar.techniques.colour_match import ColourMatch
from lodestar.techniques.flow_schedules import schedule
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.sparse_blocks import SparseBlocks
from torch.nn.functional import interpolate

FRAMES, FPS, RATE = 30, 10, 16000
SMALL = {"chunk_frames": 9, "overlap_frames": 3, "width": 64, "height": 64}     # 3 chunks of 8 latents, 4 shared
SPATIAL = {"mode": "spatial", "chunk_frames": 17}   # 2 chunks of 8 latents, 4 shared
SIGMAS = schedule("refine", 16, 12.0)


@pytest.fixture(scope="module")
def video_model(tiny_models, longcat):
    return longcat.load(tiny_models, longcat.BASE)


@pytest.fixture(scope="module")
def vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A finished video of 48x80 with a tone, and its frames as they are read."""
    folder = tmp_path_factory.mktemp("clip")
    writer, steps = VideoWriter(48, 80, Fraction(FPS)), torch.linspace(0, 3, FRAMES)
    pictures = torch.rand(1, 80, 48, 3, generator=torch.Generator().manual_seed(1)) * 0.5
    with writer.segment(folder / "0.mp4") as segment:
        segment.write(pictures + steps.sin().abs()[:, None, None, None] * 0.5)
    tone = torch.sin(torch.arange(round(FRAMES / FPS * RATE)) * 0.2).expand(1, 2, -1) * 0.5
    path = folder / "take.mp4"
    writer.finish([folder / "0.mp4"], {"waveform": tone, "sample_rate": RATE}, {}, path)
    return path, frames_of(path)


def frames_of(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)) / 255


def session(model, vae, path, output, asked=SMALL, sigmas=SIGMAS, seed=3, **more):
    folder_paths.set_output_directory(str(output))
    guider = Guider_Basic(model)
    guider.set_conds([[random(1, 9, 4096, seed=3), {}]])
    sampling = RefinementSampling(Noise_RandomNoise(seed), guider, comfy.samplers.sampler_object("euler"), sigmas)
    hidden = types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    source = open_video(InputImpl.VideoFromFile(str(path)), "the video")
    return open_refinement(sampling, vae, source, Asked(**{**asked, **more}), hidden)


@dataclass
class Refined:
    """What a refinement made: its file, each chunk with what its sampler was given and gave, the frames that were
    read at a time."""
    path: Path | None = None
    chunks: list = field(default_factory=list)
    read: list = field(default_factory=list)

    def make(self, *arguments, **asked):
        sample, between, read = GuiderChunkSampler.run_sampler, refinement.NumberedFrames.between, self.read

        def run_sampler(sampler, guider, chunk, inputs):
            sampled = sample(sampler, guider, chunk, inputs)
            self.chunks.append((chunk, inputs, sampled))
            return sampled

        def count(window, first, end):
            frames = between(window, first, end)
            read.append(len(frames))
            return frames

        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(GuiderChunkSampler, "run_sampler", run_sampler)
            patch.setattr(refinement.NumberedFrames, "between", count)
            self.path = session(*arguments, **asked).make("refined", False).path
        return self


@pytest.fixture(scope="module")
def refined(video_model, vae, clip, tmp_path_factory):
    return Refined().make(video_model, vae, clip[0], tmp_path_factory.mktemp("refined"), fit="stretch")


@pytest.fixture(scope="module")
def enlarged(video_model, vae, clip, tmp_path_factory):
    return Refined().make(video_model, vae, clip[0], tmp_path_factory.mktemp("enlarged"), fit="stretch", **SPATIAL)


@pytest.mark.parametrize(("rate", "name"), [(2, "refined"), (1, "enlarged")])
@torch.inference_mode()
def test_every_chunk_begins_as_the_specification_says(vae, clip, rate, name, request):
    take, frames = request.getfixturevalue(name), clip[1]
    begun = take.chunks
    larger = interpolate(frames.movedim(-1, 1), (64, 64), mode="bilinear", align_corners=True).movedim(1, 0)[None]
    whole = interpolate(larger, (rate * FRAMES, 64, 64), mode="trilinear", align_corners=True)[0].movedim(0, -1)
    whole = torch.cat([whole, whole[-1:].expand(40, -1, -1, -1)])
    made = frames_of(take.path)
    assert len(made) == rate * FRAMES and made.shape[1:] == (64, 64, 3) and len(begun) == rate + 1
    decoded = decode_whole(vae, [new_of(*given) for given in begun])
    for chunk, inputs, _ in begun:
        first = 4 * chunk.first_latent
        latents = vae.encode(whole[first:first + 4 * chunk.latents - 3])
        given = chunk.context_latents
        if chunk.index:     # the frames before, encoded again
            latents[:, :, :given] = vae.encode(decoded[first:first + 4 * given - 3])
        torch.testing.assert_close(inputs.samples, latents, atol=2e-3, rtol=0)
        wanted = torch.ones(chunk.latents)
        wanted[:given] = 0
        assert inputs.noise_mask is None and not given or torch.equal(inputs.noise_mask[0, 0, :, 0, 0], wanted)
        assert given % 4 == 0 and chunk.latents % 4 == 0


def new_of(chunk, inputs, sampled):
    return sampled[:, :, chunk.context_latents:].float()


def decode_whole(vae, pieces):
    return vae.decode(torch.cat(pieces, 2))[0]


@torch.inference_mode()
def test_a_chunk_is_euler_from_half_noise(video_model, refined, longcat):
    """x = 0.5 latents + 0.5 noise, the refinement schedule, one prediction, the conditioning frames clean and still."""
    network, text = longcat.headless(video_model), torch.nn.functional.pad(random(1, 9, 4096, seed=3), (0, 0, 0, 503))
    for chunk, inputs, sampled in refined.chunks[:2]:
        clean, given = video_model.model.process_latent_in(inputs.samples), chunk.context_latents
        noise = Noise_RandomNoise(chunk.seed(3)).generate_noise({"samples": inputs.samples})
        x = 0.5 * clean + 0.5 * noise
        x[:, :, :given] = clean[:, :, :given]
        for now, then in zip(SIGMAS, SIGMAS[1:], strict=False):
            velocity = longcat.velocity(network, x, float(now), text, clean=(given,) if given else ())
            x[:, :, given:] += (then - now) * velocity[:, :, given:]
        expected = video_model.model.process_latent_out(x)
        torch.testing.assert_close(sampled.float(), expected, atol=5e-4, rtol=0)


def test_the_sound_is_kept_and_the_length_is_the_same(clip, refined):
    with av.open(str(refined.path)) as container, av.open(str(clip[0])) as before:
        pictures, sound = container.streams.video[0], container.streams.audio[0]
        assert pictures.average_rate == 2 * FPS and pictures.frames == 2 * FRAMES
        assert sound.rate == RATE and sound.layout.nb_channels == 2
        lengths = [sum(frame.samples for frame in file.decode(file.streams.audio[0])) for file in (container, before)]
    assert abs(lengths[0] - lengths[1]) <= 1024


def test_a_cancelled_refinement_goes_on_and_is_the_same(video_model, vae, clip, tmp_path, monkeypatch, refined):
    sample = GuiderChunkSampler.sample

    def break_at_second(self, chunk, past):
        if chunk.index == 2:
            raise RuntimeError("no more")
        return sample(self, chunk, past)

    monkeypatch.setattr(GuiderChunkSampler, "sample", break_at_second)
    with pytest.raises(RuntimeError, match="no more"):
        Refined().make(video_model, vae, clip[0], tmp_path, fit="stretch")
    monkeypatch.setattr(GuiderChunkSampler, "sample", sample)
    resumed = Refined().make(video_model, vae, clip[0], tmp_path, fit="stretch")
    assert [chunk.index for chunk, *_ in resumed.chunks] == [2]
    assert torch.equal(frames_of(resumed.path), frames_of(refined.path))


def test_what_determines_it(video_model, vae, clip, tmp_path):
    """Another video, size, fit or mode is another refinement; the same one is the same, whatever its file is called."""
    writer = VideoWriter(64, 64, Fraction(2 * FPS))

    def prints(path=clip[0], **asked):
        found, unreadable = session(video_model, vae, path, tmp_path, **asked).fingerprints(writer)
        assert not unreadable
        return found

    renamed, other = tmp_path / "renamed.mp4", tmp_path / "other.mp4"
    renamed.write_bytes(clip[0].read_bytes())
    other.write_bytes(clip[0].read_bytes() + b"\0")
    same = prints()
    assert prints(renamed) == same
    for different in (prints(other), prints(fit="stretch"), prints(**SPATIAL), prints(width=128), prints(seed=4)):
        assert different[0] != same[0]


def test_it_is_made_in_constant_memory(refined):
    """No chunk reads more of the source than the frames between which its own lie."""
    assert len(refined.read) == 1 + 3 and max(refined.read) <= 16     # and one for its size


def test_block_sparse_attention_fits_its_chunks(video_model, vae, clip, tmp_path):
    sparse = attach.with_technique(video_model, BlockSparseAttention(SparseBlocks(0.5)))
    made = Refined().make(sparse, vae, clip[0], tmp_path, fit="stretch", **SPATIAL)
    assert len(frames_of(made.path)) == FRAMES
    with pytest.raises(ValueError, match="block sparse attention: got 8 latents of 80x64"):
        session(sparse, vae, clip[0], tmp_path, width=80).make("sparse", False)


@pytest.mark.parametrize(("asked", "size"), [({}, (768, 1216)), ({"width": 128, "height": 64}, (128, 64))])
def test_the_size_is_the_nearest_bucket(video_model, vae, clip, tmp_path, asked, size):
    plan = session(video_model, vae, clip[0], tmp_path, asked=asked).take.plan
    assert (plan.width, plan.height) == size


@pytest.mark.parametrize(("change", "says"), [
    ({"sigmas": schedule("normal", 8, 12.0)}, "sigmas: got a schedule that begins at 1, which is noise alone"),
    ({"sigmas": torch.tensor([0.5, 0.3])}, "sigmas: got a schedule that ends at 0.3, wanted 0"),
    ({"width": 0}, "width, height: got 0 and 64; give both, or 0 for both to take the nearest bucket"),
    ({"chunk_frames": 3}, "chunk_frames: got 3 frames that overlap by 3"),
    ({"width": 72}, "^width: got 72, wanted a multiple of 16 for this model, such as 64 or 80"),
])
def test_what_does_not_fit_is_refused(video_model, vae, clip, tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        session(video_model, vae, clip[0], tmp_path, **change).make("refused", False)


def test_what_needs_a_picture_of_the_person_is_refused(video_model, vae, clip, tmp_path):
    for technique, says in ((ColourMatch(), "^guider: its model has Colour Match"),
                            (LookaheadAnchor(placement="padding"), "^guider: its model has an anchor of placement"),
                            (LookaheadAnchor(), "^anchor: .* Connect a LATENT to the anchor input")):
        with pytest.raises(ValueError, match=says):
            session(attach.with_technique(video_model, technique), vae, clip[0], tmp_path).check()


def test_other_models_are_refused(tiny_models, longcat, wan, vae, clip, tmp_path):
    for model in (longcat.load(tiny_models, longcat.AVATAR15), wan.load(tiny_models, "wan21_t2v")):
        with pytest.raises(ValueError, match="guider: got .*, wanted LongCat-Video with its refinement LoRA"):
            session(model, vae, clip[0], tmp_path)


def test_a_video_in_memory_is_one(video_model, vae):
    frames = torch.rand(6, 64, 96, 3)
    parts = InputImpl.VideoFromComponents(types.SimpleNamespace(images=frames, audio=None, frame_rate=Fraction(10)))
    found = NumberedFrames(open_video(parts, "the video"))
    assert (found.count, found.fps, found.proportion) == (6, 10, 64 / 96)
    assert torch.equal(torch.stack(found.between(2, 6)), frames[2:])


@torch.inference_mode()
def test_the_node_returns_the_file(video_model, vae, clip, tmp_path):
    asked = session(video_model, vae, clip[0], tmp_path)
    sampling = asked.sampling
    LodestarRefineTake.hidden = asked.hidden
    made = LodestarRefineTake.execute(noise=sampling.noise, guider=sampling.guider, sampler=sampling.sampler,
                                      sigmas=sampling.sigmas, vae=vae, video=InputImpl.VideoFromFile(str(clip[0])),
                                      mode="spatial", width=64, height=64, fit="crop", chunk_frames=0,
                                      overlap_frames=-1, filename_prefix="node", keep_chunks=False)
    assert made.args[0].get_dimensions() == (64, 64) and made.args[1].endswith("node_00001_.mp4")
