"""OmniAvatar's golden cases: a folder of flat files, known by its chunk_plan.json, with no cases.json.

What needs ComfyUI's WanModel (forwards and loops) is left out where there is none. The sampling loop is
Euler's, guidance and layers are the pack's.
"""
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import golden
import torch
from torch import Tensor

MARK, STEPS = "chunk_plan.json", "scheduler.safetensors"
GUIDED = {"velocity_cfg_4_5": (4.5, 4.5), "velocity_cfg_text4_5_audio3": (4.5, 3.0)}
PREDICTED = {"velocity": ("context", True), "velocity_uncond_audio": ("context", False),
             "velocity_uncond_text_audio": ("negative_context", False)}
LOOPS = {"c0": ("c0", 4.5, 4.5, 1), "c1": ("c1", 4.5, 4.5, 2), "c1_split": ("c1", 4.5, 3.0, 2),
         "c1_nocfg": ("c1", 1.0, 1.0, 2)}       # inputs, text scale, audio scale, given latents


@dataclass
class OmniAvatar:
    """The folder as cases: each method gives what is expected of one, and what computes it."""
    fixtures: golden.Fixtures
    host: golden.Host
    built: dict = field(default_factory=dict)

    def load(self, name: str) -> dict:
        return self.fixtures.load(name)

    @property
    def config(self) -> dict:
        return self.fixtures.config

    def cases(self) -> dict[str, golden.Case]:
        plans = json.loads((self.fixtures.folder / MARK).read_text(encoding="utf-8"))
        steps = sorted(name.split(".", 1)[1] for name in self.load(STEPS) if name.startswith("sigmas"))
        found = {"audio_path": self.audio_path, "wav2vec": self.wav2vec, "lora_layout": self.lora_layout}
        found |= {f"chunk_plan_{index}": partial(self.chunk_plan, plan) for index, plan in enumerate(plans)}
        found |= {f"scheduler_{name}": partial(self.schedule, name) for name in steps}
        found |= {"dit_chunk0": partial(self.forward, "dit_chunk0"), "dit_chunk1": self.guided,
                  "lora_case": partial(self.forward, "lora_case")}
        found |= {f"sample_{name}": partial(self.loop, name) for name in LOOPS}
        return {name: partial(pairs, case) for name, case in found.items()}

    # ------------------------------------------------------------ what needs no network of Wan's

    def audio_path(self):
        case, weights = self.load("audio_path.safetensors"), self.load("dit_weights.safetensors")

        def run():
            from lodestar.networks.omniavatar.audio import AudioPack, add_to_tokens, pack_frames
            own = {name.removeprefix("audio_proj."): weight for name, weight in weights.items()
                   if name.startswith("audio_proj.")}
            pack = AudioPack(own["proj.weight"].shape[1], own["proj.weight"].shape[0], torch.nn)
            pack.load_state_dict(own)
            packed = pack(pack_frames(case["audio_emb"]))
            tokens = packed.new_zeros(1, 3 * packed.shape[1], case["residual"].shape[-1])
            loud = [torch.nn.functional.linear(packed, *(weights[f"audio_cond_projs.{index}.{part}"]
                                                          for part in ("weight", "bias")))
                     for index in range(case["residual"].shape[1])]
            return {"packed": packed,
                    "residual": torch.stack([add_to_tokens(tokens, residual)[:, 1::3] for residual in loud], 1)}

        return {name: case[name] for name in ("packed", "residual")}, run

    def wav2vec(self):
        case, info = self.load("wav2vec.safetensors"), self.config["files"]["wav2vec"]

        def run():
            from lodestar.backbones.audio.families import Wav2Vec2
            from lodestar.backbones.omniavatar.features import encode_speech, prepare_speech
            from transformers import Wav2Vec2Config, Wav2Vec2Model
            network = Wav2Vec2Model(Wav2Vec2Config.from_dict(info["config"])).eval()
            network.load_state_dict({name[2:]: weight for name, weight in case.items() if name.startswith("w.")})
            family = Wav2Vec2(network, info["config"]["do_stable_layer_norm"], 0)
            frames = info["padded_frames"]
            padded = prepare_speech(case["waveform"], frames)
            layers = [torch.cat(parts, 1) for parts in zip(*encode_speech(family, torch.device("cpu"), padded, frames),
                                                           strict=True)]
            return {"normalized": padded[:len(case["waveform"])], "padded": padded[None],
                    "features": torch.cat([layers[-1], *layers], -1)[0]}

        return {name: case[name] for name in ("normalized", "padded", "features")}, run

    def lora_layout(self):
        """The layout merged into the base: the layers that have a pair, and those that it brings whole."""
        weights, published = self.load("dit_weights.safetensors"), self.load("lora_checkpoint.safetensors")
        info = self.config["files"]["lora_checkpoint"]
        scale = info["lora_alpha"] / info["lora_rank"]
        down = {name: half for name, half in published.items() if "lora_A" in name}
        expected = {name.replace("lora_A.default.", ""): weights[name.replace("lora_A.default.", "")] + scale *
                    (published[name.replace("lora_A", "lora_B")] @ half) for name, half in down.items()}
        expected |= {name: weight for name, weight in published.items() if "lora_" not in name}
        return expected, lambda: {name: self.merged()[name] for name in expected}

    def base(self) -> dict:
        """Wan alone: the full weights without what OmniAvatar adds."""
        weights = {name: weight for name, weight in self.load("dit_weights.safetensors").items()
                   if not name.startswith("audio_")}
        patch = weights["patch_embedding.weight"]
        return {**weights, "patch_embedding.weight": patch[:, :self.config["config"]["out_dim"]]}

    def merged(self) -> dict:
        """The base with the published layers, and with the pairs as any LoRA loader adds them."""
        from lodestar.networks.omniavatar.weights import check_base, read_published
        published = read_published(self.load("lora_checkpoint.safetensors"))
        check_base(self.base(), published)
        weights, pairs = {**self.base(), **published.whole}, published.ordinary_pairs(prefix="")
        for path, (down, up) in published.pairs.items():
            scale = pairs[f"{path}.alpha"] / len(pairs[f"{path}.lora_down.weight"])
            weights[f"{path}.weight"] = weights[f"{path}.weight"] + scale * (up @ down)
        return weights

    def chunk_plan(self, info: dict):
        expected = {"padded_frames": info["padded_frames"], "frames_per_chunk": info["frames_per_chunk"],
                    "padded_samples": info["padded_samples"], "output_frames": info["output_frames"],
                    "chunks": len(info["chunks"])}
        for index, chunk in enumerate(info["chunks"]):
            expected |= {f"{name}.{index}": chunk[name] for name in chunk}
        return {name: torch.tensor(value) for name, value in expected.items()}, lambda: {
            name: torch.tensor(value) for name, value in planned(info).items()}

    def schedule(self, name: str):
        case = self.load(STEPS)
        steps, shift = (int(part.lstrip("nshift")) for part in name.split("."))
        return ({role: case[f"{role}.{name}"] for role in ("sigmas", "timesteps")},
                lambda: {"sigmas": sigmas(steps, shift)[:-1], "timesteps": sigmas(steps, shift)[:-1] * 1000})

    # ------------------------------------------------------------ on ComfyUI's WanModel

    def model(self, name: str):
        if self.host.latent_format is None:
            raise golden.LeftOut("needs ComfyUI's WanModel")
        if name not in self.built:
            weights = self.merged() if name == "lora_case" else self.load("dit_weights.safetensors")
            self.built[name] = wan_network(self.host, weights, self.config["config"])
        return self.built[name]

    def forward(self, name: str):
        case = self.load(f"{name}.safetensors")
        expected = {role: value for role, value in case.items() if role.startswith(("velocity", "block_in", "head_in"))}

        def run():
            taps: dict[str, Tensor] = {}
            velocity = predict(self.model(name), case, case["x"], case["timestep"], case["context"], case["y"],
                               case["audio_emb"], taps)
            return {"velocity": velocity, **taps}

        return expected, run

    def guided(self):
        case = self.load("dit_chunk1.safetensors")

        def run():
            from lodestar.techniques import speech_guidance
            made = {role: predict(self.model("dit"), case, case["x"], case["timestep"], case[text], case["y"],
                                  case["audio_emb"] * loud) for role, (text, loud) in PREDICTED.items()}
            # the text's scale is between predictions without audio, the audio's between predictions with text
            for role, scales in GUIDED.items():
                weights = speech_guidance.shares(*reversed(scales))
                made[role] = speech_guidance.combine_predictions([made[name] for name in PREDICTED], weights)
            return made

        return {name: case[name] for name in (*PREDICTED, *GUIDED)}, run

    def loop(self, name: str):
        case = self.load("sample.safetensors")
        inputs, text_scale, audio_scale, given = LOOPS[name]

        def run():
            from lodestar.techniques import speech_guidance
            info = self.config["files"]["sample"]
            weights = speech_guidance.shares(audio_scale, text_scale)
            latents, known = case["noise"].clone(), case[f"{name}.lat"][:, :, :given]
            steps = sigmas(info["steps"], info["shift"])
            for sigma, after in zip(steps, steps[1:], strict=False):
                latents = torch.cat([known, latents[:, :, given:]], 2)
                made = [predict(self.model("dit"), case, latents, sigma[None] * 1000, case[text], case[f"y_{inputs}"],
                                case[f"audio_{inputs}"] * loud) if weight else None
                        for (text, loud), weight in zip(PREDICTED.values(), weights, strict=True)]
                latents = latents + (after - sigma) * speech_guidance.combine_predictions(made, weights)
            return {"latents": torch.cat([known, latents[:, :, given:]], 2)}

        return {"latents": case[f"{name}.latents"]}, run


