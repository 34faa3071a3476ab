"""InfiniteTalk's golden cases: speech, windows, the chunk loop, speakers, velocities, guidance and whole takes.

Speech attention, windows, masks, guidance and colours are the pack's; the Wan model, the model patch's weights and the
VAE are ComfyUI's, and what needs them is left out elsewhere. Whole takes are in golden_infinitetalk_takes.py.
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial

import golden
import golden_recipe
import torch
from golden_infinitetalk_takes import Take
from torch import Tensor

RATE = 16_000


@dataclass
class InfiniteTalk(golden_recipe.Family):
    built: dict = field(default_factory=dict)

    def cases(self) -> dict[str, golden.Case]:
        found: dict[str, golden.Case] = {
            "loudness": self.loudness, "frames_of_samples": self.frames, "features_norm": partial(self.features, 0),
            "features_raw": partial(self.features, None), "windows": self.windows, "tokens": self.tokens,
            "two_speakers_sound": self.two_speakers, "colour": self.colour, "apg": self.projections}
        found |= {f"schedule_{index}": partial(self.schedule, info) for index, info in enumerate(self.info["schedule"])}
        found |= {f"chunk_plan_{index}": partial(self.plan, info) for index, info in enumerate(self.info["chunk_plan"])}
        found |= {f"masks_{info['case']}": partial(self.masks, info) for info in self.info["masks"]}
        for info in self.info["sampling"]:
            take = Take(self, info)
            found |= {f"{info['name']}_{name}": case for name, case in take.cases().items()}
        return found

    # ------------------------------------------------------------ sound

    def loudness(self):
        from lodestar.techniques.audio.waveform import integrated_loudness, level_loudness
        case, pairs = self.load("audio"), {}
        pairs["wave"] = level_loudness(case["wave"], RATE), case["loudness_normalised"]
        for info in self.info["audio"]["loudness_table"]:
            if "error" in info:     # upstream stops; the pack leaves so short a sound as it is
                continue
            wave = recorded(info, self.config["base_seed"])
            loudest = level_loudness(wave, RATE).abs().max()
            pairs[info["name"]] = (torch.tensor([integrated_loudness(wave, RATE), loudest]),
                                   torch.tensor([float(info["loudness"]), info["max_abs"]]))
        return {name: (found.nan_to_num(neginf=-1e3), wanted.nan_to_num(neginf=-1e3))
                for name, (found, wanted) in pairs.items()}

    def frames(self):
        from lodestar.techniques.audio.talk_windows import steps_of_samples
        info = self.info["audio"]
        wanted = info["frames_short_of_samples_over_640"]
        short = [frames for frames in range(1, wanted[-1] + 1) if steps_of_samples(frames * 640) < frames]
        return {"frames": (torch.tensor([steps_of_samples(samples) for samples, _ in info["frames_of_samples"]]),
                           torch.tensor([frames for _, frames in info["frames_of_samples"]])),
                "short": (torch.tensor(short), torch.tensor(wanted))}

    def family(self, correction: int | None):
        from lodestar.backbones.audio.families import Wav2Vec2
        return Wav2Vec2(self.encoder, False, correction)

    @cached_property
    def encoder(self) -> torch.nn.Module:
        """transformers' own, or ComfyUI's class in this size."""
        sizes, weights = self.config["wav2vec"], self.weights("wav2vec", 2)
        if self.host.latent_format is None:
            from transformers import Wav2Vec2Config, Wav2Vec2Model
            network = Wav2Vec2Model(Wav2Vec2Config(**{key: value for key, value in sizes.items() if key != "note"}))
        else:
            from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model
            network = Wav2Vec2Model(sizes["hidden_size"], num_heads=sizes["num_attention_heads"],
                                    num_layers=sizes["num_hidden_layers"], conv_norm=False, conv_bias=False,
                                    do_normalize=False, do_stable_layer_norm=False, operations=self.host.operations)
        network.load_state_dict(weights)
        return network.eval()

    def encode(self, wave: Tensor, correction: int | None = 0) -> Tensor:
        """(N,) -> (frames, 12, C)."""
        from lodestar.backbones.infinitetalk.features import encode_speech
        pieces = encode_speech(self.family(correction), torch.device("cpu"), wave)
        return torch.cat([torch.stack([layer[0] for layer in piece], 1) for piece in pieces])

    def features(self, correction: int | None):
        case, name = self.load("audio"), "raw" if correction is None else "norm"
        return {name: (self.encode(case["wave"], correction), case[f"features_{name}"])}

    def windows(self):
        from lodestar.techniques.audio.talk_windows import frame_steps, multitalk_windows
        case, pairs = self.load("audio"), {}
        features = case["features_norm"]
        for index, info in enumerate(self.info["audio"]["chunks"]):
            if f"chunk{index}.first_part" not in case:
                continue
            first, later = multitalk_windows(features, frame_steps(*reach(info), len(features), closes(info, features)))
            pairs |= {f"first_{index}": (first[None], case[f"chunk{index}.first_part"]),
                      f"later_{index}": (later, case[f"chunk{index}.latter_part"])}
        return pairs

    def tokens(self):
        from lodestar.techniques.audio.talk_windows import frame_steps, multitalk_windows
        self.need_patch()
        from comfy.ldm.wan.model_multitalk import MultiTalkAudioProjModel
        from lodestar.backbones.infinitetalk.speech_attention import speech_tokens
        sizes, case, pairs = self.config["audio_proj_narrow"], self.load("audio"), {}
        projection = MultiTalkAudioProjModel(5, 8, sizes["blocks"], sizes["channels"], sizes["intermediate_dim"],
                                             sizes["output_dim"], operations=self.host.operations)
        projection.load_state_dict({key.removeprefix("audio_proj."): value for key, value in
                                    self.weights("audio_proj_narrow", 3).items()})
        features = case["features_norm"]
        for index, info in enumerate(self.info["audio"]["chunks"]):
            around = frame_steps(*reach(info), len(features), closes(info, features))
            for name, source in (("", features), ("zero", torch.zeros_like(features))):
                made = speech_tokens(projection, joined(*multitalk_windows(source, around))[None, None])[0]
                if name == "" and f"chunk{index}.tokens" in case:
                    pairs[f"chunk{index}"] = made, case[f"chunk{index}.tokens"]
                elif index == 0 and name:
                    pairs["zero"] = made[:2], case["zero_audio.tokens_first_two_latents"]
        return pairs

    def two_speakers(self):
        from lodestar.techniques.audio.speaker_tracks import place_tracks
        case = self.load("audio")
        waves = case["two.wave1"], case["two.wave2"]
        pairs = {}
        for person, track in enumerate(place_tracks("in turn", *waves), start=1):
            pairs[f"add{person}"] = self.encode(track), case[f"two.add.features{person}"]
        cut = min(len(wave) for wave in waves)
        for person, track in enumerate(place_tracks("together", *(wave[:cut] for wave in waves)), start=1):
            pairs[f"para{person}"] = (self.encode(track)[:, [0, 11]], case[f"two.para.features{person}_layers0_11"])
        pairs["zero"] = self.encode(torch.zeros(cut))[:, [0, 11]], case["two.zero_wave.features_layers0_11"]
        return pairs

    # ------------------------------------------------------------ numbers

    def colour(self):
        """The third frame is flat: there the authors' division by a rounding error has no number to keep."""
        from lodestar.techniques.colour_match import match_colours
        case, pairs = self.load("colour"), {}
        frames, reference = pixels(case["chunk"][0]), pixels(case["reference"][0])
        for strength in (0.0, 0.4, 1.0):
            made = match_colours(frames, reference, strength)
            pairs[str(strength)] = made[:2], pixels(case[f"out_strength_{strength}"][0])[:2]
        return pairs

    def projections(self):
        from lodestar.techniques.projected_guidance import Projection
        case, pairs = self.load("apg"), {}
        for cap in sorted({name.split(".")[0] for name in case if name.startswith("norm")}):
            projection, total = Projection(largest_norm=float(cap[4:])), None
            for call in range(3):
                total = projection.add_momentum(case[f"diff{call}"][None], total)
                pairs[f"{cap}.{call}"] = projection.project(total, case["cond"][None])[0], case[f"{cap}.call{call}"]
        return pairs

    def schedule(self, info: dict):
        from lodestar.techniques.flow_schedules import schedule
        sigmas = schedule("normal", info["steps"], info["shift"])
        return {"timesteps": (sigmas * 1000, torch.tensor(info["timesteps"]))}

    def plan(self, info: dict):
        """The loop as indices, by the pack's chunk arithmetic and windows."""
        if "error" in info:     # a take that fits one chunk, which upstream refuses and the pack makes
            return {"refused": (torch.tensor(max(info["audio_frames"]) <= info["frame_num"]), torch.tensor(True))}
        pairs = {}
        for chunk in info["chunks"]:
            for person, steps in enumerate(info["audio_frames"], start=1):
                if f"first_window_{person}" in chunk:
                    pairs |= self.slot_rows(chunk, person, steps, closes=chunk is info["chunks"][-1])
            pairs[f"overwritten_{chunk['chunk']}"] = (torch.tensor(overwritten(chunk["chunk"], info["motion_frame"])),
                                                      torch.tensor(chunk["overwritten_latents"]))
        return pairs

    @staticmethod
    def slot_rows(chunk: dict, person: int, steps: int, closes: bool) -> dict:
        from lodestar.techniques.audio.talk_windows import frame_steps
        start, end = chunk["audio_start"], chunk["audio_end"]
        around = frame_steps(start, end - start, steps, closes)
        wanted = [row for run in chunk[f"center_rows_{person}"] for row in spelled(run)]
        wanted += wanted[-1:] * (len(around) - len(wanted))     # a run of step 0: one row to the end
        name = f"{chunk['chunk']}.{person}"
        return {f"centers_{name}": (around[:, 2], torch.tensor(wanted)),
                f"first_{name}": (around[0], torch.tensor(chunk[f"first_window_{person}"])),
                f"last_{name}": (around[-1], torch.tensor(chunk[f"last_window_{person}"]))}

    def masks(self, info: dict):
        case, number = self.load("masks"), info["case"]
        latent, token = placed_masks(info["source_height_width"], info["target"], info["bbox"])
        won, positions = case[f"{number}.argmax_class"], case[f"{number}.q_position"]
        middle = (positions == 12) == (won == 2)
        return {"latent": (latent.bool(), case[f"{number}.masks_latent"].bool()),
                "token": (token.bool(), case[f"{number}.masks_token"].bool()),
                "background": (middle, torch.ones_like(middle))}

    # ------------------------------------------------------------ what needs ComfyUI's classes

    def need_patch(self) -> None:
        try:
            import comfy.ldm.wan.model_multitalk  # noqa: F401
        except ImportError as error:
            raise golden.LeftOut("needs ComfyUI's MultiTalk model patch") from error

    @cached_property
    def network(self):
        """ComfyUI's WanModel, by its own loader, and the model patch."""
        import json

        import comfy.sd
        from comfy_extras.nodes_model_patch import MultiTalkModelPatch
        weights, sizes = self.weights("model"), self.config["model"]
        speech = {key: value for key, value in weights.items() if "audio" in key or ".norm_x." in key}
        metadata = {"config": json.dumps({"transformer": {"num_heads": sizes["num_heads"],
                                                          "text_dim": sizes["text_dim"]}})}
        rest = {key: value for key, value in weights.items() if key not in speech}
        model = comfy.sd.load_diffusion_model_state_dict(rest, {"dtype": torch.float32}, metadata=metadata)
        patch = MultiTalkModelPatch(intermediate_dim=sizes["intermediate_dim"], in_dim=sizes["dim"],
                                    out_dim=sizes["audio_output_dim"], num_layers=sizes["num_layers"],
                                    operations=self.host.operations)
        patch.load_state_dict(speech)
        return model.model.diffusion_model, patch

    @cached_property
    def vae(self):
        import comfy.sd
        return comfy.sd.VAE(sd=dict(self.weights("vae", 1)), dtype=torch.float32, device=torch.device("cpu"))


