"""How a puppet moves: every quantity is a function of a seed and a time, so any stretch of an endless take can be asked
for by itself.

Slow motion is a cubic B-spline through hashed random values (smooth, aperiodic); blinks, glances and moods are events
in jittered slots. It goes on in pauses; of the speech it knows its loudness alone (`with_speech`).
"""
import numpy as np

MOTION = ("head_x", "head_y", "head_scale", "head_tilt", "turn", "nod", "sway", "lean", "breath", "blink", "brow",
          "gaze_x", "gaze_y", "expression")
PERIODS_SECONDS = {"sway": 1.4, "sway, fast": 0.6, "turn": 1.0, "turn, fast": 0.5, "nod": 0.8, "nod, fast": 0.4,
                   "x": 0.9, "y": 1.0, "y, fast": 0.5, "scale": 1.7, "tilt": 1.1, "tilt, fast": 0.55, "lean": 1.6,
                   "breath": 4.0}
BLINK_SECONDS = 0.28
KNOTS = np.arange(-1, 3)[:, None, None]


def motion(seed: int, seconds: np.ndarray) -> np.ndarray:
    """(T,) times, in any order, to (T, len(MOTION)): lengths in 64ths of the picture, tilt and lean in radians, scale
    about 1, blink in 0..1, the others in about -1..1."""
    lively = 0.75 + 0.5 * uniform(seed, 99, np.zeros(1, np.int64))[0]
    noise = dict(zip(PERIODS_SECONDS, lively * smooth_noise(seed, seconds), strict=True))
    sway = 3.0 * (noise["sway"] + 0.3 * noise["sway, fast"])
    turn = np.clip(0.95 * noise["turn"] + 0.3 * noise["turn, fast"], -1, 1)
    nod = np.clip(0.8 * noise["nod"] + 0.35 * noise["nod, fast"], -1, 1)
    return np.stack([
        0.8 * sway + 1.2 * turn + 2.0 * noise["x"], 1.7 * (noise["y"] + 0.3 * noise["y, fast"]) + 0.5 * nod,
        1 + 0.05 * noise["scale"], 0.16 * (noise["tilt"] + 0.3 * noise["tilt, fast"]), turn, nod, sway,
        0.05 * noise["lean"], 0.7 * np.sin(2 * np.pi * seconds / 3.7 + 1.5 * noise["breath"] + seed % 7),
        blinks(seed, 20, seconds), hold_values(seed, 30, seconds, 1.3, 0.24) ** 3,
        hold_values(seed, 40, seconds, 0.9, 0.09), hold_values(seed, 50, seconds, 1.1, 0.09),
        0.15 + 0.8 * hold_values(seed, 60, seconds, 4.0, 0.6),
    ], 1)


def with_speech(moved: np.ndarray, loudness: np.ndarray) -> np.ndarray:
    """(T, len(MOTION)) and (T,) in 0..1: how far the head is from its rest is multiplied by 0.6 to 1.4."""
    head = np.isin(MOTION, ("head_x", "head_y", "head_scale", "head_tilt", "turn", "nod"))
    rest = np.array([float(name == "head_scale") for name in MOTION])
    further = np.where(head, 0.6 + 0.8 * loudness[:, None], 1)
    found = rest + (moved - rest) * further
    both = [MOTION.index("turn"), MOTION.index("nod")]
    found[:, both] = found[:, both].clip(-1, 1)
    return found


def uniform(seed: int, channel: int | np.ndarray, index: np.ndarray) -> np.ndarray:
    """Random numbers in [0, 1) that depend on nothing but seed, channel and integer index (splitmix64)."""
    x = np.array([seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF], np.uint64)
    x = x + np.array([channel], np.uint64).reshape(np.shape(channel)) * np.uint64(0xD1B54A32D192ED03)
    x = x + index.astype(np.int64).view(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 0x9E3779B97F4A7C15)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x ^ (x >> np.uint64(32))) / 2.0 ** 64


def smooth_noise(seed: int, seconds: np.ndarray) -> np.ndarray:
    """(len(PERIODS_SECONDS), T): twice differentiable random curves in about -1..1, each turning once per period."""
    t = seconds / np.array(list(PERIODS_SECONDS.values()))[:, None]
    knot = np.floor(t).astype(np.int64)
    f = t - knot
    weights = np.stack([(1 - f) ** 3, 3 * f ** 3 - 6 * f ** 2 + 4, -3 * f ** 3 + 3 * f ** 2 + 3 * f + 1, f ** 3])
    channels: np.ndarray = np.arange(len(t), dtype=np.uint64)[:, None]
    return 1.4 / 6 * (weights * (2 * uniform(seed, channels, knot + KNOTS) - 1)).sum(0)


def hold_values(seed: int, channel: int, seconds: np.ndarray, slot_seconds: float, change_seconds: float) -> np.ndarray:
    """A value in -1..1 that rests and now and then goes over to another; at most one change per slot."""
    slot = np.floor(seconds / slot_seconds).astype(np.int64)
    room = 1 - change_seconds / slot_seconds
    since = seconds - (slot + room * uniform(seed, channel, slot)) * slot_seconds
    before, now = 2 * uniform(seed, channel + 1, np.stack([slot - 1, slot])) - 1
    return before + (now - before) * ease(since / change_seconds)


def blinks(seed: int, channel: int, seconds: np.ndarray) -> np.ndarray:
    """1 where the eyes are shut: a blink in three of four slots of 2.6 s, anywhere in its slot."""
    slot = np.floor(seconds / 2.6).astype(np.int64)
    since = seconds - (slot + (1 - BLINK_SECONDS / 2.6) * uniform(seed, channel, slot)) * 2.6
    shut = ease(since / 0.09) * (1 - ease((since - 0.13) / (BLINK_SECONDS - 0.13)))
    return shut * (uniform(seed, channel + 1, slot) < 0.75)


def ease(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
