"""Two tiny ONNX files with the interfaces of OpenCV's YuNet and SFace, so that its own classes can be run without them.

The detector sees a face in the brightest place: 8 x 8 pixels that are nearly white. The recogniser's embedding is the
colours of the aligned face. The files are written by hand, since the format is a few nested protobuf messages.
"""
import math
import struct
from pathlib import Path

FLOAT, TENSOR_FLOAT, TENSOR_INT64 = 1, 1, 7
FACE, LANDMARKS = 4.0, ((-1, -1), (1, -1), (0, 0), (-0.8, 1), (0.8, 1))     # in strides, from the middle of the face
WHITE = 250


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, value) -> bytes:
    """One protobuf field: an int, a float, or bytes / text / a nested message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, shape: list[int], values: list, kind: int = TENSOR_FLOAT) -> bytes:
    raw = struct.pack(f"<{len(values)}{'f' if kind == TENSOR_FLOAT else 'q'}", *values)
    return b"".join(field(1, side) for side in shape) + field(2, kind) + field(8, name) + field(9, raw)


def ints(name: str, values: list[int]) -> bytes:
    return field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7)


def node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    return (b"".join(field(1, name) for name in inputs) + field(2, output) + field(3, output) + field(4, kind)
            + b"".join(field(5, attribute) for attribute in attributes))


def value_info(name: str, shape: list[int]) -> bytes:
    sides = b"".join(field(1, field(1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, TENSOR_FLOAT) + field(2, sides)))


def model(nodes: list[bytes], tensors: list[bytes], shape: list[int], outputs: dict[str, list[int]]) -> bytes:
    graph = (b"".join(field(1, one) for one in nodes) + field(2, "tiny") + b"".join(field(5, one) for one in tensors)
             + field(11, value_info("input", shape))
             + b"".join(field(12, value_info(name, sides)) for name, sides in outputs.items()))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 11))


def convolution(name: str, stride: int, weight: float, biases: list[float]) -> tuple[list[bytes], list[bytes]]:
    """(1, 3, H, W) -> (1, H/stride * W/stride, channels): `weight` times the mean over a square, plus the bias."""
    channels = len(biases)
    kernel = [weight / (3 * stride * stride)] * (channels * 3 * stride * stride)
    tensors = [tensor(f"{name}_w", [channels, 3, stride, stride], kernel), tensor(f"{name}_b", [channels], biases),
               tensor(f"{name}_s", [3], [1, -1, channels], TENSOR_INT64)]
    nodes = [node("Conv", ["input", f"{name}_w", f"{name}_b"], f"{name}_c", ints("kernel_shape", [stride, stride]),
                  ints("strides", [stride, stride])),
             node("Transpose", [f"{name}_c"], f"{name}_t", ints("perm", [0, 2, 3, 1])),
             node("Reshape", [f"{name}_t", f"{name}_s"], name)]
    return nodes, tensors


def write_detector(path: Path, side: int = 320) -> Path:
    nodes, tensors, outputs = [], [], {}
    for stride in (8, 16, 32):
        seen = stride == 8
        size = math.log(FACE)
        heads = {"cls": (1.0 if seen else 0.0, [-float(WHITE - 1) if seen else -1.0]), "obj": (0.0, [1.0]),
                 "bbox": (0.0, [0.5, 0.5, size, size]),
                 "kps": (0.0, [offset + 0.5 for point in LANDMARKS for offset in point])}
        for head, (weight, biases) in heads.items():
            made = convolution(f"{head}_{stride}", stride, weight, biases)
            nodes, tensors = nodes + made[0], tensors + made[1]
    for head, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        outputs |= {f"{head}_{stride}": [1, (side // stride) ** 2, channels] for stride in (8, 16, 32)}
    path.write_bytes(model(nodes, tensors, [1, 3, side, side], outputs))
    return path


def write_recogniser(path: Path) -> Path:
    kernel = [1 / 28 ** 2 if channel == other else 0.0 for channel in range(3) for other in range(3)
              for _ in range(28 * 28)]
    nodes = [node("Conv", ["input", "w"], "c", ints("kernel_shape", [28, 28]), ints("strides", [28, 28])),
             node("Reshape", ["c", "s"], "fc1")]
    tensors = [tensor("w", [3, 3, 28, 28], kernel), tensor("s", [2], [1, 48], TENSOR_INT64)]
    path.write_bytes(model(nodes, tensors, [1, 3, 112, 112], {"fc1": [1, 48]}))
    return path
