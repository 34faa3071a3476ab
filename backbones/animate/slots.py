"""Wan-Animate with N pictures before the video, as EverAnimate was trained; ComfyUI's model knows of one.

Poses are added from slot N on, after their convolution, and the slots' face vectors are zeros, put in front of what the
face encoder gives. Padding either before it is encoded would give the slots its bias, or a face.
"""
from torch import Tensor
from torch.nn.functional import pad

from ..sampling_run import RUN
from ..wan.call import WanCall

SLOTS = "lodestar_slots"    # in transformer_options: latents before the video's, that say who the person is


def with_slots(call: WanCall, slots: int) -> WanCall:
    """The call with the poses and the face from latent number `slots` on."""
    own = call.module.after_patch_embedding

    def after_patch_embedding(x: Tensor, pose_latents: Tensor | None, face_pixels: Tensor | None):
        if pose_latents is not None:
            poses = call.module.pose_patch_embedding(pose_latents)
            x[:, :, slots:slots + poses.shape[2]] += poses[:, :, :x.shape[2] - slots]
        if face_pixels is None:
            return x, None
        return x, encode_face(call, lambda: own(x, None, face_pixels)[1], slots, face_pixels)

    return call.change(stand_ins={**call.stand_ins, "after_patch_embedding": after_patch_embedding})


def encode_face(call: WanCall, encode, slots: int, face_pixels: Tensor) -> Tensor:
    """(B, T, 5, C): what ComfyUI's encoder gives behind its one slot, behind `slots`. It is the same in every step, so
    it is encoded once in a sampling run."""
    def make() -> Tensor:
        vectors = encode()
        return pad(vectors[:, :vectors.shape[1] - slots + 1], (0, 0, 0, 0, slots - 1, 0))

    options = call.transformer_options
    run, conditions = options.get(RUN), options.get("uuids")
    if run is None or not run.steady or conditions is None:
        return make()
    return run.once(("face", tuple(map(str, conditions)), tuple(options["cond_or_uncond"]), tuple(face_pixels.shape),
                     call.x.shape[2], call.x.dtype, call.x.device), make)
