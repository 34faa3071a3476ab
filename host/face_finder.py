"""Where the face is in pictures of the user's: by core's face landmarker where its file is there, else by OpenCV's."""
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import folder_paths
import torch
from torch import Tensor

from ..pipelines.metrics.faces import FacesMissing, OpenCvFaces
from ..techniques.reference_tokens import Box
from .measured_video import face_folders

logger = logging.getLogger("lodestar")
LANDMARKER = "landmarker"   # in the name of its file, in models/detection
WHERE = ("Put core's face landmarker (its name has 'landmarker' in it) into models/detection, or mark the person in "
         "regions")


@dataclass(eq=False)
class FaceFinder:
    """`detect`: (H, W, 3) -> the boxes (left, top, right, bottom) in pixels of all faces, and of each what is in it,
    (D,) or None. `most`: how many faces a picture had at most."""
    detect: Callable[[Tensor], list[tuple[tuple[float, ...], Tensor | None]]]
    most: int = field(default=0)

    def largest(self, frame: Tensor) -> tuple[Box | None, Tensor | None]:
        """The largest face's box, from 0 to 1 of the picture, and pose and expression where they are known."""
        faces = self.detect(frame)
        self.most = max(self.most, len(faces))
        if not faces:
            return None, None
        (left, top, right, bottom), pose = max(faces, key=lambda face: area(face[0]))
        rows, columns = frame.shape[:2]
        return (left / columns, top / rows, right / columns, bottom / rows), pose


def area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def find_faces() -> FaceFinder:
    """Raises FacesMissing where nothing here finds faces."""
    landmarker = open_landmarker()
    if landmarker is not None:
        return FaceFinder(landmarker)
    try:
        return FaceFinder(OpenCvFaces(face_folders(), 1).all_boxes)
    except FacesMissing as error:
        raise FacesMissing(f"{str(error).rstrip('.')}. {WHERE}") from error


def open_landmarker() -> Callable | None:
    """Core's, which says pose, mouth and expression, too; None where this ComfyUI or its file has none."""
    if find_spec("comfy_extras.nodes_mediapipe") is None or "detection" not in folder_paths.folder_names_and_paths:
        return None
    name = next((name for name in folder_paths.get_filename_list("detection") if LANDMARKER in name.lower()), None)
    if name is None:
        return None
    from comfy_extras.nodes_mediapipe import LoadMediaPipeFaceLandmarker, MediaPipeFaceLandmarker
    model = LoadMediaPipeFaceLandmarker.execute(name).args[0]
    logger.info("faces are found with %s", name)

    def detect(frame: Tensor) -> list[tuple[tuple[float, ...], Tensor | None]]:
        found, _ = MediaPipeFaceLandmarker.execute(model, frame[None], "full", 0, 0.5, "empty").args
        return [(tuple(map(float, face["bbox_xyxy"])), pose_of(face)) for face in found["frames"][0]]

    return detect


def pose_of(face: dict) -> Tensor:
    """Head pose and expression (D,): the rotation, and how far each of the face's movements goes."""
    turned = torch.as_tensor(face["transformation_matrix"], dtype=torch.float32)[:3, :3].flatten()
    return torch.cat([turned, torch.tensor(list(face["blendshapes"].values()), dtype=torch.float32)])
