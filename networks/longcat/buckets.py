"""The sizes that LongCat-Video was trained at, by their proportions: buckets for 480p, for 720p, and for refinement."""
import math

Size = tuple[int, int]      # width, height

P480 = ((1216, 320), (1120, 352), (1024, 384), (960, 416), (864, 448), (832, 480), (768, 512), (736, 544), (672, 576),
        (640, 608), (608, 640), (576, 672), (544, 704), (544, 736), (512, 768), (480, 800), (480, 832), (448, 896),
        (416, 960), (384, 992), (384, 1056), (352, 1088), (320, 1184), (320, 1216), (320, 1248), (320, 1280))
P720 = ((1920, 480), (1792, 512), (1696, 544), (1600, 576), (1504, 608), (1376, 672), (1312, 704), (1248, 736),
        (1152, 800), (1120, 832), (1056, 864), (1024, 896), (992, 928), (960, 960), (928, 992), (896, 1024),
        (864, 1056), (832, 1088), (832, 1120), (800, 1152), (736, 1248), (672, 1344), (672, 1376), (608, 1504),
        (608, 1536), (576, 1632), (544, 1664), (544, 1696), (512, 1856), (480, 1888), (480, 1920))
REFINED = ((2048, 448), (1792, 512), (1600, 576), (1408, 640), (1280, 704), (1216, 768), (1088, 832), (1024, 896),
           (960, 960), (896, 1024), (832, 1088), (768, 1152), (768, 1216), (704, 1280), (704, 1344), (640, 1408),
           (640, 1472), (576, 1536), (576, 1664), (512, 1856), (512, 1920))     # in multiples of 64


def nearest(buckets: tuple[Size, ...], proportion: float) -> Size:
    """The bucket whose height / width, to two places as the authors keep it, is nearest to `proportion`."""
    return min(buckets, key=lambda size: abs(round(size[1] / size[0], 2) - proportion))


def nearest_trained(proportion: float, pixels: int) -> Size:
    """The same among those of 480p or of 720p, whichever has more nearly so many pixels."""
    return nearest(min((P480, P720), key=lambda sizes: abs(math.log(pixels / pixels_of(sizes)))), proportion)


def pixels_of(buckets: tuple[Size, ...]) -> float:
    """Of a bucket of the table, on average."""
    return sum(width * height for width, height in buckets) / len(buckets)
