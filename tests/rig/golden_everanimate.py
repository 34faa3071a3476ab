"""EverAnimate's golden cases: what a clip is given, ComfyUI's Wan-Animate with N pictures, whole takes, and training.

Takes run as the pack makes them (golden_everanimate_takes.py); training is techniques/restorative_flow.py.
"""
import random
from collections.abc import Callable
from functools import cached_property, partial

import golden
import golden_recipe
import torch
from torch import Tensor

NUMBER = "N{N}M{M}.clip{clip}"


def cases_of(fixtures: golden.Fixtures, host: golden.Host) -> dict[str, Callable] | None:
    if not (fixtures.folder / "restorative.safetensors").is_file():
        return None
    return EverAnimate(fixtures, host).cases()


class EverAnimate(golden_recipe.Family):
    def cases(self) -> dict[str, Callable]:
        found: dict[str, Callable] = {f"grid_{NUMBER.format(**info)}": partial(self.grid, info)
                                      for info in self.info["conditioning"]}
        found |= {f"order_{info['mode']}_{info['N']}": partial(self.order, info) for info in self.info["anchor_modes"]
                  if info["mode"] in ("default_script", "repeat_user")}
        found |= {"frame_numbers": self.frame_numbers, "clips": self.clips, "schedule": self.schedule}
        found |= {f"infer_{steps}": partial(self.infer, steps) for steps in (4, 5, 20, 50)}
        found |= {f"pair_{info['schedule']}_{info['index']}": partial(self.pair, info) for info in self.info["pairs"]}
        found |= {f"spoilt_{info['case']}": partial(self.spoilt, info) for info in self.info["perturbations"]}
        found |= {info["case"]: partial(self.moved, info) for info in self.info["anchor_scaling"]}
        found |= {f"train_{info['stage']}_{info['seed']}": partial(self.train, info)
                  for info in self.info["train_steps"]}
        if not (self.fixtures.folder / "dit.safetensors").is_file():    # the part that comes with the pack
            return found
        import golden_everanimate_takes
        return found | golden_everanimate_takes.cases_of(self)

    # ------------------------------------------------------------ what a clip is given

    @cached_property
    def conditioning(self) -> dict[str, Tensor]:
        return self.load("conditioning") if (self.fixtures.folder / "conditioning.safetensors").is_file() else {}

    def reference(self) -> Tensor:
        return self.load("vae")["reference_latent"]

    def memory(self, info: dict, stored: Tensor):
        """What the pack remembers for a clip of N pictures and M latents: the reference, and of `stored` (1, 16, N + M,
        h, w), which it must be put together to again, the drawn frames and the motion."""
        from lodestar.techniques.persistent_latents import Memory, PersistentLatents
        technique = PersistentLatents(info["N"], info["M"], order="upstream")
        drawn = sum(name.startswith("clip0_frame") for name, _ in info["y_slots"])
        motion = stored[:, :, info["N"]:] if info["M"] and info["clip"] else None
        return Memory(technique.arrange(self.reference(), stored[:, :, :drawn]), motion)

    def grid(self, info: dict):
        from lodestar.techniques.persistent_latents import memory_channels
        latents, slots = info["y_shape"][2] - info["N"], info["N"] + info["M"]
        stored = self.load("conditioning_grid")[f"{NUMBER.format(**info)}.y_known"]
        null = torch.zeros(1, 16, 1, 4, 6)
        channels, known = memory_channels(self.memory(info, stored), latents, null)
        mask = [value for value, count in info["mask_per_latent"] for _ in range(count)]
        pairs = {"known": (channels[:, :, :slots], stored),
                 "rest": (channels[:, :, slots:].abs().sum(), torch.tensor(0)),
                 "mask": (known[0, 0, :, 0, 0].long(), torch.tensor(mask))}
        if f"{NUMBER.format(**info)}.y" in self.conditioning:
            whole = self.conditioning[f"{NUMBER.format(**info)}.y"]
            channels, _ = memory_channels(self.memory(info, whole[:, 4:, :slots]), latents, null)
            pairs["y"] = torch.cat([known.expand(-1, 4, -1, -1, -1), channels], 1), whole
        return pairs

    def order(self, info: dict):
        """The names of the slots: the drawn frames, sorted, and the reference behind them."""
        from lodestar.techniques.persistent_latents import COMPLETE_WITH, PersistentLatents
        drawn = sorted(int(name.removeprefix("clip0_frame")) for name in info["slots"] if name != "reference")
        technique = PersistentLatents(info["N"], order="upstream", complete_with=COMPLETE_WITH[not drawn])
        numbers = torch.tensor(drawn).float().view(1, 1, -1, 1, 1)
        arranged = technique.arrange(torch.full((1, 1, 1, 1, 1), -1.0), numbers)
        wanted = [int(name.removeprefix("clip0_frame")) if name != "reference" else -1 for name in info["slots"]]
        return {"slots": (arranged.flatten().long(), torch.tensor(wanted)),
                "drawn": (torch.tensor(technique.drawn), torch.tensor(len(drawn)))}

    def frame_numbers(self):
        """Of a driving video that goes back and forth, the frames beside each clip."""
        from fractions import Fraction

        from lodestar.pipelines.frames_at_times import ClipFrames
        from lodestar.pipelines.take.driving import DrivingVideo
        from lodestar.techniques.timeline import Timeline
        pairs = {}
        for info in filter(lambda info: info["pingpong"], self.info["frame_indices"]):
            video = ClipFrames(torch.zeros(info["video_frames"], 1, 1, 3), Fraction(1), "pose")
            times = DrivingVideo({"pose": video}, "back and forth").times(Timeline(Fraction(1)), info["start"], 20)
            wanted = [frame for first, last, step in info["runs"] for frame in range(first, last + step, step)]
            pairs[f"{info['video_frames']}.{info['clip']}"] = torch.tensor([int(time) for time in times]), torch.tensor(
                wanted)
        return pairs

    def clips(self):
        from fractions import Fraction

        from lodestar.pipelines.take.plan import plan_clips
        from lodestar.techniques.timeline import Timeline
        total = self.info["sampling"][0]["frames_total"]
        plan = plan_clips(Timeline(Fraction(30)), total, 77, 4, 48, 32)
        ends = [plan.frames_of(chunk) for chunk in plan.chunks]
        return {"begins": (torch.tensor([plan.frame_of(chunk) for chunk in plan.chunks]), torch.tensor([0, 73, 146])),
                "new": (torch.tensor(ends), torch.tensor([[0, 77], [77, 150], [150, 223]]))}

    # ------------------------------------------------------------ training

    def levels(self) -> Tensor:
        from lodestar.techniques.restorative_flow import levels
        return levels()

    def schedule(self):
        from lodestar.techniques import restorative_flow as flow
        every, stored = self.levels(), self.load("restorative")
        pairs = {"sigmas": (every, stored["train.sigmas"]), "timesteps": (every * 1000, stored["train.timesteps"]),
                 "loss": (flow.loss_weight(every, every), stored["train.loss_weight"])}
        pairs |= {name: (flow.restoring_weight(name, every, every), stored[f"train.lam_{name}"])
                  for name in ("gaussian_timestep", "scheduler_weight", "sigma_ramp")}
        facts = self.info["schedule"]
        spoilt = every >= flow.THRESHOLD
        return pairs | {"spoilt": (spoilt.float().mean(), torch.tensor(facts["perturbed_fraction_of_timesteps"])),
                        "first below half": (spoilt.sum(), torch.tensor(facts["first_index_below_half"]))}

    def infer(self, steps: int):
        from lodestar.techniques.restorative_flow import levels
        stored = self.load("restorative")
        sigmas = levels(steps)
        return {"sigmas": (sigmas, stored[f"infer{steps}.sigmas"]),
                "timesteps": (sigmas * 1000, stored[f"infer{steps}.timesteps"]),
                "rounded": ((sigmas * 1000).bfloat16().float(), stored[f"infer{steps}.timesteps_bf16"])}

    def pair(self, info: dict):
        from lodestar.techniques import restorative_flow as flow
        stored, every = self.load("restorative"), self.levels()
        level = every[info["index"]][None]
        weight = flow.exact_weight(level) if info["schedule"] == "augmented_velocity" else flow.restoring_weight(
            info["schedule"], level, every)
        made = flow.make_pair(stored["pair.x0"], stored["pair.noise"], level, stored["pair.perturbed"], weight)
        name = f"pair.{info['schedule']}.{info['index']}"
        plain = flow.make_pair(stored["pair.x0"], stored["pair.noise"], every[400][None])
        return {"x": (made.x, stored[f"{name}.x"]), "target": (made.target, stored[f"{name}.target"]),
                "plain x": (plain.x, stored["pair.plain.400.x"]),
                "plain target": (plain.target, stored["pair.plain.400.target"])}

    def spoilt(self, info: dict):
        from lodestar.techniques.spoilt_pictures import Draw, Patch, draw_spoiling, spoil
        draws = info["draws"]
        patches = tuple(Patch(*(patch[name] for name in ("height_ratio", "width_ratio", "top_ratio", "left_ratio",
                                                         "downsample"))) for patch in draws["patches"])

        def on(name, value, otherwise=None):
            return value if draws[f"{name}_flag"]["on"] else otherwise

        recorded = Draw(on("clahe", (draws["clahe_clip_limit"], draws["clahe_tiles"])),
                        on("saturation", draws["saturation_factor"]), on("brightness", draws["brightness_factor"]),
                        on("erase", patches, ()))
        stored = self.load("restorative")
        frames = stored["perturb.frames"].numpy()
        pairs = {"frames": (spoil(frames, recorded), stored[f"perturb.{info['case']}"])}
        if info["case"].startswith("seed"):
            pairs["drawn"] = spoil(frames, draw_spoiling(random.Random(info["python_seed"]))), pairs["frames"][1]
        return pairs

    def moved(self, info: dict):
        from lodestar.techniques.spoilt_pictures import move_picture
        stored = self.load("restorative")
        picture = stored["perturb.frames"][:1].permute(0, 3, 1, 2).float() / 127.5 - 1
        (scale, _, right), (_, _, down) = info["theta"]
        return {"picture": (move_picture(picture, scale, right, down)[0], stored[info["case"]])}

    def train(self, info: dict):
        """A step's state, target and loss, from what was recorded of its clip and its network."""
        from lodestar.techniques import restorative_flow as flow
        stored, every = self.load("train"), self.levels()
        name = f"{info['stage']}.seed{info['seed']}"
        level = every[info["index"]][None]
        pair = flow.make_pair(stored[f"{name}.x0"], stored[f"{name}.noise"], level,
                              stored[f"{name}.perturbed"] if info["perturbed"] else None, flow.bell(level, every))
        weight = flow.loss_weight(level, every)
        prediction = stored[f"{name}.pred"]
        return {"x": (pair.x, stored[f"{name}.x"]), "target": (pair.target, stored[f"{name}.target"]),
                "weight": (weight[0], torch.tensor(info["loss_weight"])),
                "loss": (flow.restorative_loss(prediction, pair, weight), torch.tensor(info["loss"]))}
