"""The frame stream against ComfyUI's own decode of the whole latent: the same bits, whatever the cuts."""
import comfy.ldm.wan.vae2_2
import comfy.model_patcher
import comfy.sd
import comfy.taesd.taesd
import comfy.utils
import make_tiny_models
import pytest
import torch
from lodestar.backbones import vae as lodestar_vae
from lodestar.backbones.vae import OverlapStream, encode_frames, open_stream, visible_latents

CUTS = [(1,), (2,), (1, 1), (3,), (1, 2), (12,), (5, 1, 6), (1, 1, 1, 9), (13,), (4, 4, 5), (1, 3, 1, 1, 7)]


def load_vae(tiny_models, dtype):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=dtype)


def narrow_wan22_vae(tiny_models):
    """ComfyUI builds the Wan 2.2 VAE only at its full width: its own class, 8 channels wide, put into a VAE object."""
    model = comfy.ldm.wan.vae2_2.WanVAE(dim=8, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
                                        attn_scales=[], temperal_downsample=[False, True, True])
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: make_tiny_models.draw(name, shape, vae=True) for name, shape in shapes.items()})
    vae = load_vae(tiny_models, torch.float32)
    vae.first_stage_model, vae.latent_channels = model.eval(), 48
    vae.patcher = comfy.model_patcher.ModelPatcher(model, vae.device, vae.device)
    return vae


@pytest.fixture(scope="module", params=["wan21", "wan21_bf16", "wan22"])
def vae(request, tiny_models):
    if request.param == "wan22":
        return narrow_wan22_vae(tiny_models)
    return load_vae(tiny_models, torch.bfloat16 if request.param == "wan21_bf16" else torch.float32)


@pytest.fixture(scope="module")
def wan_vae(tiny_models):
    return load_vae(tiny_models, torch.float32)


def random_latents(vae, count, height=3, width=4):
    """12 positions: with fewer, the CPU's 1x1x1 convolution sums in another order for one frame than for two."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(1, vae.latent_channels, count, height, width, generator=generator)


@torch.inference_mode()
def decode_whole(vae, latents):
    return vae.decode(latents)[0].float()


def stream_all(stream, latents, cuts):
    pieces = latents.split(cuts, dim=2)
    return torch.cat([frames for piece in pieces for frames in stream.push(piece)] + list(stream.flush()))


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_streamed_is_the_whole_bit_for_bit(vae, cuts):
    latents = random_latents(vae, sum(cuts))
    streamed = stream_all(open_stream(vae), latents, cuts)
    assert streamed.dtype == torch.float32 and streamed.device.type == "cpu"
    assert torch.equal(streamed, decode_whole(vae, latents))


@pytest.mark.parametrize("cuts", [(5, 1, 6), (4, 4, 5)], ids=str)
def test_a_cache_that_is_parked_between_chunks_gives_the_same_bits(vae, cuts, monkeypatch):
    """On the same device here; the buffers are those that a card's cache is copied to."""
    monkeypatch.setattr(lodestar_vae, "stays_on_card", lambda size, device: False)
    latents, stream, places = random_latents(vae, sum(cuts)), open_stream(vae), []
    frames = []
    for piece in latents.split(cuts, dim=2):
        frames += list(stream.push(piece))
        buffers = {place: buffer.data_ptr() for place, buffer in stream._parked.items()}
        assert {place: entry.data_ptr() for place, entry in enumerate(stream._cache)
                if torch.is_tensor(entry)} == buffers
        places.append(buffers)
    assert torch.equal(torch.cat(frames + list(stream.flush())), decode_whole(vae, latents))
    assert places[-1] == places[-2], "made once"


@pytest.mark.parametrize("card, free, stays", [(139, 60, True), (80, 8, True), (80, 7, False), (24, 20, False)])
def test_the_cache_stays_on_a_card_with_plenty(monkeypatch, card, free, stays):
    """1.9 GB, as at 480x832."""
    management, device = lodestar_vae.model_management, torch.device("meta")
    monkeypatch.setattr(management, "get_total_memory", lambda asked: card * 1e9 if asked is device else None)
    monkeypatch.setattr(management, "get_free_memory", lambda asked: free * 1e9 if asked is device else None)
    assert lodestar_vae.stays_on_card(1_900_000_000, device) is stays
    assert lodestar_vae.stays_on_card(1_900_000_000, management.vae_offload_device())


def test_frames_are_left_where_they_were_made():
    """A writer takes them off the card as bytes; float32 would be four times as much."""
    assert lodestar_vae.pictures(torch.empty(2, 3, 4, 4, device="meta")).device.type == "meta"


def test_the_frames_are_pictures(wan_vae):
    frames = decode_whole(wan_vae, random_latents(wan_vae, 5))
    assert 0.1 < frames.std() and ((frames == 0) | (frames == 1)).float().mean() < 0.1


