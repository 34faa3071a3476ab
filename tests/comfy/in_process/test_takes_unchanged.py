"""Takes whose every latent and frame is on record: a change of the code that is meant to change nothing changes none.

The takes run through the nodes, found by their ids, so that no module of the pack is named here. On a processor that is
on record (with its ComfyUI and PyTorch) they equal it to the bit; on others to what roundings leave.

Record again only where other frames are wanted, then read the difference; one ComfyUI at a time, OMP_NUM_THREADS=1:
    COMFYUI_PATH=... LODESTAR_RECORD_TAKES=tensors python -m pytest tests/comfy/in_process/test_takes_unchanged.py
With =hashes it adds this processor and leaves the tensors and the half-finished take as they are.
"""
import asyncio
import hashlib
import json
import logging
import os
import platform
import shutil
from pathlib import Path

import av
import comfy.samplers
import comfy.sd
import comfy.utils
import demo
import folder_paths
import lodestar.nodes
import numpy as np
import pytest
import rounding
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from draws import random
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
HASHES, TENSORS, HALF = GOLDEN / "takes.json", GOLDEN / "takes.safetensors", GOLDEN / "half_take"
RECORD = os.environ.get("LODESTAR_RECORD_TAKES", "")
NODES = {kind.__name__: kind for kind in asyncio.run(lodestar.nodes.Lodestar().get_node_list())}
SECONDS, RATE, SIZE, STEPS, BLOCKS = 2, 16_000, 64, 2, 2
LATENT_SIZE = 16.0
LEVELS = 1.0        # of 255, the mean over a sixteenth of a picture: x264 makes more of a rounding
PLACES = {"fps": 16.0, "chunk_frames": 17, "overlap_frames": 5}


def sound(seed=1):
    return {"waveform": 0.1 * random(1, 1, SECONDS * RATE, seed=seed), "sample_rate": RATE}


def picture(seed=4):
    return torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(seed))


def run(node_id, **inputs):
    """What a node gives, as ComfyUI runs it: `inputs`, and what its widgets begin with."""
    begins = {socket.id: socket.default for socket in NODES[node_id].define_schema().inputs
              if getattr(socket, "default", None) is not None}
    clone = NODES[node_id].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with torch.inference_mode():
        return clone.EXECUTE_NORMALIZED(**{**begins, **inputs}).args


# ---------------------------------------------------------------- the takes

