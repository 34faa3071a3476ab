"""Audio encoders in a real ComfyUI: segments against one pass, core's own networks and transformers' alike."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.audio_encoders.audio_encoders as core
import folder_paths
import pytest
import rounding
import torch
from comfy_extras.nodes_audio_encoder import AudioEncoderEncode
from lodestar.backbones.audio import encoder as audio_encoder
from lodestar.backbones.audio.encoder import as_speech_encoder, core_knows, encode_speech, load_audio_encoder
from lodestar.backbones.audio.encoder_files import encoder_names
from lodestar.nodes.audio_features import LodestarAudioFeatures
from lodestar.nodes.load_audio_encoder import LodestarLoadAudioEncoder
from lodestar.techniques.audio.segments import plan_segments
from torch.nn.functional import gelu

ROOT = Path(__file__).resolve().parents[3]
# Relative difference of windowed from one-pass features, RMS over the clip. The encoder's input is exact but for
# rounding: a norm of the whole clip, seven convolutions each with its own norm, a projection. Behind it, attention is
# global, and untrained attention looks everywhere alike: the worst case. Twice what was measured.
ENCODER_INPUT = rounding.room(16)
HIDDEN_LAYERS = {(True, 30): 0.04, (True, 10): 0.08, (False, 30): 0.12, (False, 10): 0.16}    # (large, segment seconds)


def speech(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> dict:
    """Syllables: a voice of wandering pitch, switched on and off, in faint noise. A ComfyUI AUDIO."""
    time = torch.arange(round(seconds * rate)) / rate
    pitch = 150 + 40 * torch.sin(4.4 * time) + 20 * torch.sin(0.8 * time)
    phase = torch.cumsum(2 * torch.pi * pitch / rate, 0)
    loudness = (torch.sin(19.5 * time) * torch.sin(1.45 * time)).clamp(min=0)
    voice = sum(torch.sin(harmonic * phase) / harmonic for harmonic in range(1, 8)) * loudness * 0.2
    noise = 0.005 * torch.randn(1, channels, len(time), generator=torch.Generator().manual_seed(seed))
    return {"waveform": voice + noise, "sample_rate": rate}


def seeded(network: torch.nn.Module) -> torch.nn.Module:
    """Unit gain everywhere: core's layers come with whatever was in memory."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        if value.ndim == 1:
            value.data = torch.full_like(value, float(name.endswith("norm.weight")))
        elif not name.endswith("original0"):
            drawn = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
            value.data = drawn.to(value)
    return network


def core_encoder(**config):
    encoder = core.AudioEncoderModel(config)
    seeded(encoder.model)
    return encoder


def core_wav2vec2(large: bool):
    return core_encoder(model_type="wav2vec2", embed_dim=64, num_heads=4, num_layers=3, conv_norm=large,
                        conv_bias=large, do_normalize=large, do_stable_layer_norm=large)


def core_whisper():
    return core_encoder(model_type="whisper3", n_audio_state=32, n_audio_head=2, n_audio_layer=2)


TINY_CONVS = {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, **TINY_CONVS}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def published(folder: Path, kind: str = "Wav2Vec2", binary: bool = False, do_normalize: bool | None = None, **config):
    """Write a model folder as transformers publishes it; returns its own network for comparison."""
    import transformers
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config)).eval()
    network.save_pretrained(folder)
    if binary:
        (folder / "model.safetensors").unlink()
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    if do_normalize is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
    return network


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).norm() / theirs.norm()).item()


