"""EverAnimate's golden takes and forwards: ComfyUI's loader and LoRA, the pack's technique, plan and session."""
import json
import tempfile
import types
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from unittest.mock import patch

import golden
import numpy
import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, HEIGHT = 48, 32


def cases_of(family) -> dict[str, golden.Case]:
    takes = Takes(family)
    cases = {"vae": takes.vae_case, "face": takes.face, "lora": takes.lora, "sample": takes.sample,
             "dit_clip0": partial(takes.forward, 0), "dit_clip1": partial(takes.forward, 1)}
    return cases


class Noise:
    """Upstream's: clip c from a generator with seed 42 c."""
    seed = 0

    def __init__(self):
        self.clip = 0

    def generate_noise(self, latent) -> Tensor:
        noise = torch.randn(latent["samples"].shape, generator=torch.Generator("cpu").manual_seed(42 * CLIPS["clip"]))
        CLIPS["clip"] += 1
        return noise


CLIPS = {"clip": 0}     # Long Take copies the noise for each chunk


class Takes:
    def __init__(self, family):
        self.family = family

    @property
    def model_folder(self):
        if self.family.host.latent_format is None:
            raise golden.LeftOut("needs ComfyUI")
        return tempfile.TemporaryDirectory()

    @cached_property
    def model(self):
        """A MODEL of the recorded weights, by ComfyUI's own loader."""
        with self.model_folder as folder:
            import comfy.sd
            sizes = self.family.config["model"]
            config = {"config": json.dumps({"transformer": {key: sizes[key] for key in ("num_heads", "text_dim")}})}
            path = Path(folder) / "animate.safetensors"
            save_file({name: weight.contiguous() for name, weight in self.family.weights("model").items()}, path,
                      metadata=config)
            try:
                model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
                remember_faces(model.model.diffusion_model.motion_encoder)
                return model
            except ZeroDivisionError as error:
                raise golden.LeftOut("this ComfyUI takes the heads from the width alone, too narrow here") from error

    @cached_property
    def vae(self):
        with self.model_folder:
            import comfy.sd
            return comfy.sd.VAE(sd=self.family.weights("vae", 1), dtype=torch.float32)

    def process_in(self, latents: Tensor) -> Tensor:
        return self.family.host.latent_format.process_in(latents)

    def pictures(self, name: str, repeat: int, frames: int) -> Tensor:
        """`frames` of a driving video (frames, H, W, 3), back and forth."""
        small = self.family.load("inputs")[name].float() / 255
        numbers = [frame % (2 * len(small) - 2) for frame in range(frames)]
        numbers = [min(number, 2 * len(small) - 2 - number) for number in numbers]
        return small[numbers].repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)

    def inputs(self):
        """Of the whole take, as Long Take's node makes them; the pictures in upstream's order."""
        from lodestar.backbones import attach
        from lodestar.host.take_inputs import TakeInputs
        from lodestar.pipelines.frames_at_times import ClipFrames
        from lodestar.pipelines.take.driving import DrivingVideo
        from lodestar.pipelines.take.plan import plan_clips
        from lodestar.techniques.persistent_latents import PersistentLatents
        from lodestar.techniques.timeline import Timeline
        info = self.family.info["sampling"][0]
        total, fps = info["frames_total"], Fraction(30)
        driving = DrivingVideo({"pose": ClipFrames(self.pictures("pose_small", 8, total), fps, "pose"),
                                "face": ClipFrames(self.pictures("face_small", 64, total), fps, "face")})
        model = attach.with_technique(self.model, PersistentLatents(info["N"], info["M"], order="upstream"))
        vision = types.SimpleNamespace(encode_image=self.see, config={"hidden_size": 1280})
        plan = plan_clips(Timeline(fps), total, 77, 4, WIDTH, HEIGHT)
        picture = self.family.load("inputs")["ref_image"].float()[None] / 255
        return TakeInputs(model, self.vae, plan, picture, driving=driving, clip_vision=vision), driving

    def see(self, picture: Tensor, crop: bool = False):
        """The fixtures' stand-in for the CLIP encoder: linear in the picture's means."""
        base = self.family.config["base_seed"]
        draw = [numpy.random.RandomState(self.seed(name, base)).random_sample(shape) for name, shape in
                (("clipA", (257, 1280)), ("clipB", (3, 257, 1280)))]
        fixed, by_channel = ((0.7 * (2 * part - 1)).astype("float32").astype("float64") for part in draw)
        means = (picture[0].double() * 2 - 1).mean((0, 1)).numpy()
        feature = fixed + numpy.einsum("c,cij->ij", means, by_channel)
        return types.SimpleNamespace(penultimate_hidden_states=torch.from_numpy(feature.astype("float32"))[None])

    @staticmethod
    def seed(name: str, base: int) -> int:
        import zlib
        return (zlib.crc32(name.encode()) ^ base) & 0xffffffff

    # ------------------------------------------------------------ cases

    def vae_case(self):
        stored, vae = self.family.load("vae"), self.vae
        with torch.inference_mode():
            picture = self.family.load("inputs")["ref_image"].float()[None] / 255
            decoded = vae.decode(self.family.host.latent_format.process_out(stored["decode_in"]))[0]
            big = stored["big_small"].float().repeat_interleave(8, 0).repeat_interleave(8, 1)[None] / 255
            from lodestar.techniques.persistent_latents import quantise
            return {"picture": (self.process_in(vae.encode(picture)), stored["reference_latent"]),
                    "frames": (decoded.permute(3, 0, 1, 2)[None] * 2 - 1, stored["decode_out"].clamp(-1, 1)),
                    "8 bits": (near(quantise(decoded) * 255, stored["decode_out_u8"]), torch.tensor(True)),
                    "large": (self.process_in(vae.encode(big)), stored["big_untiled"])}

    def face(self):
        """The motion and face encoders, and a fuser block behind four slots of zeros."""
        stored, network = self.family.load("face"), self.model.model.diffusion_model
        pictures = self.family.load("inputs")["face_small"].float() / 127.5 - 1
        pictures = pictures.repeat_interleave(64, 1).repeat_interleave(64, 2).permute(0, 3, 1, 2)
        with torch.inference_mode():
            motion = network.motion_encoder.get_motion(pictures)
            encoded = network.face_encoder(stored["encoder_in"])
            slots = torch.cat([encoded.new_zeros(1, 4, *encoded.shape[2:]), encoded], 1)
            block = network.face_adapter.fuser_blocks[1](stored["block_x"], slots)
        return {"motion": (motion, stored["motion"]), "encoder": (encoded, stored["encoder_out"]),
                "block": (block, stored["block_out"])}

    def forward(self, clip: int):
        """The velocity of a clip, and what is inside at the first step, of a call through the pack's wrapper."""
        stored, name = self.family.load("dit"), f"N4M1.clip{clip}"
        taps: dict[str, Tensor] = {}
        found = {part: self.velocity(self.model, clip, stored[f"{name}.x{part}"], stored[f"{name}.timestep{part}"],
                                     taps if not part else None) for part in ("", "_mid")}
        pairs = {f"velocity{part}": (value, stored[f"{name}.velocity{part}"]) for part, value in found.items()}
        return pairs | {tap: (value, stored[f"{name}.tap.{tap}"]) for tap, value in taps.items()}

    def velocity(self, model, clip: int, x: Tensor, timestep: Tensor, taps: dict | None = None) -> Tensor:
        from lodestar.backbones import attach
        from lodestar.techniques.persistent_latents import PersistentLatents
        stored, name = self.family.load("conditioning"), f"N4M1.clip{clip}"
        model = attach.with_technique(model, PersistentLatents(4, 1, order="upstream"))
        picture = stored[f"{name}.clip_image"].float()[None] / 255
        options = {"wrappers": model.wrappers, "cond_or_uncond": [0], "uuids": ["a"]}
        network, hooks = model.model.diffusion_model, []
        if taps is not None:
            hooks += self.tap(network, taps)
        try:
            with torch.inference_mode():
                flow = network(torch.cat([x, stored[f"{name}.y"]], 1), timestep,
                               self.family.load("inputs")["context"], self.see(picture).penultimate_hidden_states,
                               transformer_options=options, pose_latents=stored[f"{name}.pose_latents"],
                               face_pixel_values=self.face_pixels(clip))
        finally:
            for hook in hooks:
                hook.remove()
        return flow

    def face_pixels(self, clip: int) -> Tensor:
        pictures = self.pictures("face_small", 64, 73 * clip + 77)[73 * clip:]
        return (pictures * 2 - 1).permute(3, 0, 1, 2)[None]

    @staticmethod
    def tap(network, taps: dict) -> list:
        hooks = [network.patch_embedding.register_forward_hook(lambda _, __, out: taps.update(patch=out.clone()))]
        for index in (0, 5):
            fuser = network.face_adapter.fuser_blocks[index // 5]

            def keep(_, given, out, index=index):
                taps[f"before_face.{index}"] = given[0].clone()
                taps[f"after_face.{index}"] = given[0] + out
            hooks.append(fuser.register_forward_hook(keep))
        return hooks

    def lora(self):
        """The published layout as the pack puts it on a model, at strength 1."""
        stored, published = self.family.load("lora_case"), self.family.load("lora_checkpoint")
        with self.model_folder:
            import comfy.model_management
        from lodestar.backbones.wan.lora import with_plain_lora
        model = with_plain_lora(self.model, published, 1.0, "published")
        comfy.model_management.load_models_gpu([model], force_patch_weights=True)
        weights = model.model.diffusion_model.state_dict()
        pairs = {name: (weights[name.removeprefix("merged.")].float().clone(), value) for name, value in stored.items()
                 if name.startswith("merged.")}
        dit = self.family.load("dit")
        pairs["velocity"] = self.velocity(model, 0, dit["N4M1.clip0.x"], dit["N4M1.clip0.timestep"]), stored[
            "velocity_merged.clip0"]
        model.detach()
        return pairs

    def sample(self):
        """A take of three clips from pictures, through Long Take's session, with its own hand-over."""
        from lodestar.host import identity_memory
        info, stored = self.family.info["sampling"][0], self.family.load("sample")
        with patch.object(identity_memory, "draw_frames", lambda *_: list(info["anchor_frames"])):
            given, sampled = self.run_take(info)
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        known = self.family.load("conditioning")
        for clip, (inputs, latents) in enumerate(zip(given, sampled, strict=True)):
            name = f"N4M1.clip{clip}"
            conditions = inputs.conditions
            concat = self.process_in(conditions["concat_latent_image"])
            pairs[f"y.{clip}"] = torch.cat([1 - conditions["concat_mask"].expand(-1, 4, -1, -1, -1), concat], 1), \
                known[f"{name}.y"]
            pairs[f"pose.{clip}"] = self.process_in(conditions["pose_video_latent"]), known[f"{name}.pose_latents"]
            pairs[f"latents.{clip}"] = self.process_in(latents), stored[f"{name}.latents_full"]
        motion = given[1].conditions["concat_latent_image"][:, :, info["N"]:info["N"] + info["M"]]
        pairs["handed over"] = (motion == sampled[0][:, :, -info["M"]:]).all(), torch.tensor(True)
        return pairs

    def run_take(self, info: dict):
        import comfy.samplers
        import folder_paths
        from lodestar.host.chunk_sampler import GuiderChunkSampler, Sampling
        from lodestar.host.session import TakeSession
        from lodestar.pipelines.take.plan import Take
        inputs, driving = self.inputs()
        given, sampled = [], []

        class Recording(GuiderChunkSampler):
            def run_sampler(self, guider, chunk, made):
                given.append(made)
                sampled.append(super().run_sampler(guider, chunk, made).float().cpu())
                return sampled[-1]

        CLIPS["clip"] = 0
        guider, text = comfy.samplers.CFGGuider(inputs.model), [[self.family.load("inputs")["context"], {}]]
        guider.set_conds(text, text)
        guider.set_cfg(1.0)
        sigmas = torch.tensor([*(timestep / 1000 for timestep in info["timesteps"]), 0.0])
        sampling = Sampling(Noise(), guider, comfy.samplers.sampler_object("euler"), sigmas)
        hidden = types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
        session = TakeSession(inputs, sampling, Take(inputs.plan, None, driving=driving), hidden, Recording)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            before = folder_paths.get_output_directory()
            folder_paths.set_output_directory(folder)
            try:
                session.make("golden/take", False)
            finally:
                folder_paths.set_output_directory(before)
        return given, sampled


def remember_faces(encoder) -> None:
    """Each distinct picture of a face is encoded once: there are twelve, in 231 frames, and each costs seconds."""
    encode, seen = encoder.get_motion, {}

    def get_motion(pictures: Tensor) -> Tensor:
        keys = [picture.numpy().tobytes() for picture in pictures]
        for key, picture in zip(keys, pictures, strict=True):
            if key not in seen:
                seen[key] = encode(picture[None])
        return torch.cat([seen[key] for key in keys])

    encoder.get_motion = get_motion


def near(found: Tensor, wanted: Tensor) -> Tensor:
    """Whether no 8-bit value is off by more than a level, which one at a rounding edge may be."""
    return ((found - wanted.float()).abs() <= 1).all()
