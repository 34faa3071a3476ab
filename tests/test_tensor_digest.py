"""The digest of a tensor: every change of its values shows, no change of where and how it lies does."""
import itertools

import pytest
import torch
from lodestar.techniques.tensor_digest import WORDS, digest_tensor, fold_on_card, fold_on_cpu

BLOCK = WORDS * 8       # bytes


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("size", [5, 4096, BLOCK // 2 + 3, 2 * BLOCK + 5])
def test_every_change_of_the_values_shows(dtype, size):
    values = (drawn(size) * 10).to(dtype)
    raw = values.view(torch.uint8)
    last, sign = raw.clone(), raw.clone()
    last[-1] += 1
    sign[values.element_size() - 1] ^= 128      # of the first number
    others = [raw.flip(0), last, sign, values.to(torch.float32).neg().to(dtype).view(torch.uint8)]
    assert len({digest_tensor(one) for one in (raw, *others)}) == 5


def test_two_swapped_words_show_wherever_they_are():
    values = drawn(4 * WORDS)
    for first, second in ((0, 2), (10, 2 * WORDS + 11), (5, WORDS)):
        other = values.clone()
        other[[first, second]] = other[[second, first]]
        assert digest_tensor(other) != digest_tensor(values)


def test_where_the_values_lie_does_not_show(tmp_path):
    values = drawn(300, 1001, dtype=torch.bfloat16)
    shifted = torch.cat([values.new_zeros(1), values.view(-1)])[1:].view_as(values)
    path = tmp_path / "mapped.bin"
    path.write_bytes(values.view(torch.uint8).numpy().tobytes())
    mapped = torch.from_file(str(path), size=values.numel(), dtype=torch.bfloat16).view_as(values)
    columns = values.T.contiguous().T
    assert {digest_tensor(one) for one in (values, shifted, mapped, columns, torch.nn.Parameter(values))} == \
        {digest_tensor(values)}
    assert digest_tensor(values.T) != digest_tensor(values)


def test_a_card_folds_as_a_processor_does():
    data = drawn(3 * WORDS + 1).view(torch.uint8)[:-4]
    parts = [[number for sums in fold(data) for number in sums.flatten().tolist()]
             for fold in (fold_on_cpu, fold_on_card)]
    assert parts[0] == parts[1] and len(parts[0]) == 2 * 2


def test_signs_that_change_together_show():
    """What folds bits away lets an even number of highest bits cancel."""
    values = drawn(64, dtype=torch.float64)
    seen = {digest_tensor(values)}
    for first, second in itertools.combinations(range(64), 2):
        other = values.clone()
        other[[first, second]] *= -1
        seen.add(digest_tensor(other))
    assert len(seen) == 1 + 64 * 63 // 2


class Packed(torch.Tensor):
    """As packs for GGUF files have it: bytes that claim another shape, and a note that changes while it is used."""

    @staticmethod
    def __new__(cls, data, **notes):
        return torch.Tensor._make_subclass(cls, data)

    def __init__(self, data, **notes):
        self.patches = notes.get("patches", [])
        self.tensor_type = notes.get("tensor_type")

    @property
    def shape(self):
        return torch.Size([1024, 1024])


def test_a_tensor_of_another_pack_counts_by_its_bytes():
    data = torch.arange(100, dtype=torch.uint8)
    plain, used, other = Packed(data, tensor_type=2), Packed(data, tensor_type=2, patches=["LoRA"]), Packed(data + 1)
    assert digest_tensor(plain) == digest_tensor(used)
    assert len({digest_tensor(one) for one in (plain, other, Packed(data, tensor_type=3))}) == 3


def test_a_quantised_tensor_counts_by_its_parts():
    from torch.testing._internal.two_tensor import TwoTensor
    one, two = drawn(8), drawn(8) + 1
    made = [TwoTensor(one, two), TwoTensor(two, one), TwoTensor(one, one)]
    assert len({digest_tensor(tensor) for tensor in made}) == 3
    assert digest_tensor(TwoTensor(one.clone(), two.clone())) == digest_tensor(made[0])


def test_a_single_number_of_a_longer_tensor_and_lazy_signs_are_read():
    assert digest_tensor(torch.arange(4.0)[::4]) == digest_tensor(torch.zeros(1))
    turned = torch.tensor([1 + 2j, 3 - 1j])
    assert digest_tensor(turned.conj()) == digest_tensor(torch.tensor([1 - 2j, 3 + 1j])) != digest_tensor(turned)
    assert digest_tensor(turned.conj().imag) == digest_tensor(torch.tensor([-2.0, 1.0]))
