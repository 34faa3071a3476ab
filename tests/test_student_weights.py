"""What a student's file holds, under whatever wrappers its trainer left, and files that are none."""
import pytest
import tiny_students
import torch
from lodestar.networks.student_weights import read_student

WAN = tiny_students.drawn(tiny_students.wan(16, 16))
FIRST = "blocks.0.self_attn.q.weight"


@pytest.fixture(scope="module")
def avatar():
    return tiny_students.avatar_forcing()["generator"]


@pytest.mark.parametrize(("wanted", "seed"), [("ema", "ema "), ("plain", "")])
def test_the_chosen_set_is_read_and_what_is_beside_it_named(wanted, seed):
    student = read_student(tiny_students.self_forcing(), wanted)
    expected = tiny_students.drawn(tiny_students.wan(16, 16), seed)
    assert set(student.whole) == set(expected) and not student.pairs and not student.needs_base
    assert all(torch.equal(student.whole[name], weight) for name, weight in expected.items())
    other = "generator" if wanted == "ema" else "generator_ema"
    assert student.notes == (f"{other} ({len(WAN)} entries)", "critic (3 entries)", "step")


def test_sets_known_by_names_alone_are_read_likewise():
    """As a converter writes them to safetensors."""
    flat = {f"{kind}.model.{name}": weight + (kind == "generator_ema") for kind in ("generator", "generator_ema")
            for name, weight in WAN.items()}
    student = read_student(flat, "ema")
    assert torch.equal(student.whole[FIRST], WAN[FIRST] + 1) and student.notes == (f"generator ({len(WAN)} entries)",)


@pytest.mark.parametrize("before", ["", "model.", "module.", "model.diffusion_model.", "diffusion_model.", "dit.",
                                    "base_model.model.", "model._fsdp_wrapped_module.", "_orig_mod.model.",
                                    "model._checkpoint_wrapped_module._orig_mod."])
def test_any_wrapper_comes_off(before):
    student = read_student({before + name: weight for name, weight in WAN.items()}, "ema")
    assert set(student.whole) == set(WAN) and student.notes == ()


def test_a_set_that_is_not_there_is_the_other_one(avatar):
    student = read_student({"generator": avatar}, "ema")
    assert student.has_audio and not student.needs_base and student.notes == ()
    assert len(student.pairs) == 10 * tiny_students.BLOCKS and not any("base_layer" in name for name in student.whole)


def test_a_discriminator_beside_the_network_is_left_out():
    one = torch.ones(1)
    student = read_student({"generator": {"model." + FIRST: WAN[FIRST], "_cls_pred_branch.0.weight": one,
                                          "_cls_pred_branch.0.bias": one, "_register_tokens.w": one}}, "plain")
    assert set(student.whole) == {FIRST} and student.notes == ("_cls_pred_branch (2 entries)",
                                                               "_register_tokens (1 entries)")


def test_a_lora_has_the_alpha_of_the_file_or_else_the_scale():
    half = {"blocks.0.ffn.0.lora_A.weight": torch.ones(4, 8), "blocks.0.ffn.0.lora_B.weight": torch.ones(6, 4)}
    student = read_student(half, "ema")
    path = "diffusion_model.blocks.0.ffn.0"
    assert student.needs_base and student.ordinary_pairs(0.5)[f"{path}.alpha"] == 2
    given = read_student({**half, "blocks.0.ffn.0.alpha": torch.tensor(3.0)}, "ema")
    assert given.ordinary_pairs(0.5)[f"{path}.alpha"] == 3
    assert given.ordinary_pairs(0.5)[f"{path}.lora_up.weight"].shape == (6, 4)


@pytest.mark.parametrize(("change", "says"), [
    (lambda held: {"critic": held, "step": 1}, "it holds critic, step, wanted generator_ema or generator"),
    (lambda held: {**held, "riddle.weight": torch.ones(1)}, "it holds riddle.weight, wanted Wan 2.1's layers"),
    (lambda held: {"model.blocks.0._flat_param": torch.ones(9)}, "one piece of FSDP's for many layers"),
    (lambda held: {**held, "model._fsdp_wrapped_module." + FIRST: torch.ones(1)}, f"it holds {FIRST} twice"),
    (lambda held: {**held, "blocks.0.self_attn.q.lora_A.default.weight": torch.ones(4, 8)}, "one half of a LoRA pair"),
    (lambda held: {}, "it holds nothing, wanted"), (lambda held: {"_a.b": torch.ones(1)}, "it holds _a, wanted")],
    ids=["critic", "foreign", "flat", "twice", "half a pair", "empty", "beside alone"])
def test_what_is_no_student_is_refused_by_what_it_holds(change, says):
    with pytest.raises(ValueError, match=says):
        read_student(change(dict(WAN)), "ema")


@pytest.mark.parametrize(("path", "says"), [
    ("blocks.9.ffn.0", r"blocks.9.ffn.0 from 8 to 6 numbers, the network has none such"),
    ("blocks.0.ffn.0", r"blocks.0.ffn.0 from 8 to 6 numbers, the network has \(256, 128\)")])
def test_a_lora_of_another_network_is_refused(path, says):
    student = read_student({f"{path}.lora_A.weight": torch.ones(4, 8), f"{path}.lora_B.weight": torch.ones(6, 4)},
                           "ema")
    with pytest.raises(ValueError, match=says):
        student.check_pairs(WAN)
