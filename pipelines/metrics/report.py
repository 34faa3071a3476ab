"""Take Report: everything that is measured of one video, in one pass over its frames, as a dict that JSON knows.

Frames and sound are read as a stream and forgotten, so a video of any length fits. What cannot be measured stands under
`left_out` with the reason and what to do; nothing else is affected by it.
"""
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...networks.syncnet import SyncNetMissing, load_syncnet
from ...techniques.speaker_masks import parse_box
from ..picture_file import crop_picture
from .colour import ColourDrift
from .faces import Detection, FacesMissing, OpenCvFaces
from .flicker import Flicker
from .frechet import WindowedFrechet, picture_features
from .freeze import Freezes
from .identity import Identity
from .lipsync import LipSync, loudness, mouth_opening
from .mfcc import SAMPLE_RATE
from .motion import Motion
from .repetition import Likeness, Repetition
from .seam import Seams
from .sharpness import Sharpness
from .syncnet import SyncNetScores
from .track import Track
from .verdict import Thumbnails, as_dict, judge
from .video_reader import Sound, VideoReader, sound_of

NO_REFERENCE = "no reference picture was given"
NO_MOUTH = "the mouth's place is unknown: give a mouth box, or OpenCV's face files"
DRAWN = "the puppet is a drawing, and real faces are what is looked for (scripts/report.py --drawn reads its own)"
NO_FACE_BOX = "SyncNet is for real faces, and the face detection of this video gives no boxes"
NO_SYNC_WINDOW = "no quarter of a second of the video has sound and a face in every frame"


def evaluate(video: VideoReader, *, speech: dict | None = None, borders: Sequence[int] = (),
             reference: Tensor | None = None, mouth_box: str = "", models: Sequence[Path] = (),
             detect: Callable[[Tensor], Detection] | None = None, identity: Tensor | None = None,
             on_frames: Callable[[int], None] = lambda frames: None, thumbnails: Thumbnails | None = None,
             drawn: bool = False) -> dict[str, Any]:
    """The report of one video (see video_reader).

    `speech`: AUDIO {"waveform": (1, channels, N), "sample_rate"}, else the video's own sound. `borders`: the first
    frame of each chunk but the first. `reference`: a picture (H, W, 3); without one, the first face is. `mouth_box`:
    left, top, right, bottom from 0 to 1, instead of what faces say. `models`: folders with OpenCV's face files and
    SyncNet's; `detect` finds faces in another way (see faces), and `identity` (D,) is then the reference's embedding.
    `on_frames` gets how many frames are done, and may raise to stop; `thumbnails` keeps small pictures of the video.
    `drawn`: it is the puppet's, and no real face is looked for.
    The report's `verdict` is its five figures in words (see verdict).
    Raises ValueError for what cannot be read, for borders outside the video and for a box that is none.
    """
    builder = ReportBuilder(video, speech, borders, reference, mouth_box)
    if detect:
        builder.detect, builder.identity = detect, Identity(float(video.fps), identity)
    elif drawn:
        builder.left_out |= {name: DRAWN for name in ("identity", "syncnet", *([] if mouth_box.strip() else ["mouth"]))}
    else:
        builder.open_faces(models, reference)
    if not drawn or detect:
        builder.open_syncnet(models)
    for piece in video.pieces():
        builder.add(piece)
        if thumbnails is not None:
            thumbnails.add(piece)
        on_frames(builder.frames)
    report = builder.report()
    return {**report, "verdict": as_dict(judge(report))}