def recorded(info: dict, base: int) -> Tensor:
    """The loudness table's waves."""
    import zlib

    import numpy
    if "amp" not in info:
        return torch.zeros(info["samples"])
    state = numpy.random.RandomState((zlib.crc32(info["name"].encode()) ^ base) & 0xffffffff)
    time, pitch = numpy.arange(info["samples"]) / RATE, 2 * numpy.pi * info["f0"]
    noise = state.random_sample(info["samples"]) * 2 - 1
    loud = 0.5 + 0.5 * numpy.sin(2 * numpy.pi * 2.3 * time + 0.4)
    tone = numpy.sin(pitch * time) + 0.5 * numpy.sin(3.1 * pitch * time + 1) + 0.25 * numpy.sin(7.3 * pitch * time)
    return torch.from_numpy((info["amp"] * (loud * tone + 0.15 * noise)).astype("float32"))


def reach(info: dict) -> tuple[int, int]:
    return info["audio_start"], info["frames"]


def closes(info: dict, features: Tensor) -> bool:
    return sum(reach(info)) >= len(features)


def joined(first: Tensor, later: Tensor) -> Tensor:
    """(5, L, C) and (n, 8, L, C) -> (n + 1, 8, L, C), the first one's last three empty."""
    empty = first.new_zeros(later.shape[1] - len(first), *first.shape[1:])
    return torch.cat([torch.cat([first, empty])[None], later])


