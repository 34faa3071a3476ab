"""Files that were damaged, or made with bad intent, are an error in words: weights, videos, sounds, pictures.

Few of each here; `python tests/rig/mutations.py` tries any number (docs/reliability.md).
"""
import struct

import mutations
import pytest
from lodestar.networks.gguf_file import read_gguf

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("kind", "seed", "count"), [
    *((kind, 3, 12 if kind == "video" else 40) for kind in mutations.KINDS)])
def test_a_few_mutations_of_each(tmp_path, kind, seed, count):
    faults, taken = mutations.find_faults(kind, tmp_path, seed, range(count))
    assert not faults, "\n".join(faults)
    assert taken < count      # some of them did harm


@pytest.mark.parametrize(("kind", "seed", "number"), [
    ("archive", 2, 516), ("archive", 1, 214), ("picture", 1, 119), ("video", 1, 44), ("wav", 1, 144), ("wav", 2, 462)])
def test_what_once_broke_a_reader(tmp_path, kind, seed, number):
    """torch's unpickler and Pillow with errors of Python's own, tracks without a decoder, headers that ask for all."""
    faults, _ = mutations.find_faults(kind, tmp_path, seed, [number])
    assert not faults, "\n".join(faults)


def text(value):
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize("entry", [
    struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000, struct.pack("<IQ", 8, 2 ** 63 - 1),
    struct.pack("<I", 8888)],
    ids=["arrays in arrays", "a text without end", "an unknown type"])
def test_a_header_of_gguf_without_end(tmp_path, entry):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"key") + entry)
    with pytest.raises(ValueError, match="it is cut short or damaged within its header"):
        read_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize("value", [struct.pack("<II", 4, 0), struct.pack("<I", 8) + text(b"x")], ids=["0", "text"])
def test_an_alignment_of_gguf_that_is_none(tmp_path, value):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"general.alignment") + value)
    with pytest.raises(ValueError, match="damaged within its header"):
        read_gguf(tmp_path / "a.gguf")
