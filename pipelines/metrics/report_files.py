"""A report on disk: <video>.report.json and <video>.report.png, each whole or not at all."""
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..safe_files import writing


def beside(video: Path) -> Path:
    """The report of a video, without its ending: take.mp4 -> take.report"""
    return video.with_name(f"{video.stem}.report")


def save_report(report: dict[str, Any], picture: Tensor, base: Path) -> tuple[Path, Path]:
    """Write `base`.json and `base`.png and return where they are. Raises NotWritten if the disk refuses."""
    paths = base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}.png")
    drafts = [path.with_name(f"{path.name}.part") for path in paths]
    with writing(base):
        base.parent.mkdir(parents=True, exist_ok=True)
        try:
            drafts[0].write_text(as_json(report) + "\n", encoding="utf-8")
            Image.fromarray(picture.mul(255).round().byte().numpy()).save(drafts[1], "PNG")
            for draft, path in zip(drafts, paths, strict=True):
                os.replace(draft, path)
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)
    return paths


def as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, allow_nan=False)
