"""InfiniteTalk's golden takes: velocities of every pass, guidance steps, a block's speech, and chunks from pixels.

The loop is Euler's; chunks hand over their last frames, encoded again, as the authors' do.
"""
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

PASSES = {"velocity_cond": (True, True), "velocity_drop_text": (False, True), "velocity_uncond": (False, False),
          "velocity_drop_audio": (True, False)}      # positive text, speech


@dataclass
class Take:
    fixtures: Any       # the folder's InfiniteTalk
    info: dict

    @property
    def name(self) -> str:
        return self.info["name"]

    def case(self, chunk: int, role: str) -> Tensor:
        return self.fixtures.load("sample")[f"{self.name}.chunk{chunk}.{role}"]

    def cases(self) -> dict:
        stored = self.fixtures.load("dit")
        found = {}
        for chunk in range(self.info["chunks"]):
            steps = [step for step in range(self.info["steps"])
                     if f"{self.name}.chunk{chunk}.step{step}.x" in stored]
            found |= {f"velocity_{chunk}.{step}": partial(self.velocities, chunk, step) for step in steps}
            found |= {f"guidance_{chunk}": partial(self.guidance, chunk)} if {0, 1} <= set(steps) else {}
        if f"{self.name}.chunk1.block0.out" in self.fixtures.load("block"):
            found["block"] = self.block
        return {**found, "take": self.take}

    # ------------------------------------------------------------ one call

    @property
    def speakers(self) -> int:
        return len(self.info["audio_frames"])

    def windows(self, chunk: int, speech: bool) -> Tensor:
        """(1, speakers, T, 8, 12, C); without speech zeros of one speaker."""
        from golden_infinitetalk import joined
        from lodestar.techniques.audio.talk_windows import frame_steps, multitalk_windows
        tensors, made = self.fixtures.weights("tensors"), []
        frames, start = self.info["frame_num"], chunk * (self.info["frame_num"] - self.info["motion_frame"])
        for person in range(1, self.speakers + 1):
            features = tensors[f"audio_{self.name}_{person}"]
            around = frame_steps(start, frames, len(features), closes=chunk == self.info["chunks"] - 1)
            made.append(joined(*multitalk_windows(features, around)))
        windows = torch.stack(made)[None]
        return windows if speech else torch.zeros_like(windows[:, :1])

    def masks(self) -> Tensor:
        from golden_infinitetalk import placed_masks
        config = self.fixtures.config
        sizes = config["source_height_width"], config["pixels_height_width"]
        return placed_masks(*sizes, self.info["bbox"])[1].flatten(1)

    def attention(self, chunk: int, speech: bool):
        from lodestar.backbones.infinitetalk.speech_attention import SpeechAttention, speaker_places, speech_tokens
        patch = self.fixtures.network[1]
        tokens = speech_tokens(patch.audio_proj, self.windows(chunk, speech))
        if not speech or self.speakers == 1:
            return SpeechAttention(patch.blocks, tokens)
        return SpeechAttention(patch.blocks, tokens, 1.0, self.masks(), speaker_places(patch.blocks, tokens))

    def predict(self, x: Tensor, timestep: Tensor, chunk: int, text: bool, speech: bool, tap=None) -> Tensor:
        self.fixtures.need_patch()
        network, tensors = self.fixtures.network[0], self.fixtures.weights("tensors")
        attention = self.attention(chunk, speech)
        patches = {"attn2_patch": [attention.add_speech if tap is None else partial(tap, attention)]}
        if attention.masks is not None:
            patches["attn1_patch"] = [attention.find_speakers]
        context = tensors["context" if text else "context_null"]
        context = torch.nn.functional.pad(context, (0, 0, 0, self.fixtures.config["model"]["text_len"] - len(context)))
        mean = self.case(chunk, "clip_mean").double()
        clip = (tensors["clipA"].double() + torch.einsum("c,cnd->nd", mean, tensors["clipB"].double())).float()
        whole = torch.cat([x, self.case(chunk, "y")])[None]
        return network(whole, timestep.view(1), context[None], clip_fea=clip[None],
                       transformer_options={"patches": patches})[0]

    def velocities(self, chunk: int, step: int):
        stored, start = self.fixtures.load("dit"), f"{self.name}.chunk{chunk}.step{step}."
        return {name: (self.predict(stored[f"{start}x"], stored[f"{start}timestep"], chunk, *PASSES[name]),
                       stored[start + name]) for name in PASSES if start + name in stored}

    def block(self):
        self.fixtures.need_patch()
        from lodestar.backbones.infinitetalk.speech_attention import POSITIONS
        stored, wanted = self.fixtures.load("dit"), self.fixtures.load("block")
        found: dict[str, Tensor] = {}

        def tap(attention, kwargs: dict) -> Tensor:
            x, positions = kwargs["x"], kwargs["transformer_options"].get(POSITIONS)
            out = attention.add_speech(kwargs)
            if not found:
                found.update(x_before_norm=x[0], out=out[0] - x[0], audio_tokens=attention.tokens[0])
                found.update({} if positions is None else {"q_position": positions[0]})
            return out

        start = f"{self.name}.chunk1.step0."
        self.predict(stored[f"{start}x"], stored[f"{start}timestep"], 1, True, True, tap)
        prefix = f"{self.name}.chunk1.block0."
        return {role: (value, wanted[prefix + role]) for role, value in found.items()}

    # ------------------------------------------------------------ the loop

    def guided(self, made: dict[str, Tensor], momenta: dict[str, Tensor]) -> Tensor:
        """One step's guided velocity of its passes; `momenta` are those of the step before, and become this one's."""
        from lodestar.techniques.projected_guidance import Projection
        from lodestar.techniques.speech_guidance import combine_predictions, shares
        text, audio = self.info["text_scale"], self.info["audio_scale"]
        positive = made["velocity_cond"]
        if self.info["apg"] is None:
            if text == 1:
                return combine_predictions((positive, made["velocity_drop_audio"]), (audio, 1 - audio))
            predictions = positive, made["velocity_drop_text"], made["velocity_uncond"]
            return combine_predictions(predictions, shares(text, audio))
        projection, guided = Projection(*self.info["apg"]), positive
        for name, scale, direction in self.directions(made, text, audio):
            momenta[name] = projection.add_momentum(direction[None], momenta.get(name))
            guided = guided + (scale - 1) * projection.project(momenta[name], positive[None])[0]
        return guided

    @staticmethod
    def directions(made: dict[str, Tensor], text: float, audio: float) -> list[tuple[str, float, Tensor]]:
        if text == 1:
            return [("audio", audio, made["velocity_cond"] - made["velocity_drop_audio"])]
        return [("text", text, made["velocity_cond"] - made["velocity_drop_text"]),
                ("audio", audio, made["velocity_drop_text"] - made["velocity_uncond"])]

    @property
    def names(self) -> tuple[str, ...]:
        return ("velocity_cond", "velocity_drop_audio") if self.info["text_scale"] == 1 else \
            ("velocity_cond", "velocity_drop_text", "velocity_uncond")

    def stepped(self, x: Tensor, velocity: Tensor, step: int, held: Tensor) -> Tensor:
        sigmas = torch.tensor(self.info["timesteps"]) / 1000
        return torch.cat([held, (x + (sigmas[step + 1] - sigmas[step]) * velocity)[:, held.shape[1]:]], 1)

    def guidance(self, chunk: int):
        """The first step from the stored velocities."""
        stored, start = self.fixtures.load("dit"), f"{self.name}.chunk{chunk}.step0."
        velocity = self.guided({name: stored[start + name] for name in self.names}, {})
        moved = self.stepped(stored[f"{start}x"], velocity, 0, self.case(chunk, "motion_latent"))
        return {"x": (moved, stored[f"{self.name}.chunk{chunk}.step1.x"])}

    def sampled(self, chunk: int, held: Tensor) -> Tensor:
        x, momenta = torch.cat([held, self.case(chunk, "noise")[:, held.shape[1]:]], 1), {}
        for step, timestep in enumerate(self.info["timesteps"][:-1]):
            made = {name: self.predict(x, torch.tensor(timestep), chunk, *PASSES[name]) for name in self.names}
            x = self.stepped(x, self.guided(made, momenta), step, held)
        return x

    def take(self):
        """All chunks from pixels, each by what the pack made of the one before."""
        self.fixtures.need_patch()
        from golden_infinitetalk import pixels
        from lodestar.techniques.colour_match import match_colours
        pictures = self.fixtures.load("pictures")["cropped_uint8"].float() / 255
        last, pairs, made = self.info["motion_frame"], {}, []
        held, first = None, pictures[:1]
        for chunk, asked in enumerate(self.info["cond_frame_requests"]):
            picture = pictures[min(asked, self.info["cond_frames_available"] - 1)]
            frames = torch.full((self.info["frame_num"], *picture.shape), 0.5)
            frames[0] = picture
            concat = self.encode(frames)
            pairs[f"y_{chunk}"] = concat, self.case(chunk, "y")[4:]
            held = self.encode(picture[None]) if held is None else held
            pairs[f"motion_latent_{chunk}"] = held, self.case(chunk, "motion_latent")
            latents = self.sampled(chunk, held)
            pairs[f"latents_{chunk}"] = latents, self.case(chunk, "latents")
            decoded = self.decode(latents)
            pairs[f"decoded_{chunk}"] = decoded[:, ::8, ::8], pixels(self.case(chunk, "decoded_stride8"))
            decoded = match_colours(decoded, first, self.info["colour_strength"])
            held = self.encode(decoded[-last:].clamp(0, 1))
            made.append(decoded if chunk == 0 else decoded[last:])
        whole = torch.cat(made)[:self.info["output_frames"], ::8, ::8]
        return {**pairs, "output": (whole, pixels(self.fixtures.load("sample")[f"{self.name}.output_stride8"]))}

    def encode(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3) of 0..1 -> (16, t, h, w) in model space."""
        return self.fixtures.host.latent_format.process_in(self.fixtures.vae.encode(frames).float())[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.fixtures.vae.decode(self.fixtures.host.latent_format.process_out(latents[None]))[0].float()