def layers_of(output: dict) -> tuple[torch.Tensor, ...]:
    return output["encoded_audio_all_layers"]


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory) -> Path:
    """The tiny model that the demo uses."""
    spec = importlib.util.spec_from_file_location("lodestar_tiny_audio", ROOT / "tests" / "rig" / "tiny_audio.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    return writer.write_tiny_wav2vec2(tmp_path_factory.mktemp("audio_encoders"))


@pytest.fixture(scope="module")
def tiny(tiny_file):
    return load_audio_encoder(tiny_file)


# ---------------------------------------------------------------- one pass, and segments against it

@pytest.mark.parametrize("large", [True, False])
def test_speech_that_fits_one_window_is_core_s_own_answer(large):
    encoder, audio = core_wav2vec2(large), speech(3.21)
    theirs = encoder.encode_audio(audio["waveform"], 16_000)
    ours = encode_speech(as_speech_encoder(encoder), audio)
    assert all(map(torch.equal, layers_of(ours), layers_of(theirs)))
    assert torch.equal(ours["encoded_audio"], theirs["encoded_audio"])
    assert ours["audio_samples"] == theirs["audio_samples"] and ours["rate_hz"] == 50.0


@pytest.mark.parametrize("large", [True, False])
def test_windows_equal_one_pass_of_core(large):
    encoder, audio = core_wav2vec2(large), speech(24.017)
    theirs = encoder.encode_audio(audio["waveform"], 16_000)
    ours = encode_speech(as_speech_encoder(encoder), audio, window_seconds=10)
    found = [difference(*pair) for pair in zip(layers_of(ours), layers_of(theirs), strict=True)]
    assert found[0] < ENCODER_INPUT, "the front end is exact, global statistics and all"
    assert max(found) < HIDDEN_LAYERS[large, 10], found


@pytest.mark.parametrize("large", [True, False])
def test_the_windows_of_the_node_s_defaults_equal_one_pass(tmp_path, large):
    published(tmp_path, do_normalize=True, **TINY | (LARGE if large else {}))
    encoder, audio = load_audio_encoder(tmp_path), speech(95)
    seeded(encoder.family.network)
    one = encode_speech(encoder, audio, window_seconds=3600)
    ours = encode_speech(encoder, audio)
    found = [difference(*pair) for pair in zip(layers_of(ours), layers_of(one), strict=True)]
    assert found[0] < ENCODER_INPUT and max(found) < HIDDEN_LAYERS[large, 30], found


@pytest.mark.parametrize("large", [True, False])
def test_the_front_end_is_exact_wherever_it_is_cut(large):
    family = as_speech_encoder(core_wav2vec2(large)).family
    waveform = speech(5.01)["waveform"][0] + 0.2      # an offset: the whole clip's mean and variance matter
    normal = (waveform - waveform.mean()) / torch.sqrt(waveform.var() + 1e-7) if large else waveform
    with torch.no_grad():
        whole = family.network.feature_extractor(normal)
        clip = family.open(waveform, torch.device("cpu"), (None, None))
        rows = family.rows(waveform.shape[1])
        for first, end in ((0, 1), (0, 77), (100, 151), (rows - 1, rows), (3, rows)):
            assert difference(clip.features(first, end), whole[:, first:end]) < ENCODER_INPUT


def test_seconds_that_no_window_boundary_divides_still_give_every_row(tiny):
    for samples in (1, 399, 400, 719, 720, 16_001, 32_319, 32_320, 63_999, 80_399):
        audio = {"waveform": torch.randn(1, 1, samples), "sample_rate": 16_000}
        ours = encode_speech(tiny, audio, layers="last", window_seconds=2, overlap_seconds=1)
        rows = (samples - 400) // 320 + 1 if samples >= 400 else 1
        assert ours["encoded_audio"].shape == (1, rows, 1024) and ours["encoded_audio"].isfinite().all()
        assert ours["audio_samples"] == samples


def test_whisper_up_to_30_seconds_is_core_s_own_answer():
    encoder, audio = core_whisper(), speech(7.3)
    theirs = encoder.encode_audio(audio["waveform"], 16_000)
    ours = encode_speech(as_speech_encoder(encoder), audio)
    assert ours["family"] == "whisper" and ours["encoded_audio"].shape == (1, 365, 32)
    assert all(torch.equal(mine, whole[:, :365])
               for mine, whole in zip(layers_of(ours), layers_of(theirs), strict=True))


def test_whisper_does_not_stop_at_30_seconds():
    encoder = as_speech_encoder(core_whisper())
    audio = speech(95)
    audio["waveform"][..., :16_000] *= 4               # the loudest mel bin lies in the first segment alone
    output = encode_speech(encoder, audio, layers="0")
    assert output["encoded_audio"].shape == (1, 95 * 50, 32) and output["encoded_audio"].isfinite().all()
    network = encoder.family.encoder
    clip = encoder.family.open(audio["waveform"][0], torch.device("cpu"), ())
    with torch.no_grad():
        mel = (clip.log_mel(0, 4750).clamp(min=clip.floor) + 4) / 4
        rows = gelu(network.conv2(gelu(network.conv1(mel)))).transpose(1, 2)
    for window in plan_segments(4750, 1500, 200):
        audio_in = layers_of(output)[0][:, window.keep_first:window.keep_end] \
            - network.embed_positions.weight[window.keep_first - window.first:window.keep_end - window.first].float()
        assert difference(audio_in, rows[:, window.keep_first:window.keep_end]) < 1e-5, "each second at its place"


def test_the_mel_of_a_window_is_the_mel_of_the_clip():
    family = as_speech_encoder(core_whisper()).family
    waveform = speech(41.503)["waveform"][0]
    clip = family.open(waveform, torch.device("cpu"), ())
    whole = clip.log_mel(0, clip.rows)
    extractor = core_whisper().model.feature_extractor.mel_spectrogram
    padded = torch.nn.functional.pad(waveform, (0, clip.rows * 320 - waveform.shape[1]))
    assert torch.equal(whole, extractor(padded)[:, :, :-1].clamp(min=1e-10).log10())
    assert clip.floor == pytest.approx(whole.max().item() - 8)
    for first, end in ((0, 1500), (clip.rows - 1500, clip.rows), (7, 8)):
        assert torch.allclose(clip.log_mel(first, end), whole[:, :, 2 * first:2 * end], atol=1e-4)


# ---------------------------------------------------------------- what transformers brings

@pytest.mark.parametrize("kind, config, do_normalize, binary", [
    ("Wav2Vec2", TINY, True, False), ("Wav2Vec2", TINY, False, True), ("Wav2Vec2", TINY | LARGE, True, True),
    ("Hubert", TINY, True, False), ("Hubert", TINY | LARGE, None, False),
])
def test_published_folders_are_encoded_as_transformers_does(tmp_path, kind, config, do_normalize, binary):
    network, audio = published(tmp_path, kind, binary, do_normalize, **config), speech(2.9)
    values = audio["waveform"][0]
    if do_normalize is not False:
        values = (values - values.mean()) / torch.sqrt(values.var(correction=0) + 1e-7)
    with torch.no_grad():
        output = network(values, output_hidden_states=True)
    theirs = (*output.hidden_states[:-1], output.last_hidden_state)     # transformers 5 leaves its norm out of the list
    encoder = load_audio_encoder(tmp_path)
    ours = encode_speech(encoder, audio)
    assert max(difference(*pair) for pair in zip(layers_of(ours), theirs, strict=True)) < 1e-5
    windowed = encode_speech(encoder, audio, window_seconds=2, overlap_seconds=1)
    assert difference(layers_of(windowed)[0], theirs[0]) < ENCODER_INPUT


def test_a_published_whisper_of_another_size(tmp_path):
    from transformers import WhisperFeatureExtractor
    network = published(tmp_path, "Whisper", d_model=32, encoder_layers=2, encoder_attention_heads=2, decoder_layers=1,
                        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=80,
                        vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    audio = speech(12.34)
    mel = WhisperFeatureExtractor()(audio["waveform"][0, 0].numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = network.encoder(mel["input_features"], output_hidden_states=True).hidden_states
    ours = layers_of(encode_speech(load_audio_encoder(tmp_path), audio))
    assert max(difference(mine, whole[:, :617]) for mine, whole in zip(ours, theirs, strict=True)) < 1e-4


def test_no_network_is_touched(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")
    published(tmp_path, **TINY)
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert load_audio_encoder(tmp_path).family.layer_count == 3


def test_without_transformers_one_error_says_how_to_get_it(tmp_path, monkeypatch):
    published(tmp_path, **TINY)
    monkeypatch.setitem(sys.modules, "transformers.models.wav2vec2.modeling_wav2vec2", None)
    with pytest.raises(ValueError, match="audio_encoder_name: .*pip install transformers"):
        load_audio_encoder(tmp_path)


# ---------------------------------------------------------------- the loader

def test_normalize_overrules_the_file(tmp_path):
    network, audio = published(tmp_path, do_normalize=True, **TINY), speech(1.0)
    with torch.no_grad():
        raw = network(audio["waveform"][0], output_hidden_states=True).last_hidden_state
    off = encode_speech(load_audio_encoder(tmp_path, "off"), audio)["encoded_audio"]
    on = encode_speech(load_audio_encoder(tmp_path, "on"), audio)["encoded_audio"]
    assert difference(off, raw) < 1e-5 < difference(on, raw)


def configure(folder: Path, **config) -> None:
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("change, words", [
    (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    (lambda folder: os.truncate(folder / "model.safetensors", 9000), "cannot be read"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be read"),
    (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
    (lambda folder: configure(folder, model_type="wavlm"), "'wavlm'; wanted wav2vec2"),
    (lambda folder: (folder / "config.json").unlink(), "config.json"),
    (lambda folder: configure(folder, model_type="wav2vec2", **TINY | LARGE), "lacks"),
    (lambda folder: configure(folder, model_type="wav2vec2"), "do not fit"),
])
def test_broken_models_are_refused_by_name(tmp_path, change, words):
    published(tmp_path, **TINY)
    change(tmp_path)
    with pytest.raises(ValueError, match=f"^audio_encoder_name: .*{words}"):
        load_audio_encoder(tmp_path)


def test_what_core_knows_goes_to_core_and_nothing_else_does():
    def state(width: int, depth: int, front: bool) -> dict:
        names = [f"encoder.layers.{index}.final_layer_norm.bias" for index in range(depth)]
        names += ["feature_extractor.conv_layers.1.layer_norm.weight"] * front
        return {f"wav2vec2.{name}": torch.empty(512) for name in names} | {
            "wav2vec2.encoder.layer_norm.bias": torch.empty(width)}
    assert core_knows(state(1024, 24, True)) and core_knows(state(768, 12, False))
    assert core_knows({"model.encoder.conv1.weight": torch.empty(1280, 128, 3)})        # whisper large-v3
    assert not core_knows({"model.encoder.conv1.weight": torch.empty(1280, 80, 3)})     # whisper large-v2
    assert not core_knows(state(1024, 24, False)) and not core_knows(state(1024, 1, True))


def test_folders_and_files_are_listed_once(tmp_path):
    audio_encoders = tmp_path / "audio_encoders"
    for name in ("chinese-base/model.safetensors", "chinese-base/config.json", "deep/er/pytorch_model.bin",
                 "deep/er/config.json", "loose/model.safetensors", "single.safetensors"):
        (audio_encoders / name).parent.mkdir(parents=True, exist_ok=True)
        (audio_encoders / name).touch()
    folder_paths.add_model_folder_path("audio_encoders", str(audio_encoders))
    names = encoder_names()
    assert [name for name in names if (audio_encoders / name).exists()] == [
        "chinese-base", str(Path("deep", "er")), str(Path("loose", "model.safetensors")), "single.safetensors"]
    published(audio_encoders / "chinese-base", **TINY)
    encoder, = LodestarLoadAudioEncoder.execute("chinese-base", "auto").args
    assert encoder.family.layer_count == 3


def test_a_config_in_the_file_outranks_core_s_guess(tiny_file, monkeypatch):
    monkeypatch.setattr(audio_encoder, "core_knows", lambda state: True)
    assert load_audio_encoder(tiny_file).family.layer_count == 2


# ---------------------------------------------------------------- the nodes, and bad input

def test_core_s_node_takes_our_encoder_and_our_node_takes_core_s(tiny):
    audio = speech(1.0, 44_100, channels=2)
    theirs, = AudioEncoderEncode.execute(tiny, audio).args
    ours, = LodestarAudioFeatures.execute(audio, tiny, "all", 30.0, 4.0).args
    assert all(map(torch.equal, layers_of(ours), layers_of(theirs))) and len(layers_of(theirs)) == 2
    from_core, = LodestarAudioFeatures.execute(audio, core_wav2vec2(True), "0,-1", 30.0, 4.0).args
    assert len(layers_of(from_core)) == 2 and from_core["family"] == "wav2vec2"
    with pytest.raises(ValueError, match="^audio_encoder: got 'whisper'"):
        LodestarAudioFeatures.execute(audio, "whisper", "all", 30.0, 4.0)


def test_only_the_chosen_layers_are_kept(tiny):
    everything = encode_speech(tiny, speech(5), window_seconds=2, overlap_seconds=1)
    last = encode_speech(tiny, speech(5), "last", 2, 1)
    first = encode_speech(tiny, speech(5), "0", 2, 1)
    assert [len(layers_of(output)) for output in (everything, last, first)] == [2, 1, 1]
    assert torch.equal(layers_of(last)[0], layers_of(everything)[1])
    assert torch.equal(layers_of(first)[0], layers_of(everything)[0])
    assert all(torch.equal(output["encoded_audio"], everything["encoded_audio"]) for output in (last, first))
    minute = encode_speech(tiny, speech(60))
    assert sum(layer.nbytes for layer in layers_of(minute)) == pytest.approx(60 * 50 * 2 * 1024 * 4, rel=1e-3)


@pytest.mark.parametrize("waveform", [torch.zeros(1, 1, 0), torch.full((1, 2, 99), torch.nan)])
def test_bad_audio_is_refused(tiny, waveform):
    with pytest.raises(ValueError, match="^audio: got"):
        LodestarAudioFeatures.execute({"waveform": waveform, "sample_rate": 48_000}, tiny, "last", 30.0, 4.0)
    with pytest.raises(ValueError, match="^got"):       # by core's own node, which checks nothing
        AudioEncoderEncode.execute(tiny, {"waveform": waveform, "sample_rate": 48_000})


def test_layers_are_checked_before_anything_runs():
    assert LodestarAudioFeatures.validate_inputs("0-24") is True
    assert LodestarAudioFeatures.validate_inputs("fast").startswith("layers: got 'fast'")


def test_what_does_not_fit_the_encoder_is_named(tiny):
    with pytest.raises(ValueError, match="^layers: got '7', but this encoder has layers 0 to 1"):
        LodestarAudioFeatures.execute(speech(5), tiny, "7", 30.0, 4.0)
    with pytest.raises(ValueError, match="^overlap_seconds: got 100 steps of overlap for segments of 100"):
        LodestarAudioFeatures.execute(speech(5), tiny, "last", 2.0, 2.0)


@pytest.mark.parametrize("encoder", [lambda: core_wav2vec2(True), lambda: core_wav2vec2(False), core_whisper])
def test_silence_is_encoded(encoder):
    output = encode_speech(as_speech_encoder(encoder()), {"waveform": torch.zeros(1, 1, 90_000), "sample_rate": 16_000},
                           window_seconds=4, overlap_seconds=2)
    assert output["encoded_audio"].isfinite().all()


# ---------------------------------------------------------------- memory

PEAK = """
import importlib.util, os, resource, sys, types
pack = types.ModuleType("lodestar"); pack.__path__ = [sys.argv[1]]; sys.modules["lodestar"] = pack
sys.path.insert(0, sys.argv[2])
import comfy.options; comfy.options.enable_args_parsing(False)
import comfy.cli_args; comfy.cli_args.args.cpu = True
from pathlib import Path
import torch
from lodestar.backbones.audio.encoder import encode_speech, load_audio_encoder
encoder = load_audio_encoder(Path(sys.argv[3]))
audio = {"waveform": torch.rand(1, 1, int(sys.argv[4]) * 16000) - 0.5, "sample_rate": 16000}
encode_speech(encoder, {"waveform": audio["waveform"][..., :16000], "sample_rate": 16000}, "last")
before = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
result = encode_speech(encoder, audio, "last")["encoded_audio"].nbytes
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before - result)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux' own counters")
def test_working_memory_does_not_grow_with_the_speech(tmp_path, comfyui):
    published(tmp_path, **TINY | {"conv_dim": [64] * 7})     # the GroupNorm front end: the one with a second pass
    found = {}
    for seconds in (60, 300):
        run = subprocess.run([sys.executable, "-c", PEAK, str(ROOT), str(comfyui), str(tmp_path), str(seconds)],
                             capture_output=True, text=True, timeout=300, check=True)
        found[seconds] = int(run.stdout.split()[-1])
    assert 30e6 < found[300] <= 1.1 * found[60], found