def pixels(video: Tensor) -> Tensor:
    """(3, T, H, W) of -1..1 -> (T, H, W, 3) of 0..1."""
    return (video.permute(1, 2, 3, 0) + 1) / 2


def placed_masks(source: list[int], target: list[int], boxes: dict | None) -> tuple[Tensor, Tensor]:
    """Masks of both speakers and the rest on the source picture -> (3, h, w) per latent and (3, h, w) per token."""
    from lodestar.techniques.speaker_masks import box_masks, fitted_masks, token_masks
    given = boxes or {}
    masks = box_masks(*source, given.get("person1"), given.get("person2"), margin=0.05)
    fitted, (height, width) = (fitted_masks(masks, *target) > 0.5).float(), target
    sizes = (height // 8, width // 8), (height // 16, width // 16)
    latent, token = (token_masks(fitted[None], *size)[0].unflatten(-1, size) for size in sizes)
    return latent, token


def overwritten(chunk: int, motion_frames: int) -> int:
    from lodestar.techniques.timeline import Timeline
    return 1 if chunk == 0 else Timeline(Fraction(25)).latents_within_frames(motion_frames)


def spelled(run: list[int]) -> list[int]:
    """A run [first, last, step] or [first, last] -> its numbers."""
    first, last, step = (*run, 1)[:3]
    return list(range(first, last + (1 if step > 0 else -1), step)) if step else [first]


def cases_of(fixtures: golden.Fixtures, host: golden.Host) -> dict[str, Callable] | None:
    if not all((fixtures.folder / f"{name}.safetensors").is_file() for name in ("apg", "colour", "pictures", "block")):
        return None
    return InfiniteTalk(fixtures, host).cases()