class ReportBuilder:
    """All measures of one video, fed the same pieces."""

    def __init__(self, video: VideoReader, speech: dict | None, borders: Sequence[int], reference: Tensor | None,
                 mouth_box: str):
        fps = float(video.fps)
        self.video, self.borders, self.frames = video, sorted(borders), 0
        self.detect: Callable[[Tensor], Detection] = lambda frames: Detection()
        self.measures: dict[str, Any] = {
            "colour_drift": ColourDrift(fps), "sharpness": Sharpness(fps), "flicker": Flicker(fps),
            "motion": Motion(fps), "freeze": Freezes(fps), "repetition": Repetition(fps), "seams": Seams(fps, borders)}
        self.left_out: dict[str, str] = {}
        if reference is None:
            self.left_out["likeness"] = NO_REFERENCE
        else:
            self.measures["likeness"] = Likeness(fps, crop_picture(reference, video.width, video.height))
        try:
            self.box = parse_box(mouth_box, video.height, video.width) if mouth_box.strip() else None
        except ValueError as error:
            raise ValueError(f"mouth_box: {error}") from error
        self.identity, self.frechet = Identity(fps), WindowedFrechet(fps)
        self.lips, self.mouth = LipSync(fps), Track(fps)
        self.speech, self.boxed = speech, False
        self.syncnet: SyncNetScores | None = None
        sound = self.sound()
        self._loudness = sound and loudness(sound.pieces, sound.sample_rate, fps)

    def sound(self) -> Sound | None:
        """From its beginning each time it is asked for."""
        if self.speech is None:
            return self.video.sound()
        return sound_of(self.speech["waveform"], int(self.speech["sample_rate"]))

    @property
    def no_sound(self) -> str:
        return f"{self.video.why_silent}: give the speech"

    def open_faces(self, models: Sequence[Path], reference: Tensor | None) -> None:
        try:
            faces = OpenCvFaces(models, float(self.video.fps))
        except FacesMissing as missing:
            self.left_out["identity"] = str(missing)
            return
        person = None if reference is None else faces.of_picture(reference)
        if reference is not None and person is None:
            self.left_out["identity"] = "no face was found in the reference picture"
            self.detect = lambda frames: faces(frames)._replace(embeddings=None)
        else:
            self.detect, self.identity = faces, Identity(float(self.video.fps), person)

    def open_syncnet(self, models: Sequence[Path]) -> None:
        sound = self.sound()
        if sound is None:
            self.left_out["syncnet"] = self.no_sound
            return
        try:
            self.syncnet = SyncNetScores(load_syncnet(models), Fraction(self.video.fps), sound.at_rate(SAMPLE_RATE))
        except SyncNetMissing as missing:
            self.left_out["syncnet"] = str(missing)

    def add(self, frames: Tensor) -> None:
        self.frames += len(frames)
        for measure in self.measures.values():
            measure.add(frames)
        self.frechet.add(picture_features(frames))
        seen = self.detect(frames)
        if seen.embeddings is not None:
            self.identity.add(seen.embeddings)
        if seen.boxes is not None:
            self.boxed = True
            if self.syncnet:
                self.syncnet.add(frames, seen.boxes)
        openings = seen.openings if self.box is None else mouth_opening(frames, self.box)
        if openings is None:
            return
        self.mouth.add(openings)
        if self._loudness is not None:
            energies = list(islice(self._loudness, len(frames)))
            self.lips.add(openings, np.array(energies + [math.nan] * (len(frames) - len(energies))))

    def report(self) -> dict[str, Any]:
        if not self.frames:
            raise ValueError(f"{self.video.name} has no frames")
        if self.borders and not 0 < self.borders[0] <= self.borders[-1] < self.frames:
            raise ValueError(f"borders: got {self.borders[0]} to {self.borders[-1]}, but {self.video.name} has "
                             f"{self.frames} frames. Give the plan that made this video")
        found = {name: measure.result() for name, measure in self.measures.items()}
        left_out = dict(self.left_out)
        if not self.borders:
            left_out["seams"] = "no chunk borders were given: connect the plan, or name them"
        self._add_tracks(found, left_out)
        self._add_syncnet(found, left_out)
        fps = float(self.video.fps)
        return {"video": {"name": self.video.name, "frames": self.frames, "fps": fps, "seconds": self.frames / fps,
                          "width": self.video.width, "height": self.video.height},
                "borders": self.borders, "measures": found, "left_out": left_out}

    def _add_tracks(self, found: dict[str, Any], left_out: dict[str, str]) -> None:
        for name, measure, reason in (
                ("frechet", self.frechet, "the video is shorter than a second"),
                ("identity", self.identity, "no face was found in the video"), ("mouth", self.mouth, NO_MOUTH)):
            result = measure.result()
            if result["frames"]:
                found[name] = result
            else:
                left_out.setdefault(name, reason)
        lips = self.lips.result()
        if lips["correlation"] is not None:
            found["lip_sync"] = lips
        elif "mouth" in left_out:
            left_out["lip_sync"] = left_out["mouth"]
        else:
            left_out["lip_sync"] = ("the mouth or the sound never changes, or there are too few frames"
                                    if self._loudness is not None else self.no_sound)

    def _add_syncnet(self, found: dict[str, Any], left_out: dict[str, str]) -> None:
        scores = self.syncnet.result() if self.syncnet else {"windows": 0}
        if scores["windows"]:
            found["syncnet"] = scores
        elif self.boxed:
            left_out.setdefault("syncnet", NO_SYNC_WINDOW)
        elif "identity" in self.left_out:
            left_out.setdefault("syncnet", self.left_out["identity"])
        else:
            left_out["syncnet"] = NO_FACE_BOX
