"""Weight files as disks and networks leave them: whole, cut short, with bytes after their end; no ComfyUI."""
import json

import pytest
import torch
from lodestar.networks.weight_files import format_bytes, read_weights, surplus_bytes
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.once
WEIGHTS = {"a": torch.arange(12.0).reshape(3, 4), "b.c": torch.randn(5).bfloat16(), "d": torch.tensor(7),
           "e": torch.randn(2, 8).to(torch.float8_e4m3fn), "f": torch.zeros(0, 3)}


@pytest.fixture(params=["safetensors", "sft", "pth"])
def file(tmp_path, request):
    path = tmp_path / f"weights.{request.param}"
    if request.param == "pth":
        torch.save(WEIGHTS, path)
    else:
        save_file(WEIGHTS, path, metadata={"format": "pt", "config": "{}"})
    return path


def same(found):
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float()), name


@pytest.mark.parametrize("after", [b"", bytes(4096), b"x" * 70_001], ids=["whole", "zeros", "others"])
def test_a_file_is_read_to_its_own_end(file, after):
    with open(file, "ab") as handle:
        handle.write(after)
    assert surplus_bytes(file) == len(after)
    weights, metadata = read_weights(file)
    same(weights)
    assert metadata.get("config") == (None if file.suffix == ".pth" else "{}")


def test_tensors_are_mapped_where_they_lie(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    weights, _ = read_weights(tmp_path / "w.safetensors")
    assert len({tensor.untyped_storage().data_ptr() for tensor in weights.values() if tensor.numel()}) == 1


def test_tensors_at_odd_addresses_are_copied(tmp_path):
    """Headers need not be padded; core's own reader takes such files, too."""
    data = WEIGHTS["a"].numpy().tobytes()
    for spaces in range(8):
        header = json.dumps({"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode() + b" " * spaces
        (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
        assert torch.equal(read_weights(tmp_path / "odd.safetensors")[0]["a"], WEIGHTS["a"])


def test_the_same_tensors_as_safetensors_reads(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    theirs = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(tensor.float(), theirs[name].float())
               for name, tensor in read_weights(tmp_path / "w.safetensors")[0].items())


@pytest.mark.parametrize(("keep", "says"), [
    (0, "no safetensors file: it begins with b''"), (5, "no safetensors file"), (40, "cut short within its header: 40"),
    (-1, r"cut short: \d+ bytes of \d+ bytes are here; download it again")])
def test_a_cut_file_says_how_much_of_it_is_here(tmp_path, keep, says):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=says):
        surplus_bytes(tmp_path / "w.safetensors")


def test_a_cut_archive_is_refused_as_such(tmp_path):
    torch.save(WEIGHTS, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[:len(data) // 2])
    with pytest.raises(ValueError, match="cut short: .* without their table of contents; download it again"):
        surplus_bytes(tmp_path / "w.pth")


@pytest.mark.parametrize(("header", "says"), [
    (b"<!DOCTYPE html><html>" + b" " * 40, "no safetensors file: it begins with b'<!DOCTYP'"),
    ((9).to_bytes(8, "little") + b"{\"a\": 1}x", "its header is not readable"),
    ((65).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 44]}}' + bytes(60),
     "its header is damaged at a")])
def test_what_is_no_weights_file_is_refused_as_such(tmp_path, header, says):
    (tmp_path / "w.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=says):
        surplus_bytes(tmp_path / "w.safetensors")


def test_sizes_are_written_in_usual_units():
    assert [format_bytes(count) for count in (0, 999, 4096, 31_705_833_600)] == ["0 bytes", "999 bytes", "4.096 kB",
                                                                             "31.71 GB"]
