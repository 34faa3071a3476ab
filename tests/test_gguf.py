"""GGUF files: every block type to the bit as the gguf package reads it, and files that are not as they should be."""
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.networks.gguf_blocks import KINDS, decode_blocks
from lodestar.networks.gguf_file import read_gguf
from lodestar.networks.packed import Blocks, join_rows
from tiny_gguf import BLOCKS, drawn, plain, write_gguf

pytestmark = pytest.mark.once
QUANTISED = [kind.name for kind in KINDS.values() if kind.length > 1]


@pytest.fixture
def written(tmp_path):
    return write_gguf(tmp_path / "model.gguf", {
        "a.weight": drawn("Q8_0", (4, 64)), "b.weight": drawn("Q4_K", (3, 512)), "c.bias": plain(torch.randn(5)),
        "d.weight": plain(torch.randn(8, 2, 1, 2, 2), "F16")}, {"config": "{}"})


@pytest.mark.parametrize("number", KINDS)
def test_every_type_is_read_as_the_gguf_package_reads_it(number):
    kind = KINDS[number]
    with np.load(BLOCKS) as file:
        raw, wanted = torch.from_numpy(file[f"{kind.name}.raw"]), torch.from_numpy(file[f"{kind.name}.numbers"])
    assert torch.equal(decode_blocks(raw.flatten(), number, wanted.shape[1]), wanted)
    assert kind.length in (1, wanted.shape[1]) and raw.shape[1] * kind.length == kind.size * wanted.shape[1]


def test_the_golden_file_has_all_types():
    assert len(QUANTISED) == 10
    with np.load(BLOCKS) as file:
        assert {name.split(".")[0] for name in file} == {kind.name for kind in KINDS.values()}


def test_quantised_weights_stay_as_they_are_and_others_are_tensors(written):
    weights, metadata = read_gguf(written)
    assert metadata == {"general.architecture": "wan", "config": "{}"}
    assert isinstance(weights["a.weight"], Blocks) and weights["a.weight"].kind == "GGUF Q8_0"
    assert torch.equal(weights["a.weight"].float(), drawn("Q8_0", (4, 64)).numbers)
    assert torch.equal(weights["b.weight"].float(), drawn("Q4_K", (3, 512)).numbers)
    assert weights["c.bias"].dtype == torch.float32 and weights["d.weight"].dtype == torch.float16
    assert weights["d.weight"].shape == (8, 2, 1, 2, 2)
    assert weights["a.weight"].raw.untyped_storage().data_ptr() == weights["c.bias"].untyped_storage().data_ptr()


def test_a_shape_that_was_changed_to_fit_blocks_comes_back(tmp_path):
    stored = drawn("Q5_K", (4, 4, 1, 4, 64))
    path = write_gguf(tmp_path / "m.gguf", {"x.weight": stored}, {"comfy.gguf.orig_shape.x.weight": list(stored.shape)})
    with pytest.raises(ValueError, match="which do not fit"):    # rows of 64 are no Q5_K rows
        read_gguf(path)
    flat = stored._replace(shape=(16, 256))
    path = write_gguf(tmp_path / "m.gguf", {"x.weight": flat}, {"comfy.gguf.orig_shape.x.weight": list(stored.shape)})
    assert read_gguf(path)[0]["x.weight"].shape == stored.shape


def test_rows_of_several_types_are_one_weight():
    parts = [drawn("Q6_K", (2, 256)), drawn("Q4_K", (3, 256)), drawn("Q8_0", (1, 256))]
    packed = [Blocks(torch.frombuffer(bytearray(part.data), dtype=torch.uint8), ((number, part.shape[0]),), part.shape)
              for part, number in zip(parts, (14, 12, 8), strict=True)]
    whole = join_rows(packed)
    assert whole.shape == (6, 256) and whole.kind == "GGUF Q6_K, Q4_K, Q8_0"
    assert torch.equal(whole.float(), torch.cat([part.numbers for part in parts]))


@pytest.mark.parametrize(("damage", "says"), [
    (lambda data: data[:200], "cut short or damaged within its header: 200 bytes are here"),
    (lambda data: data[:-100], "cut short at d.weight; download it again"),
    (lambda data: b"<htm" + data[4:], "no GGUF file: it begins with b'<htm'"),
    (lambda data: b"", "no GGUF file: it begins with b''"),
    (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "GGUF of version 1"),
    (lambda data: data.replace(b"\x04" + bytes(7) + b"\x08\0\0\0", b"\x04" + bytes(7) + b"\x12\0\0\0", 1),
     r"a.weight is quantised as type 18 of GGUF, which is not read here \(read are F32, .*Q6_K\)")])
def test_a_file_that_cannot_be_read_says_why(written, damage, says):
    data = damage(written.read_bytes())
    written.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        read_gguf(Path(written))
