"""HuMo's golden cases: whisper's features, windows, references, velocities, guidance and UniPC.

Features, windows, concat channels, guidance and solver are the pack's; HumoWanModel is ComfyUI's, and what needs it is
left out elsewhere. Both variants are called as they were trained: the references are slots of the clip itself.
"""
import json
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import golden
import golden_humo_graph
import golden_recipe
import humo_grey
import numpy
import torch
from torch import Tensor


@dataclass
class HuMo(golden_recipe.Family):
    @cached_property
    def more(self) -> dict:
        return json.loads((self.fixtures.folder / "audio_more.json").read_text(encoding="utf-8"))

    def cases(self) -> dict[str, golden.Case]:
        found: dict[str, golden.Case] = {"lost_steps": self.lost_steps, "windows": self.windows, "unipc": self.solver,
                                         "mel": self.mel}
        found |= {f"features_{name}": partial(self.features, name) for name in (*self.info["audio"], *self.more)}
        found |= {f"schedule_{name}": partial(self.schedule, name) for name in self.info["schedule"]}
        for name, info in self.info["runs"].items():
            run = Run(self, name, info)
            found |= {f"{name}_{part}": case for part, case in run.cases().items()}
        return found

    # ------------------------------------------------------------ sound

    def wave(self, tag: str, samples: int, crc: int) -> Tensor:
        """config.json's "audio_recipe"."""
        state = numpy.random.RandomState((zlib.crc32(tag.encode()) ^ self.config["base_seed"]) & 0xffffffff)
        noise, points = state.randint(-32768, 32768, samples), -(-samples // 8000) + 1
        level = state.randint(0, 1001, points)
        level[state.randint(0, 4, points) == 0] = 0
        place = numpy.arange(samples)
        index, part = place // 8000, place % 8000
        envelope = (level[index] * (8000 - part) + level[index + 1] * part) // 8000
        envelope = numpy.where((place >= 480_000) & (samples > 480_000), envelope // 16, envelope)
        sound = (noise * envelope // 2000).astype("int16")
        if zlib.crc32(sound.tobytes()) != crc:
            raise ValueError(f"{tag}: the recipe gives another sound here")
        return torch.from_numpy(sound.astype("float32") / 32768)

    @cached_property
    def encoder(self) -> torch.nn.Module:
        """transformers' whisper encoder, or ComfyUI's class in this size."""
        sizes, weights = self.config["whisper"], self.weights("whisper_encoder", 2)
        if self.host.latent_format is None:
            from transformers import WhisperConfig
            from transformers.models.whisper.modeling_whisper import WhisperEncoder
            network = WhisperEncoder(WhisperConfig(**{
                key: sizes[key] for key in ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim",
                                            "num_mel_bins", "max_source_positions")}))
        else:
            from comfy.audio_encoders.whisper import AudioEncoder
            network = AudioEncoder(sizes["num_mel_bins"], sizes["max_source_positions"], sizes["d_model"],
                                   sizes["encoder_attention_heads"], sizes["encoder_layers"],
                                   operations=self.host.operations)
        network.load_state_dict(weights)
        return network.eval()

    def sound(self, name: str) -> Tensor:
        info = {**self.info["audio"], **self.more}[name]
        return self.wave(name, info["samples"], info["int16_crc32"])

    def encode(self, name: str) -> Tensor:
        """(frames, 5, C)."""
        from lodestar.backbones.audio.families import Whisper
        from lodestar.backbones.humo.features import encode_speech
        return torch.cat(list(encode_speech(Whisper(self.encoder), torch.device("cpu"), self.sound(name))))

    def features(self, name: str):
        found = self.encode(name)
        stored = {**self.load("audio"), **self.load("audio_more")}
        parts = {"features": slice(None), "features_first": slice(8), "features_last": slice(-8, None)}
        pairs = {role: (found[part], stored[f"{name}.{role}"]) for role, part in parts.items()
                 if f"{name}.{role}" in stored}
        return {**pairs, "source_position": (self.places(name, len(found)), stored[f"{name}.source_position"])}

    def places(self, name: str, steps: int) -> Tensor:
        """Which row of the encoder each step reads."""
        from lodestar.techniques.audio.features import halve_rate
        rows = 2 * {**self.info["audio"], **self.more}[name]["video_frames"]
        return torch.cat(list(halve_rate([torch.arange(float(rows))], steps, rows)))

    def mel(self):
        """Each stretch of 30 s has its own floor."""
        from lodestar.backbones.audio.families import Whisper
        from lodestar.techniques.audio.segments import Segment
        family, stored, pairs = Whisper(self.encoder), self.load("audio"), {}
        whole = Segment(0, family.segment_frames, 0, family.segment_frames)
        for name in self.info["audio"]:
            clips = [family.open(piece[None], torch.device("cpu"), [whole])
                     for piece in self.sound(name).split(480_000)]
            log = torch.cat([clip.log_mel(0, family.segment_frames).clamp(min=clip.floor) for clip in clips], 2)
            log = log[0] / 4 + 1
            parts = {"mel_first": log[:, :24], "mel_join": log[:, 2988:3012], "mel_tail": log[:, -8:]}
            pairs |= {f"{name}.{part}": (value, stored[f"{name}.{part}"]) for part, value in parts.items()
                      if f"{name}.{part}" in stored}
        return pairs

    def lost_steps(self):
        from lodestar.techniques.audio.talk_windows import steps_of_samples
        info = self.info["interpolation_rows"]
        first, last = info["frames_checked"]
        short = [frames for frames in range(first, last + 1) if steps_of_samples(2 * frames, 50, 25) < frames]
        return {"frames": (torch.tensor(short), torch.tensor(info["frames_where_one_row_is_lost"]))}

    def windows(self):
        from lodestar.techniques.audio.talk_windows import humo_steps
        pairs = {}
        for index, info in enumerate(self.info["windows"]["cases"]):
            steps = humo_steps(info["frame0"], len(info["table"]))
            steps = torch.where(steps < info["rows"], steps, -1)
            pairs[str(index)] = steps, torch.tensor(info["table"])
        return pairs

    # ------------------------------------------------------------ schedule and solver

    def schedule(self, name: str):
        from lodestar.techniques.flow_schedules import humo_schedule
        steps, shift = (int(part.lstrip("nshift")) for part in name.split("_"))
        sigmas, stored = humo_schedule(steps, shift), self.load("schedule")
        return {"sigmas": (sigmas, stored[f"{name}.sigmas"]),
                "timesteps": ((sigmas[:-1] * 1000).long(), stored[f"{name}.timesteps"])}

    def solver(self):
        """The solver alone, given the velocities: the state before each step is upstream's after the last."""
        from lodestar.techniques.unipc import sample
        stored = self.load("schedule")
        velocities, sigmas, states = stored["unipc.v"], stored["unipc.sigmas"], []

        def clean(state: Tensor, sigma: Tensor) -> Tensor:
            states.append(state)
            return state - sigma * velocities[len(states) - 1]

        last = sample(clean, stored["unipc.x"][0], sigmas)
        return {"states": (torch.stack([*states, last]), stored["unipc.x"])}

    # ------------------------------------------------------------ ComfyUI's model

    @cached_property
    def networks(self) -> dict:
        return {}

    def network(self, variant: str):
        try:
            from comfy.ldm.wan.model import HumoWanModel
        except ImportError as error:
            raise golden.LeftOut("needs ComfyUI's HumoWanModel") from error
        if variant not in self.networks:
            sizes = {key: self.config["model"]["common"][key] for key in
                     ("dim", "num_heads", "ffn_dim", "num_layers", "text_dim", "text_len", "freq_dim", "out_dim")}
            network = HumoWanModel(in_dim=self.config["model"][variant]["in_dim"], operations=self.host.operations,
                                   **sizes)
            network.load_state_dict(self.weights(variant, {"17b": 0, "1.7b": 1}[variant]))
            self.networks[variant] = network.eval()
        return self.networks[variant]

    @cached_property
    def models(self) -> dict:
        return {}

    def model(self, variant: str):
        """A MODEL of ComfyUI's."""
        self.network(variant)       # where there is none, the case is left out
        if variant not in self.models:
            weights = self.weights(variant, {"17b": 0, "1.7b": 1}[variant])
            self.models[variant] = golden_humo_graph.load(self, variant, weights)
        return self.models[variant]

    def tensor(self, name: str, shape: tuple[int, ...], scale: float) -> Tensor:
        """config.json's "tensor_recipe", which has no check."""
        state = numpy.random.RandomState((zlib.crc32(name.encode()) ^ (self.config["base_seed"] + 3)) & 0xffffffff)
        return torch.from_numpy((scale * (2 * state.random_sample(shape) - 1)).astype("float32"))


@dataclass
class Run:
    fixtures: HuMo
    name: str
    info: dict

    @property
    def large(self) -> bool:
        return self.info["model"] == "17b"

    @property
    def reference(self) -> bool:
        return self.info["mode"] == "TIA"

    @property
    def slots(self) -> int:
        return self.info["noise_shape"][1] - self.info["latents"]

    def stored(self, role: str) -> Tensor | None:
        return self.fixtures.load("conditioning").get(f"{self.name}.{role}")

    def cases(self) -> dict:
        dit = self.fixtures.load("dit")
        found = {"conditioning": self.conditioning, "velocities": self.velocities, "sample": self.sample}
        if self.name != "17b_tia_two_refs":     # whose grey video varies over the picture; ComfyUI's does not
            found["graph"] = self.sample_in_graph
        found |= {"taps": self.taps} if f"{self.name}.tap.x" in dit else {}
        return found | ({"anchors": self.anchors} if f"{self.name}.anchor.d1" in dit else {})

    # ------------------------------------------------------------ what goes in

    def pictures(self) -> list[Tensor]:
        from lodestar.backbones.images import fit_on_white
        inputs, config = self.fixtures.load("inputs"), self.fixtures.config
        fitted = [fit_on_white(inputs[name].float() / 255, config["width"], config["height"])
                  for name in ("picture_a", "picture_b")]
        wanted = [self.stored(f"picture{slot}").float() / 255 for slot in range(self.slots)]    # a run may turn them
        return [min(fitted, key=lambda picture: (picture - given).norm().item()) for given in wanted]

    def references(self) -> Tensor | None:
        """(1, 16, R, h, w), by the stand-in for the VAE."""
        if not self.reference:
            return None
        matrix = self.fixtures.tensor("vae_matrix", (16, 3), 1.2)
        offset = self.fixtures.tensor("vae_offset", (16,), 0.6)
        latents = []
        for picture in self.pictures():
            mean = torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1)[None] * 2 - 1, 8)[0]
            latents.append(torch.einsum("oc,chw->ohw", matrix, mean) + offset[:, None, None])
        return torch.stack(latents, 1)[None]

    def grey(self) -> Tensor:
        _, frames, height, width = self.info["noise_shape"]
        if self.name == "17b_tia_two_refs":
            return self.fixtures.load("inputs")["zero_vae_varying"][None, :, :frames]
        return humo_grey.latents(frames, height, width)

    def concat(self, reference: bool) -> Tensor | None:
        from lodestar.backbones.humo.references import concat_channels
        if not self.large:
            return None
        return concat_channels(self.grey(), self.references() if reference else None, self.slots)

    def speech(self) -> Tensor:
        """(1, T + R, 8, 5, C), as narrow as the encoder."""
        from lodestar.techniques.audio.talk_windows import humo_steps, humo_windows
        windows = humo_windows(self.fixtures.load("audio")["short.features"], humo_steps(0, self.info["latents"]))
        return torch.cat([windows, windows.new_zeros(self.slots, *windows.shape[1:])])[None]

    def conditioning(self):
        pairs = {}
        if (windows := self.stored("audio_windows")) is not None:
            pairs["audio_windows"] = self.speech()[0], windows
        if self.reference:
            for index, picture in enumerate(self.pictures()):
                pairs[f"picture{index}"] = (picture * 255).round().to(torch.uint8), self.stored(f"picture{index}")
            pairs["ref_latent"] = self.references()[0], self.stored("ref_latent")
        if self.large:
            pairs["y0"] = self.concat(self.reference)[0], self.stored("y0")
        if self.stored("y1") is not None:
            pairs["y1"] = self.concat(False)[0], self.stored("y1")
        return pairs

    # ------------------------------------------------------------ calls

    def predict(self, x: Tensor, timestep: float, prompt: bool, speech: bool, reference: bool, options=None) -> Tensor:
        """A velocity (16, T + R, h, w)."""
        network, inputs = self.fixtures.network(self.info["model"]), self.fixtures.load("inputs")
        whole = x[None].clone()
        if self.large:
            whole = torch.cat([whole, self.concat(reference)], 1)
        else:
            slot = self.references() if reference else torch.zeros_like(whole[:, :, -self.slots:])
            whole[:, :, -self.slots:] = slot
        audio = self.speech()
        audio = audio.repeat(*[1] * 4, 1280 // audio.shape[-1]) if speech else \
            audio.new_zeros(*audio.shape[:-1], 1280)
        return network(whole, torch.tensor([float(timestep)]), inputs["context_pos" if prompt else "context_neg"],
                       audio_embed=audio, transformer_options=options or {})[0]

    def call(self, x: Tensor, step: int, info: dict) -> Tensor:
        reference = info["y"] == "ref" or info["x_ref_slot"] == "ref"
        return self.predict(x, self.info["timesteps"][step], info["context"] == "pos", info["audio"] == "given",
                            reference)

    def velocities(self):
        sample, dit = self.fixtures.load("sample"), self.fixtures.load("dit")
        states = [sample[f"{self.name}.noise"], *sample[f"{self.name}.x_after_step"]]
        return {f"{step}.{index}": (self.call(states[step], step, info), dit[f"{self.name}.step{step}.call{index}"])
                for step in (0, 1) for index, info in enumerate(self.info["per_step"][step])}

    def sample(self):
        from lodestar.techniques.flow_schedules import humo_schedule
        from lodestar.techniques.unipc import sample
        stored, steps = self.fixtures.load("sample"), self.info["timesteps"]
        states, guided = [], []

        def clean(state: Tensor, sigma: Tensor) -> Tensor:
            timestep = steps[len(guided)]
            states.append(state)
            guided.append(sum(weight * self.predict(state, timestep, *made)
                              for made, weight in self.weights(timestep).items()))
            return state - sigma * guided[-1]

        last = sample(clean, stored[f"{self.name}.noise"], humo_schedule(len(steps), self.info["shift"]))
        after = torch.stack([*states[1:], last])
        own = slice(self.info["latents"])       # the slots are overwritten at each call and mean nothing in the 1.7B
        return {"guided": (torch.stack(guided)[:, :, own], stored[f"{self.name}.guided"][:, :, own]),
                "x_after_step": (after[:, :, own], stored[f"{self.name}.x_after_step"][:, :, own]),
                "latents": (last[:, own], stored[f"{self.name}.latents"])}

    def sample_in_graph(self):
        return golden_humo_graph.sample(self, self.fixtures.model(self.info["model"]))

    def weights(self, timestep: int) -> dict:
        """By what a prediction is really made from: the prompt, the speech, the reference."""
        from lodestar.backbones.humo.guidance import large_chain, small_chain
        from lodestar.techniques.speech_guidance import shares
        info, speech = self.info["scales"], "no_audio" not in self.name
        if self.large:
            chain = large_chain(info["scale_t"], info["scale_a"], timestep, self.reference, info["step_change"])
        else:
            chain = small_chain(info["scale_t"], info["scale_a"], info["scale_i"])
        chain = chain.among(speech, self.reference)
        return dict(zip(chain.predictions, shares(*chain.scales), strict=True))

    # ------------------------------------------------------------ inside one call

    def taps(self):
        stored, info = self.fixtures.load("dit"), self.fixtures.info["taps"][self.name]
        network, found, hooks = self.fixtures.network(self.info["model"]), {}, []
        hooks.append(network.patch_embedding.register_forward_hook(lambda _, __, out: found.update(patch=out)))
        hooks.append(network.audio_proj.register_forward_hook(lambda _, __, out: found.update({
            "audio_tokens_every_48th": out[..., ::48], "audio_tokens_latent1": out[0, 1],
            "audio_tokens_ref_row": out[0, -1]})))
        for index, block in enumerate(network.blocks):
            attention = block.audio_cross_attn_wrapper
            hooks.append(attention.register_forward_hook(
                lambda _, given, out, index=index: found.update({f"audio_in.{index}": given[0],
                                                                 f"audio_out.{index}": out})))
            hooks.append(block.register_forward_hook(
                lambda _, __, out, index=index: found.update({f"block_out.{index}": out})))
        try:
            found["velocity"] = self.predict(stored[f"{self.name}.tap.x"], info["timestep"], True, True, self.reference)
        finally:
            for hook in hooks:
                hook.remove()
        found["x"] = stored[f"{self.name}.tap.x"]
        start = f"{self.name}.tap."
        pairs = {name.removeprefix(start): (found[name.removeprefix(start)], value) for name, value in stored.items()
                 if name.startswith(start)}
        middle = self.predict(stored[f"{start}x"], 412, True, True, self.reference)
        return {**pairs, "mid": (middle, stored[f"{self.name}.mid.velocity"])}

    def anchors(self):
        """The references at other times than behind the last latent."""
        stored, info = self.fixtures.load("dit"), self.fixtures.info["taps"][self.name]
        pairs, latents = {}, self.info["latents"]
        for name in self.fixtures.info["anchor_positions"][self.name]:
            shift, distance = (100, 1) if name == "shift100" else (0, int(name[1:]))
            times = [shift + time for time in (*range(latents), *(latents - 1 + distance + slot
                                                                  for slot in range(self.slots)))]
            with self.placed(times):
                made = self.predict(stored[f"{self.name}.tap.x"], info["timestep"], True, True, self.reference)
            pairs[name] = made, stored[f"{self.name}.anchor.{name}"]
        return pairs

    @contextmanager
    def placed(self, times: list[float]):
        """RoPE frequencies at `times` in place of the model's own."""
        from lodestar.techniques.rope import rope_frequencies
        network, (_, _, height, width) = self.fixtures.network(self.info["model"]), self.info["noise_shape"]
        embedder = network.rope_embedder
        network.rope_encode = lambda *_, **__: rope_frequencies(times, height // 2, width // 2, embedder.axes_dim,
                                                         theta=embedder.theta)
        try:
            yield
        finally:
            del network.rope_encode


def cases_of(fixtures: golden.Fixtures, host: golden.Host) -> dict[str, Callable] | None:
    if not (fixtures.folder / "audio_more.json").is_file():
        return None
    return HuMo(fixtures, host).cases()