class Studio:
    """Makes the takes below, each a method, in `output`."""

    def __init__(self, models: Path, wan, output: Path):
        self.models, self.wan, self.output = models, wan, output

    def wan21_text(self):
        model, = run("LodestarLookaheadAnchor", model=self.wan.load(self.models, "wan21_t2v"))
        return self.long_take(model, reference=picture())

    def wan21_picture(self):
        model, = run("LodestarLatentStitch", model=self.wan.load(self.models, "wan21_i2v"), mode="stitch")
        return self.long_take(model, reference=picture())

    def wan22_picture(self):
        model, = run("LodestarLookaheadAnchor", model=self.wan.load(self.models, "wan22_ti2v"))
        return self.long_take(model, reference=picture(), plan={"fps": 24.0}, vae=self.wan.wan22_vae(self.models))

    def wan22_speech(self):
        model, = run("LodestarLookaheadAnchor", model=self.wan.load(self.models, "wan22_s2v"), placement="in chunk",
                     index=3.0)
        model, = run("LodestarReferenceSkip", model=model, mode="soft")
        for seconds, seed in ((0.5, 6), (1.5, 7)):
            model, = run("LodestarNarrativeKeyframe", model=model, at_seconds=seconds,
                         keyframe={"samples": self.wan.picture(model, seed=seed)})
        features, = run("LodestarAudioFeatures", audio=sound(), layers="last",
                        audio_encoder=self.encoder("wav2vec2"))
        return self.long_take(model, reference=picture(), audio_features=features, clip=self.wan.small_clip(),
                              plan={"script": "0:00 she smiles\n0:01 she laughs", "overlap_frames": -1})

    def longcat_base(self):
        return self.long_take(self.longcat("video"), reference=picture(), plan={"fps": 15.0})

    def longcat_avatar_1_0(self):
        return self.avatar("avatar", 16.0, "soft", "longcat_wav2vec2")

    def longcat_avatar_1_5(self):
        return self.avatar("avatar15", 25.0, "hard", "longcat_whisper")

    def two_speakers(self):
        features, mix = run("LodestarTwoSpeakers", reference=picture(), audio_encoder=self.encoder("longcat_wav2vec2"),
                            audio_1=sound(1), audio_2=sound(2), box_1="0, 0, 0.5, 1", box_2="0.5, 0, 1, 1")
        return self.long_take(self.longcat("avatar"), reference=picture(), audio_features=features, audio=mix)

    def avatar(self, name, fps, mode, encoder):
        model, = run("LodestarLookaheadAnchor", model=self.longcat(name), placement="in chunk", index=3.0)
        model, = run("LodestarReferenceSkip", model=model, mode=mode)
        features, = run("LodestarLongCatSpeech", audio=sound(), audio_encoder=self.encoder(encoder))
        guider, = run("LodestarSpeechGuidance", model=model, positive=text(3), negative=text(4), text_scale=2.0,
                      audio_scale=3.0)
        return self.long_take(model, guider, reference=picture(), audio_features=features, plan={"fps": fps})

    def encoder(self, name):
        return run("LodestarLoadAudioEncoder", audio_encoder_name=f"lodestar_tiny_{name}.safetensors")[0]

    def longcat(self, name):
        return run("LodestarLoadLongCat", model_name=f"lodestar_tiny_longcat_{name}.safetensors")[0]

    def long_take(self, model, guider=None, plan=None, audio=None, vae=None, **wires):
        if guider is None:
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(text(3), text(4))
            guider.set_cfg(2.0)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        if vae is None:
            weights = self.models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
            vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(weights)), dtype=torch.float32)
        take, _ = run("LodestarPlanTake", model=model, audio=audio or sound(),
                      **{"width": SIZE, "height": SIZE, **PLACES, **(plan or {})})
        folder_paths.set_output_directory(str(self.output))
        _, path, _ = run("LodestarLongTake", noise=Noise_RandomNoise(3), guider=guider, sigmas=sigmas, plan=take,
                         sampler=comfy.samplers.sampler_object("euler"), filename_prefix="take", keep_chunks=True,
                         vae=vae, **wires)
        return frames_of(path)

    def puppet(self):
        """The pack's own one, without ComfyUI."""
        graph = demo.fill_workflow(demo.parse_options(["--seconds", "1"]), demo.Here)
        graph.the("LodestarPlanTake").set(chunk_frames=17, overlap_frames=5)
        graph.the("LodestarLongCatSchedule").set(steps=3)
        return frames_of(demo.make_here(graph, self.output / "puppet.mp4", lambda **how_far: None))


def text(seed):
    return [[random(1, 9, 4096, seed=seed), {}]]


TAKES = [name for name, member in vars(Studio).items() if name not in ("avatar", "encoder", "longcat", "long_take")
         and not name.startswith("_")]


@pytest.fixture
def studio(base, tiny_models, wan, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)        # sums are cut otherwise where there are more
    yield Studio(tiny_models, wan, tmp_path)
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- what is on record

def frames_of(video) -> torch.Tensor:
    """(T, H, W, 3), 0..255, as the file has them."""
    with av.open(str(video)) as container:
        return torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))


def latents_of(output: Path) -> torch.Tensor | None:
    """All latents of the take that was made in `output`; of the puppet's none are left."""
    chunks = [load_file(path)["latents"] for path in sorted(output.glob("lodestar_takes/take-*/chunk_*.safetensors"))]
    return torch.cat(chunks, 2) if chunks else None


