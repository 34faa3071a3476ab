"""How far a take is, on a clock of its own: the bar over sampling and decoding, the time left, and the words for it."""
import types
from fractions import Fraction

import comfy.utils
import pytest
from comfy_execution.graph import DynamicPrompt
from comfy_execution.progress import get_progress_state, reset_progress_state
from lodestar.host.events import TakeEvents
from lodestar.host.progress import TakeProgress, in_words
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.timeline import Timeline

pytestmark = pytest.mark.once
PLAN = plan_take(Timeline(Fraction(16)), 64, 17, 5, 64, 64)
STEPS, STEP_SECONDS, FRAME_SECONDS, LOADING_SECONDS = 8, 30.0, 0.5, 200.0


@pytest.fixture
def bar(monkeypatch):
    """(value, total) of every move of ComfyUI's bar, which itself sends few of them when they come fast."""
    moves, move = [], comfy.utils.ProgressBar.update_absolute

    def spy(bar, value, total=None, preview=None):
        move(bar, value, total, preview)
        moves.append((bar.current, bar.total))

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", spy)
    return moves


class Run:
    """A take in which every step and frame lasts as long as it should, and the first step also loads the model."""

    def __init__(self, finished=0):
        self.now = 0.0
        self.progress = TakeProgress("7", PLAN, STEPS, lambda: self.now)
        self.journal = types.SimpleNamespace(finished=finished, note="note", folder="folder", finished_frames=0)
        self.journal.finished_frames = PLAN.frames_of(PLAN.chunks[finished])[0]
        self.progress.open(self.journal)
        self.loading = LOADING_SECONDS

    def chunk(self, chunk):
        """(seconds left, seconds it really takes from here) after each step and each group of frames."""
        first, end = PLAN.frames_of(chunk)
        self.progress.begin_chunk(chunk)
        callback = self.progress.sampler_callback(chunk, "cpu", types.SimpleNamespace(latent_rgb_factors=None,
                                                                              taesd_decoder_name=None))
        for step in range(STEPS):
            self.now += STEP_SECONDS + self.loading
            self.loading = 0.0
            callback(step, None, None, STEPS)
            yield self.progress.seconds_left(), self.true_seconds(chunk, step + 1, first)
        self.progress.end_sampling()
        for frame in range(first + 1, end + 1):
            self.now += FRAME_SECONDS
            self.progress.frames_written(chunk, frame - first)
            yield self.progress.seconds_left(), self.true_seconds(chunk, STEPS, frame)
        self.journal.finished, self.journal.finished_frames = chunk.index + 1, end

    @staticmethod
    def true_seconds(chunk, steps, frames):
        steps_left = STEPS * (len(PLAN.chunks) - chunk.index) - steps
        return steps_left * STEP_SECONDS + (PLAN.total_frames - frames) * FRAME_SECONDS


@pytest.mark.parametrize("finished", [0, 2])
def test_the_time_left_is_right_once_a_step_and_a_frame_were_seen(finished):
    """Loading the model does not count; before the first frame of this run, decoding is not known."""
    run = Run(finished)
    assert run.progress.seconds_left() is None
    record = [pair for chunk in PLAN.chunks[finished:] for pair in run.chunk(chunk)]
    assert record[0][0] is None and record[-1] == (0, 0)
    decoding = PLAN.total_frames * FRAME_SECONDS
    for index, (said, true) in enumerate(record[1:], start=1):
        assert abs(said - true) <= (0.5 if index >= STEPS else decoding)


@pytest.mark.parametrize("finished", [0, 2])
def test_the_bar_moves_with_every_step_and_while_frames_are_decoded(bar, finished):
    run = Run(finished)
    for chunk in PLAN.chunks[finished:]:
        before = len(bar)
        list(run.chunk(chunk))
        moved = [value for value, _ in bar[before:]]
        assert moved == sorted(moved) and len(set(moved)) == STEPS + STEPS // 4
    run.progress.say_finished()
    units = (STEPS + STEPS // 4) * len(PLAN.chunks)
    assert bar[-1] == (units, units) and {total for _, total in bar} == {units}
    assert bar[0][0] >= finished * units // len(PLAN.chunks)


@pytest.mark.parametrize("seconds, words", [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"),
                                            (36000, "10.0 h")])
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_copy_inside_a_loop_speaks_for_the_node_that_was_queued():
    before = get_progress_state()
    reset_progress_state("queued", DynamicPrompt({"5": {}, "7": {}}))
    try:
        get_progress_state().dynprompt.add_ephemeral_node("5.0.0.1_7", {}, "5", "7")
        assert [TakeEvents(node).node for node in ("5.0.0.1_7", "7", None)] == ["7", "7", None]
    finally:
        reset_progress_state(before.prompt_id, before.dynprompt)