@pytest.mark.parametrize("cuts", [(12,), (13,), (5, 1, 6), (1, 1, 1, 1, 1, 1)], ids=str)
def test_a_single_latent_is_fed_only_first_and_last_and_each_once(vae, cuts):
    fed = []
    hook = vae.first_stage_model.decoder.register_forward_pre_hook(lambda _, args: fed.append(args[0].shape[2]))
    try:
        stream_all(open_stream(vae), random_latents(vae, sum(cuts)), cuts)
    finally:
        hook.remove()
    assert fed[0] == 1 and set(fed[1:-1]) <= {2} and sum(fed) == sum(cuts)


def test_each_push_gives_a_few_frames_at_a_time(vae):
    sizes = [len(frames) for frames in open_stream(vae).push(random_latents(vae, 9))]
    assert sizes == [1, 8, 8, 8, 8]


def test_peek_shows_what_flush_gives_and_changes_nothing(vae):
    latents = random_latents(vae, 9)
    whole, stream = decode_whole(vae, latents), open_stream(vae)
    assert stream.peek() is None
    frames = list(stream.push(latents[:, :, :4]))
    assert torch.equal(stream.peek(), whole[9:13]) and torch.equal(stream.peek(), whole[9:13])
    frames += list(stream.push(latents[:, :, 4:]))
    assert stream.peek() is None
    assert torch.equal(torch.cat(frames + list(stream.flush())), whole)


def warmed_up(vae, latents, pushed, warmup):
    """A stream as a resumed take makes it: fresh, fed from an even latent on, its frames thrown away."""
    stream = open_stream(vae)
    start = max(pushed - warmup, 0) // 2 * 2
    for _ in stream.push(latents[:, :, start:pushed]):
        pass
    return stream


@pytest.mark.parametrize("pushed", [1, 41, *(pytest.param(n, marks=pytest.mark.once) for n in (2, 40, 42, 43, 55))])
def test_a_warmed_up_stream_is_the_uninterrupted_one(vae, pushed):
    latents = random_latents(vae, pushed + 6)
    held = 1 - pushed % 2
    rest = decode_whole(vae, latents)[(pushed - held - 1) * 4 + 1:]
    stream = warmed_up(vae, latents, pushed, open_stream(vae).warmup_latents)
    assert torch.equal(stream_all(stream, latents[:, :, pushed:], (3, 3)), rest)


@pytest.mark.once
def test_the_warm_up_is_counted_from_the_layers_and_a_shorter_one_shows(wan_vae):
    latents = random_latents(wan_vae, 61)
    warmup = open_stream(wan_vae).warmup_latents
    assert warmup == visible_latents(wan_vae.first_stage_model.decoder) + 1 == 39
    stream = warmed_up(wan_vae, latents, 55, warmup - 10)
    assert not torch.equal(stream_all(stream, latents[:, :, 55:], 6), decode_whole(wan_vae, latents)[54 * 4 + 1:])


@pytest.mark.once
def test_another_video_vae_is_decoded_with_an_overlap(wan_vae):
    latents = random_latents(wan_vae, 30)
    frames = stream_all(OverlapStream(wan_vae), latents, (1, 12, 1, 16))
    whole = decode_whole(wan_vae, latents)
    assert frames.shape == whole.shape
    assert (frames - whole).abs().mean() < 0.2 * (whole - whole.mean(dim=0)).abs().mean()


@pytest.mark.parametrize("make", [open_stream, OverlapStream])
def test_latents_of_another_model_are_refused(wan_vae, make):
    with pytest.raises(ValueError, match=r"\(1, 48, 3, 4, 4\).*\(1, 16, t, h, w\)"):
        list(make(wan_vae).push(torch.zeros(1, 48, 3, 4, 4)))


def test_a_picture_vae_is_refused():
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    for use in (open_stream, lambda vae: encode_frames(vae, torch.rand(1, 16, 16, 3))):
        with pytest.raises(ValueError, match="TAESD is no causal video VAE"):
            use(vae)


def test_nothing_follows_a_flush(wan_vae):
    stream = open_stream(wan_vae)
    stream_all(stream, random_latents(wan_vae, 2), 2)
    with pytest.raises(ValueError, match="flushed"):
        list(stream.push(random_latents(wan_vae, 1)))


def test_frames_are_encoded_by_whole_latents(wan_vae):
    with torch.inference_mode():
        assert encode_frames(wan_vae, torch.rand(13, 16, 24, 3)).shape == (1, 16, 4, 2, 3)
    with pytest.raises(ValueError, match="got 12.*Give 9 or 13"):
        encode_frames(wan_vae, torch.rand(12, 16, 24, 3))
