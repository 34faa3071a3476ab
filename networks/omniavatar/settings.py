"""What OmniAvatar was trained with and runs with upstream: every fact of both sizes stands here once.

Chunks are as long as 30,000 tokens allow, so a larger picture has shorter ones.
"""
FPS, RATIO = 25, 4              # pixel frames per second, and per latent behind the first
OVERLAP_FRAMES = 13
TOKENS = 30_000                 # of one chunk upstream, one of them 32x32 pixels of a frame
SIZES = ((720, 400), (400, 720), (720, 720))    # width and height
CHUNK_FRAMES = 105              # of a chunk of the first of these, the longest
LORA_SCALE = 64 / 128           # alpha by rank; the published files hold no alpha
SHIFT = 5.0
SPEECH_LAYERS, SPEECH_WIDTH = 13, 768           # of wav2vec2-base-960h, whose final output counts twice
LEAD_SECONDS = 0.3              # of silence before the speech
EXTRA_CHANNELS = 17             # behind the noisy latent: the reference's, and whether a frame is to be made


def chunk_frames(width: int, height: int, tokens: int = TOKENS) -> int:
    """Pixel frames of one chunk upstream, 4k + 1: 105 at 720x400, 57 at 720x720."""
    return (int(tokens * 1024 / (width * height)) - 1) // RATIO * RATIO + 1


def speech_frames(frames: int, chunk: int, overlap: int = OVERLAP_FRAMES) -> int:
    """Video frames of speech that fill whole chunks, where the speech itself has `frames`: silence stands behind it.

    The take's first pixel frame, which is the reference, has none.
    """
    first, step = chunk - 1, chunk - overlap
    return first + max(0, -(-(frames - first) // step)) * step


def injected_blocks(depth: int) -> range:
    """The blocks of a network of `depth` blocks before which speech comes in."""
    return range(2, depth // 2 + 1)
