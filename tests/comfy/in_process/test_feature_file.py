"""feature_file.py: what is read is what was written, it does not stay in RAM, and a full disk is said."""
import gc
import os
import sys
from pathlib import Path

import folder_paths
import psutil
import pytest
import torch
from lodestar.backbones.audio.feature_file import FeatureFile
from lodestar.techniques.timeline import Timeline
from lodestar.tests.full_disk import files_limited_to

pytestmark = pytest.mark.once


def filled(rows: int, layers: int, width: int, pieces: int = 3) -> tuple[FeatureFile, torch.Tensor]:
    """A file of `rows` feature frames, written in pieces, and the same (layers, rows, width) in RAM."""
    file, whole = FeatureFile(), torch.randn(layers, rows, width)
    for piece in whole.tensor_split(pieces, 1):
        file.append([layer[None] for layer in piece])
    return file, whole


@pytest.mark.parametrize("rows, layers, width, pieces", [(1, 1, 1, 1), (7, 13, 5, 3), (1001, 3, 64, 10)])
def test_what_is_read_is_what_was_written(rows, layers, width, pieces):
    file, whole = filled(rows, layers, width, pieces)
    read = file.layers()
    assert [layer.shape for layer in read] == [(1, rows, width)] * layers
    assert torch.equal(torch.cat(read), whole)
    file.release()
    assert torch.equal(torch.cat(read), whole), "released pages come back from the file"


def test_the_layers_outlive_the_file_object():
    file, whole = filled(50, 2, 8)
    read = file.layers()
    del file
    gc.collect()
    assert torch.equal(torch.cat(read), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is read from Linux' own list")
def test_it_lies_in_comfyui_s_temp_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "fast disk"))
    read = filled(50, 2, 8)[0].layers()
    assert len(read) == 2 and str(tmp_path / "fast disk") in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_other_types_are_kept_as_float32():
    file = FeatureFile()
    file.append([torch.ones(1, 2, 3, dtype=torch.bfloat16)])
    assert file.layers()[0].dtype == torch.float32


@pytest.mark.skipif(os.name != "posix", reason="resident pages are given back through madvise")
def test_reading_chunk_by_chunk_stays_in_bounded_memory():
    file = FeatureFile()
    for _ in range(60):
        file.append([torch.randn(1, 1000, 256) for _ in range(2)])   # 123 MB in all
    layers, clock = file.layers(), Timeline(16)
    before, peak = psutil.Process().memory_info().rss, 0
    for frame in range(0, 60 * 1000 * 16 // 50, 80):
        for layer in layers:
            clock.feature_frames(layer, 50.0, frame, 80)
        file.release()
        peak = max(peak, psutil.Process().memory_info().rss)
    assert peak - before < 12e6, f"{(peak - before) / 1e6:.0f} MB of 123"


def test_a_full_disk_is_said():
    with files_limited_to(1 << 20), pytest.raises(ValueError, match="audio: the disk refused 4 MB .*--temp-directory"):
        FeatureFile().append([torch.zeros(1, 1000, 1024)])