def place(comfyui_version: str) -> str:
    """What decides the last bits: the processor and what PyTorch may use of it, the versions of what computes."""
    return (f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, ComfyUI {comfyui_version}, PyTorch "
            f"{torch.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    known = dict(line.split("\t", 1) for line in lines if line.startswith(("model name", "cpu family", "model\t")))
    return " ".join(known[name].strip("\t: ") for name in sorted(known, reverse=True))


def sha256(tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def sampled(latents, frames) -> dict[str, torch.Tensor]:
    """A few numbers of every latent frame, and the means of sixteenths of every picture."""
    few = {} if latents is None else {"latents": latents[:, ::4, :, ::3, ::3].contiguous()}
    return {**few, "frames": mean_of_parts(frames).round().to(torch.uint8).contiguous()}


def mean_of_parts(frames):
    return torch.nn.functional.adaptive_avg_pool2d(frames.movedim(-1, 1).float(), 4)


def check(name: str, latents, frames, where: str, same_place: bool = True) -> None:
    """`same_place`: False where a part was made on another processor than this one."""
    known = json.loads(HASHES.read_text(encoding="utf-8")).get(where, {}).get(name) if same_place else None
    if known:
        assert {"latents": latents is not None and sha256(latents), "frames": sha256(frames)} == known
    wanted = {key.rpartition(".")[2]: value for key, value in load_file(TENSORS).items() if key.startswith(name + ".")}
    found = sampled(latents, frames)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
    if latents is not None:
        apart = (found["latents"] - wanted["latents"]).abs().max()
        assert apart <= rounding.sampled(BLOCKS, STEPS, scale=LATENT_SIZE), f"latents are {apart:g} apart"
    apart = (found["frames"].float() - wanted["frames"].float()).abs().mean((1, 2, 3)).max()
    assert apart <= LEVELS, f"pictures are {apart:g} of 255 apart"


def record(name: str, latents, frames, where: str) -> None:
    """Puts this take on record and ends the test as skipped: recorded is not tested."""
    known = json.loads(HASHES.read_text(encoding="utf-8")) if HASHES.exists() else {}
    known.setdefault(where, {})[name] = {"latents": latents is not None and sha256(latents), "frames": sha256(frames)}
    HASHES.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    if RECORD == "tensors":
        tensors = load_file(TENSORS) if TENSORS.exists() else {}
        save_file(tensors | {f"{name}.{key}": value for key, value in sampled(latents, frames).items()}, TENSORS)
    pytest.skip(f"recorded {name} on {where}")


@pytest.mark.parametrize("name", TAKES)
def test_a_take_is_the_one_on_record(studio, comfyui_version, name):
    frames = getattr(studio, name)()
    latents = latents_of(studio.output)
    (record if RECORD else check)(name, latents, frames, place(comfyui_version))


# ---------------------------------------------------------------- a take that an older pack began

BEGUN = "longcat_base"      # whose chunks continue from decoded frames, which a resumed take must decode again


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def write_lines(folder: Path, lines: list[dict]) -> None:
    """A manifest whose every line sums up those before it."""
    total, text = "", ""
    for line in lines:
        parts = total, json.dumps({key: value for key, value in line.items() if key != "sum"}, sort_keys=True)
        total = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
        text += json.dumps({**line, "sum": total}) + "\n"
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")


def record_half(output: Path, where: str) -> None:
    """The first chunk of the take in `output`, as a run that died in the second one leaves it."""
    if RECORD != "tensors":
        pytest.skip("the half-finished take on record stays")
    whole, = output.glob("lodestar_takes/take-*")
    shutil.rmtree(HALF, ignore_errors=True)
    HALF.mkdir()
    for path in whole.glob("chunk_0000.*"):
        shutil.copyfile(path, HALF / path.name)
    write_lines(HALF, lines_of(whole)[:2])
    (HALF / "place.txt").write_text(where + "\n", encoding="utf-8")
    pytest.skip(f"recorded a half-finished take on {where}")


def test_a_take_begun_by_an_older_pack_ends_with_the_same_frames(studio, comfyui_version, caplog):
    """Other code makes another take by design, says why and leaves the begun one alone; by hand under the new code's
    fingerprints, what is on disk is read and continued."""
    where, first = place(comfyui_version), studio.output
    if not RECORD:
        shutil.copytree(HALF, first / "lodestar_takes" / "begun")
    with caplog.at_level(logging.INFO, "lodestar"):
        frames = getattr(studio, BEGUN)()
    if RECORD:
        record_half(first, where)
    same_place = where == (HALF / "place.txt").read_text(encoding="utf-8").strip()
    today, = first.glob("lodestar_takes/take-*")
    head, begun = lines_of(HALF)
    now, before = lines_of(today)[1]["chunk"]["fingerprint"], begun["chunk"]["contract"]
    changed = [name for name in now if now[name] != before.get(name)]
    check(BEGUN, latents_of(first), frames, where, bool(changed) or same_place)
    assert all(name in caplog.text for name in changed)
    for path in HALF.iterdir():
        assert (first / "lodestar_takes" / "begun" / path.name).read_bytes() == path.read_bytes()

    studio.output = first / "again"
    folder = studio.output / "lodestar_takes" / today.name
    shutil.copytree(HALF, folder)
    write_lines(folder, [head, {"chunk": {**begun["chunk"], "contract": now}}])
    for path in folder.glob("chunk_*"):
        os.utime(path, (0, 0))
    frames = getattr(studio, BEGUN)()
    check(BEGUN, latents_of(studio.output), frames, where, same_place)
    kept = [path.name for path in folder.glob("chunk_*") if path.stat().st_mtime == 0]
    assert sorted(kept) == ["chunk_0000.mp4", "chunk_0000.safetensors"], "the begun chunk was made again"
