"""How late the pictures of a live take are for their sound: the puppet, with speech that comes as a clock brings it.

What is stated is (L - 1) blocks and one step. The clock stands still while a block is made, so that what is measured
is how long the take waits for sound, on any machine; how long a block takes to make is measured beside it.
"""
import tempfile
import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median

import torch
from in_process import CPU
from rows import Row, show

SECONDS, BLOCK, WINDOWS = 3, 2, (1, 2, 3)


class PacedSound:
    """A source, and the clock that brings it: time passes while somebody sleeps."""
    name = "the clock"

    def __init__(self, waveform: torch.Tensor, sample_rate: int):
        self.waveform, self.sample_rate, self.given, self.now = waveform, sample_rate, 0, 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def is_closed(self) -> bool:
        return self.given == self.waveform.shape[1]

    def arrivals(self, most: int):
        from lodestar.pipelines.take.live_sound import Arrival
        end = min(int(self.now * self.sample_rate), self.waveform.shape[1])
        piece, self.given = self.waveform[:, self.given:end], end
        return [Arrival(piece)] if piece.shape[1] else []


def measure(length: int) -> tuple[float, float, float]:
    """Stated seconds of look-ahead, the median that a block's last frame was late, and the median seconds of making."""
    from comfy.samplers import CFGGuider
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
    from lodestar.backbones import attach
    from lodestar.backbones.audio.encoder import log_mel
    from lodestar.backbones.longcat.loader import load_longcat
    from lodestar.host.chunk_sampler import Sampling
    from lodestar.host.live_inputs import LiveInputs
    from lodestar.host.live_progress import LiveProgress
    from lodestar.host.live_session import FILE, LivePaths, LiveSession
    from lodestar.host.rolling_sampler import RollingSampler
    from lodestar.nodes.blank_prompt import LodestarBlankPrompt
    from lodestar.nodes.plan_take import LodestarPlanTake
    from lodestar.nodes.sample_person import LodestarSamplePerson
    from lodestar.pipelines.take.live_sound import LiveEnding, LiveSound
    from lodestar.pipelines.take.live_take import delay_seconds
    from lodestar.techniques.flow_schedules import student_levels
    from lodestar.techniques.style_anchor import StyleAnchor
    from lodestar.training.puppet.export import weights_file

    picture, speech, *_ = LodestarSamplePerson.execute(person="drawn character", seconds=SECONDS).args
    model = attach.with_technique(load_longcat(str(weights_file("puppet"))), StyleAnchor())
    prompt = LodestarBlankPrompt.execute(tokens=1, width=0, model=model).args[0]
    guider = CFGGuider(model)
    guider.set_conds(prompt, prompt)
    guider.set_cfg(1.0)
    take = LodestarPlanTake.execute(model=model, audio=speech, reference=picture, block_latents=BLOCK).args[0]
    sampling = Sampling(Noise_RandomNoise(0), guider, RollingSampler(BLOCK, 1, "keep"),
                        student_levels("even", length, 1, 3.0))
    session = LiveSession(LiveInputs(model, puppet_vae(), take.plan, picture, encoder=log_mel()), sampling, take,
                          types.SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None), show=FILE)
    stated = delay_seconds(take.plan, length)
    source = PacedSound(speech["waveform"][0], speech["sample_rate"])
    late, made = [], []

    class Watching(LiveProgress):
        def block_written(self, frames: int) -> None:
            super().block_written(frames)
            late.append(source.now - frames / float(self.fps))
            made.append(self.sampling)

    progress = Watching(None, take.plan.timeline.fps, stated, None)
    sound = LiveSound(source, LiveEnding(Fraction(60)), lambda: None, lambda: source.now, source.sleep)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        growing = Path(folder) / "live.mp4"
        with session.open_file(LivePaths(growing, growing, None, None)) as file:
            inputs = LiveInputs(model, session.inputs.vae, take.plan, picture, encoder=log_mel(), sound=sound)
            session.assemble(inputs, sound, file, progress, length).make()
    steady = slice(1, len(late) - length)       # the first block loads the model, the last come as the sound is over
    return float(stated[0]), median(late[steady]), median(made[steady])


def puppet_vae():
    import comfy.sd
    import comfy.utils
    from lodestar.training.puppet.export import weights_file
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(weights_file("vae"))), device=CPU)


def rows() -> Iterator[Row]:
    for length in WINDOWS:
        stated, late, made = measure(length)
        yield Row.at_most(f"live take, window of {length} blocks of {BLOCK} latents: seconds that it waits for sound "
                          "behind a block's end", late, stated + 0.05, 2, f" (a block made in {made:.2f} s)")


if __name__ == "__main__":
    show(rows)