def pairs(case: Callable[[], tuple[dict, Callable[[], dict]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """{role: (computed, wanted)} of one case."""
    expected, run = case()
    made = run()
    return {role: (made[role], wanted) for role, wanted in expected.items()}


def planned(info: dict) -> dict:
    """Upstream's chunk plan in the pack's terms."""
    from lodestar.networks.omniavatar import settings
    from lodestar.techniques.timeline import Timeline
    clock = Timeline(Fraction(settings.FPS), settings.RATIO)
    height, width = info["image_hw"]
    speech = clock.frames_for_samples(info["samples"], 16_000)
    length, overlap = settings.chunk_frames(width, height, info["max_tokens"]), info["overlap_frame"]
    padded = settings.speech_frames(speech, length, overlap)
    found = {"frames_per_chunk": length, "padded_frames": padded, "padded_samples": padded * 16_000 // settings.FPS,
             "output_frames": speech + 1}
    firsts = list(range(0, padded - overlap + 1, length - overlap))
    for index, first in enumerate(firsts):
        encoded = overlap if index else 1
        prefix, latents = clock.latents_for_frames(encoded), clock.latents_for_frames(length)
        found |= {f"prefix_latents.{index}": prefix, f"latents.{index}": latents, f"encoded_frames.{index}": encoded,
                  f"mask.{index}": [0] * prefix + [1] * (latents - prefix),
                  f"audio.{index}": list(range(first, first + length))}
    return found | {"chunks": len(firsts)}


def sigmas(steps: int, shift: float) -> Tensor:
    """Upstream's, with the terminal 0; ComfyUI's `simple` scheduler gives them where the steps divide 1000."""
    from lodestar.techniques.flow_schedules import shift_sigmas
    return shift_sigmas(torch.linspace(1, 0, steps + 1), shift)


def predict(network, case: dict, x: Tensor, timestep: Tensor, context: Tensor, y: Tensor, audio: Tensor,
            taps: dict | None = None) -> Tensor:
    """The velocity; into `taps` go what enters each block and what leaves the last."""
    from lodestar.networks.omniavatar.audio import pack_frames
    options: dict = {}
    if taps is not None:
        options["patches_replace"] = {"dit": {("double_block", index): partial(tap, taps, index)
                                              for index in range(len(network.blocks))}}
    packed = pack_frames(audio).transpose(1, 2)[..., None, None]
    return network(torch.cat([x, y], 1), timestep, context, transformer_options=options, audio=packed)


def tap(taps: dict, index: int, values: dict, originals: dict) -> dict:
    taps[f"block_in.{index}"] = values["img"]
    made = originals["original_block"](values)
    taps["head_in"] = made["img"]
    return made


def wan_network(host: golden.Host, weights: Mapping, info: dict):
    from lodestar.backbones.omniavatar.model import OmniAvatarNetwork
    network = OmniAvatarNetwork(
        image_model="wan2.1", model_type="t2v", dim=info["dim"], in_dim=info["in_dim"], ffn_dim=info["ffn_dim"],
        out_dim=info["out_dim"], text_dim=info["text_dim"], freq_dim=info["freq_dim"], eps=info["eps"],
        num_heads=info["num_heads"], num_layers=info["num_layers"], patch_size=tuple(info["patch_size"]),
        audio_width=weights["audio_proj.proj.weight"].shape[1], audio_hidden=info["audio_hidden_size"],
        operations=host.operations, dtype=torch.float32, device="cpu")
    network.load_state_dict(weights)
    return network.eval()


def cases_of(fixtures: golden.Fixtures, host: golden.Host) -> dict[str, golden.Case] | None:
    return OmniAvatar(fixtures, host).cases() if (fixtures.folder / MARK).is_file() else None
