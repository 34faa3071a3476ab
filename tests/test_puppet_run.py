"""The puppet's training runs: ended, killed and taken up again; rate, average, precision; what its VAE has to mind."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from lodestar.training.puppet import all as everything
from lodestar.training.puppet import precision, vae_losses
from lodestar.training.puppet import run as running
from lodestar.training.puppet.face_probe import load_face_probe
from lodestar.training.puppet.run import Run
from torch.nn.functional import avg_pool2d


def little() -> torch.nn.Module:
    torch.manual_seed(0)
    first, last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
    return torch.nn.Sequential(first, torch.nn.SiLU(), last)


def loss_of_little(model: torch.nn.Module, index: int) -> torch.Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(index))
    return (model(x) - x.flip(1)).square().mean()


def run(folder, *ends: int) -> tuple[torch.nn.Module, Run]:
    """Trained up to each of `ends`, every time by a Run of its own, as after a restart."""
    for end in ends:
        model = little()
        going = Run(folder, model, end, 1e-2)

        going.train(lambda index, model=model: loss_of_little(model, index), 1)
    return model, going


def test_a_run_in_slices_is_the_run_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "learning_rate", lambda self: 1e-2)
    whole, one = run(tmp_path / "one", 12)
    sliced, three = run(tmp_path / "three", 3, 7, 12)
    assert one.done == three.done == 12
    assert all(map(torch.equal, whole.state_dict().values(), sliced.state_dict().values()))
    assert all(torch.equal(one.averaged[name], three.averaged[name]) for name in one.averaged)


def test_the_rate_is_constant_and_falls_in_the_last_fifth(tmp_path):
    going = Run(tmp_path, little(), 1000, 1e-2)
    for done, share in ((0, 1 / 200), (99, 0.5), (200, 1), (799, 1), (800, 1), (900, 0.5), (990, 0.05), (1000, 0)):
        going.done = done
        assert going.learning_rate() == pytest.approx(1e-2 * share) and going.decaying == (done >= 800)


def test_a_run_that_was_killed_goes_on_and_some_checkpoints_stay(tmp_path, monkeypatch):
    """Ended in the middle of a step, or of a checkpoint, it is as it was at the last whole one."""
    monkeypatch.setattr(Run, "learning_rate", lambda self: 1e-2)
    whole, _ = run(tmp_path / "one", 12)
    kept = []
    model = little()
    going = Run(tmp_path / "two", model, 12, 1e-2, keep_every=5)

    def killed(index: int) -> torch.Tensor:
        if index == 8:
            raise KeyboardInterrupt
        return loss_of_little(model, index)
    with pytest.raises(KeyboardInterrupt):
        going.train(killed, 1, kept.append)
    (tmp_path / "two" / "checkpoint.unfinished").write_bytes(b"cut")
    assert kept == [5] and (tmp_path / "two" / "checkpoint_000005.pt").is_file()
    again, resumed = run(tmp_path / "two", 12)
    assert resumed.done == 12 and all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
    assert torch.load(tmp_path / "two" / "checkpoint_000005.pt", weights_only=True)["done"] == 5


def test_the_average_begins_at_its_step(tmp_path):
    model = little()
    going = Run(tmp_path, model, 100, 1e-2, average=0.9, settled=5)
    for done in range(1, 8):
        going.done = done
        model[0].bias.data.fill_(done)
        going.follow()
        assert (going.averaged["0.bias"][0] == done) == (done <= 5)
    assert going.averaged["0.bias"][0] == pytest.approx(5 + 0.1 * 1 + 0.1 * (7 - 5.1), abs=0.02)


def test_the_average_lets_go_of_what_was_before_the_rate_fell(tmp_path):
    model = little()
    going = Run(tmp_path, model, 500, 1e-2, average=0.9998, settled=5)
    for done in range(1, 501):
        going.done = done
        model[0].bias.data.fill_(float(done <= 400))
        going.follow()
    assert going.averaged["0.bias"][0] == pytest.approx(0, abs=0.01)     # of 0.9998 alone it would be 0.8


@pytest.mark.parametrize(("dtype", "far"), [(torch.bfloat16, 0.0), (torch.float32, 0.03)])
@pytest.mark.parametrize("shape", [(12, 81), (96, 40)])
def test_muon_is_torch_s_in_either_precision(monkeypatch, dtype, far, shape):
    monkeypatch.setattr(running, "fastest", lambda device: dtype)
    draw = torch.Generator().manual_seed(0)
    begun = torch.randn(shape, generator=draw)
    ours, theirs = torch.nn.Parameter(begun.clone()), torch.nn.Parameter(begun.clone())
    pair = running.Muon([ours]), torch.optim.Muon([theirs], lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=draw)
        theirs.grad = ours.grad.clone()
        for part in pair:
            part.step()
    assert (ours - theirs).norm() <= far * (theirs - begun).norm()


def test_what_is_frozen_stays(tmp_path):
    model = little()
    before = model[0].weight.clone()
    model[0].requires_grad_(False)
    Run(tmp_path, model, 3, 1e-2).train(lambda index: loss_of_little(model, index), 1)
    assert torch.equal(model[0].weight, before)


def test_precision_is_what_a_matmul_takes(monkeypatch):
    for fast in (torch.bfloat16, torch.float32):
        precision.fastest.cache_clear()
        monkeypatch.setattr(precision, "speed", lambda dtype, device, fast=fast: 2.0 if dtype == fast else 1.0)
        assert precision.fastest() == fast
        with precision.fast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == fast
    precision.fastest.cache_clear()


def test_it_learns_and_writes_its_log(tmp_path):
    run(tmp_path, 200)
    record = json.loads((tmp_path / "log.json").read_text())
    assert [step for step, _ in record["loss"]] == list(range(25, 201, 25))
    assert record["loss"][-1][1] < 0.5 * record["loss"][0][1] and set(record["precisions"]) <= {"float32", "bfloat16"}


# ---------------------------------------------------------------- the VAE's losses

def test_blur_and_lost_detail_cost_and_equal_pictures_nothing():
    draw = torch.Generator().manual_seed(0)
    true = torch.rand(2, 3, 5, 48, 48, generator=draw) * 2 - 1
    soft = avg_pool2d(true.flatten(0, 1), 3, 1, 1).view_as(true)
    other = torch.rand(true.shape, generator=draw) * 2 - 1     # as sharp, but elsewhere
    assert vae_losses.difference(true, true) == 0
    blur = [float(vae_losses.blur(vae_losses.in_row(x), vae_losses.in_row(true))) for x in (soft, other)]
    assert blur[0] > 1.0 and blur[1] < blur[0]
    still, moving = true[:, :, :1].expand(-1, -1, 5, -1, -1), true
    assert vae_losses.difference(still, moving) > vae_losses.difference(still[:, :, :1], moving[:, :, :1]) == 0


def test_an_error_counts_where_the_clip_moves():
    true = torch.zeros(1, 3, 5, 8, 8)
    true[:, :, ::2, 3, 4] = 1
    for row, column, wanted in ((3, 4, 0.25), (6, 1, 0.0)):
        made = true.clone()
        made[..., row, column] += 0.25
        assert float(vae_losses.off_where_it_moves(made, true)) == pytest.approx(wanted)
    assert vae_losses.off_where_it_moves(true + 1, true.clamp(max=0)) == 0      # nothing moves: nothing counts


def test_what_the_face_probe_sees_differs_where_the_picture_does():
    alike = vae_losses.Likeness(load_face_probe())
    true = torch.rand(1, 3, 2, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = (0.8 * true).requires_grad_()
    assert alike(true, true) == 0 < alike(made, true) < alike(-true, true)
    alike(made, true).backward()
    assert made.grad.abs().sum() > 0 and not any(weight.requires_grad for weight in alike.parameters())


def test_the_critic_learns_from_both_and_neither_reaches_the_other():
    """The picture's maker has no gradient from what the critic learns, the critic none from the maker's share, which
    is at most half as large as the rest at the last layer."""
    torch.manual_seed(0)
    critic, last = vae_losses.Critic().eval(), torch.nn.Parameter(torch.randn(3))     # eval: its norms rest
    true = torch.rand(1, 3, 1, 32, 32)
    gradients = {}
    for asked in (False, True):
        made = true * last.view(1, 3, 1, 1, 1)
        plain = made.square().mean()
        last.grad = None
        critic.zero_grad()
        vae_losses.add_critic_loss(plain, made, true, critic, last, asked).backward()
        gradients[asked] = last.grad.clone(), critic.last.weight.grad.clone()
    made = true * last.view(1, 3, 1, 1, 1)
    own, = torch.autograd.grad(made.square().mean(), last)
    assert torch.allclose(gradients[False][0], own) and torch.allclose(gradients[False][1], gradients[True][1])
    assert 0 < (gradients[True][0] - own).norm() <= 0.51 * own.norm()


# ---------------------------------------------------------------- the one command

def test_cores_are_taken_while_they_are_idle(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(everything.os, "cpu_count", lambda: 4)
    try:
        for threads, load, wanted in ((1, 1.0, 4), (4, 4.1, 4), (4, 6.0, 2), (2, 9.0, 1), (1, 3.4, 2)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(everything.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
            everything.take_idle_cores()
            assert torch.get_num_threads() == wanted, (threads, load)
    finally:
        torch.set_num_threads(before)


def test_in_the_background_it_is_the_same_command_with_the_lowest_priority(tmp_path):
    """A session of its own, which outlives the shell, and is weighed as the least of all sessions."""
    out, cache = tmp_path / "runs", tmp_path / "cache"
    record = subprocess.run([sys.executable, "-m", "training.puppet.all", str(out), "--hours", "0", "--background"],
                          cwd=everything.PACK, env={**os.environ, "LODESTAR_CACHE": str(cache), "PATH": ""},
                          capture_output=True, text=True, check=True).stdout
    process = int(re.search(r"process (\d+)", record)[1])
    try:
        assert os.getsid(process) == process != os.getsid(0) and (out / "log.txt").is_file()
        deadline = time.monotonic() + 120
        while os.getpriority(os.PRIO_PROCESS, process) != 19 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert os.getpriority(os.PRIO_PROCESS, process) == 19
    finally:
        os.kill(process, signal.SIGKILL)
