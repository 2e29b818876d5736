"""One picture file -> a square of RGB bytes. Every Pillow mode comes out right or is refused by name.

The rules, the same for every data set:

- The orientation that a picture's EXIF states is applied.
- What is transparent is laid on white, as on a page: alpha bands, palettes with alpha, colour keys.
- Grey values of 16 bits become ``round(value * 255 / 65535)``, of 12-bit TIFF ``value * 255 / 4095``; of colours of
  16 bits Pillow keeps the upper byte, which is the same to one level.
- Mode ``I`` is taken where the file holds 16 bits without sign (PGM, PNG); 32 bits, signed values and floating-point
  numbers (``F``) are refused, since no file says which of their values is white.
- CMYK is mixed without a colour profile; profiles (ICC) and gamma are never applied.
- Of several frames or pages the first is taken.
- A picture that was not of one colour and is after these rules is refused: its content would be lost.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kdbench.data.errors import DataMissing, shown, why

#: Endings of the files that are taken for pictures, in lower case, by the format of their content. Formats that say
#: nothing at their beginning (TGA) are looked for under their own ending only; formats that other programs draw (EPS,
#: PDF, WMF) are never opened.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "ICO": (".ico",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "TGA": (".tga",),
}
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
WHITE = 255

#: What may be worth saying of a picture, in the words that follow "N pictures".
REMARKS = {
    "turned": "turned upright as their EXIF says",
    "exif": "with EXIF data that cannot be read, taken as they lie",
    "frames": "with several frames or pages, of which the first is taken",
    "alpha": "transparent in places, laid on white",
    "deep": "with 16 bits per value, scaled to 8 (value x 255 / 65535)",
    "dark": "with 16 bits per value and nearly black, since they use less than a sixteenth of them",
    "flat": "of one colour once cut to the middle square and scaled",
}

_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
#: Modes whose conversion to RGB can make different pixels equal; of the others it cannot.
_LOSSY = ("CMYK", "YCbCr", "LAB", "HSV")
_PLAIN = ("1", "L", "P", "RGB", "RGBX")


class Picture(NamedTuple):
    """A decoded file."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]  # (size, size, 3)
    remarks: frozenset[str]  # keys of REMARKS
    digest: bytes  # SHA-256 of the file


class Refused(ValueError):
    """A picture that cannot become RGB; the message goes on after "the picture NAME"."""


def read(path: str, size: int, room: Callable[[int], AbstractContextManager[Any]] | None = None) -> Picture:
    """Decode a file, scale its shorter side to ``size`` pixels and cut to the middle square.

    Args:
        room: asked for the picture's number of pixels before they are decoded, held until they are let go.

    Raises:
        DataMissing: one sentence that names the file.
    """
    try:
        return _read(path, size, room or (lambda pixels: nullcontext()))
    except Refused as error:
        raise DataMissing(f"the picture {shown(path)} {error}") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file makes Python raise
        raise DataMissing(f"the picture {shown(path)} cannot be read: {_reason(path, error)}") from error


def _read(path: str, size: int, room: Callable[[int], AbstractContextManager[Any]]) -> Picture:
    about = os.stat(path)
    if stat.S_ISDIR(about.st_mode):
        raise Refused("cannot be read: it is a folder, whose name ends as a picture's")
    if not stat.S_ISREG(about.st_mode):  # a pipe would wait for ever, a device might not end
        raise Refused("cannot be read: it is no regular file")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        with Image.open(file, formats=formats(os.path.splitext(path)[1].lower())) as picture:
            width, height = picture.size
            with room(width * height):
                rgb, remarks = to_rgb(picture)
                square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
                pixels = np.asarray(square)
                if _spread(square) == 0 and _spread(rgb) > 16:
                    remarks.add("flat")
                return Picture(pixels, frozenset(remarks), digest)


def to_rgb(picture: Image.Image) -> tuple[Image.Image, set[str]]:
    """An opened picture as mode RGB, by the rules above, and the keys of ``REMARKS`` that hold for it.

    Raises:
        Refused: its mode, or what would become of it.
        Exception: of many kinds, where the file is broken.
    """
    remarks = {"frames"} if _several(picture) else set()
    raw = _raw_mode(picture)  # gone once the pixels are there
    tags = getattr(picture, "tag_v2", {})  # TIFF
    if tags.get(274, 1) in range(2, 9):  # Pillow turns a TIFF itself, and forgets that it did
        remarks.add("turned")
    inverted = bool(tags) and tags.get(262, 0) == 0  # "white is zero", which Pillow follows up to 8 bits only
    _refuse_modes(picture, raw, signed=tags.get(339, (1,))[0] == 2)
    picture.load()
    key = picture.info.get("transparency")
    if isinstance(key, int) and picture.format == "PNG":  # the key counts in the file's bits, the pixels do not
        picture.info["transparency"] = key * {"1": 255, "L;2": 85, "L;4": 17}.get(raw, 1)
    picture = _upright(picture, remarks)
    if picture.mode in ("I", *_GREY):
        return _from_grey(picture, raw, inverted=inverted, remarks=remarks), remarks
    if _sixteen(raw):
        remarks.add("deep")
    rgb = _from_alpha(picture, remarks) if _has_alpha(picture) else _from_colours(picture)
    if "deep" in remarks and _spread(rgb) == 0:
        raise Refused("has 16 bits per colour and becomes one single colour in 8; save it with 8 bits, well exposed")
    return rgb, remarks


def _refuse_modes(picture: Image.Image, raw: str, *, signed: bool) -> None:
    mode = picture.mode
    if mode in ("I", "F") and not (mode == "I" and _sixteen(raw)):
        kind = "floating-point values" if mode == "F" else "32-bit values" if "32" in raw else "signed or 32-bit values"
        raise Refused(f"has {kind} (Pillow's mode {mode}), and nothing says which is white; save it with 8 or 16 bits")
    if mode == "L" and signed:
        raise Refused("has signed 8-bit values, and nothing says which is white; save it with values from 0 to 255")
    if mode not in ("I", *_GREY, *_ALPHA, *_LOSSY, *_PLAIN):
        raise Refused(f"has Pillow's mode {mode}, which is not turned into RGB here; save it with 8 bits per colour")
    if mode == "CMYK" and picture.format in ("JPEG", "MPO") and "adobe" not in picture.info:
        raise Refused("is a CMYK JPEG that does not say whether its inks are inverted; save it as RGB")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(picture: Image.Image, remarks: set[str]) -> Image.Image:
    """Turned as EXIF or XMP says. ImageOps.exif_transpose does so, too, and fails where the rest of the EXIF is odd."""
    try:
        turn = _TURNS.get(picture.getexif().get(274, 1))
    except Exception:
        remarks.add("exif")
        return picture
    if turn is None:
        return picture
    remarks.add("turned")
    return picture.transpose(turn)


def _from_colours(picture: Image.Image) -> Image.Image:
    rgb = picture.convert("RGB") if picture.mode != "RGB" else picture
    if picture.mode in _LOSSY:
        _keeps_content(picture, rgb, f"turned from {picture.mode} into RGB")
    return rgb


def _has_alpha(picture: Image.Image) -> bool:
    palette = picture.palette.mode if picture.mode == "P" and picture.palette else ""
    return picture.mode in _ALPHA or palette.endswith("A") or picture.info.get("transparency") is not None


def _from_alpha(picture: Image.Image, remarks: set[str]) -> Image.Image:
    if "deep" in remarks and picture.info.get("transparency") is not None:
        raise Refused("has colours of 16 bits and one of them transparent, which Pillow mixes up; save it with 8 bits")
    if picture.mode == "La":
        picture = picture.convert("LA")
    rgba = picture.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    remarks.add("alpha")
    rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, (WHITE,) * 4), rgba).convert("RGB")
    _keeps_content(rgba, rgb, "laid on white where it is transparent")
    return rgb


def _from_grey(picture: Image.Image, raw: str, *, inverted: bool, remarks: set[str]) -> Image.Image:
    values = np.asarray(picture).astype(np.uint32)
    white = 4095 if raw.startswith("I;12") else 65535
    low, high = int(values.min()), int(values.max())
    grey = ((values * 255 + white // 2) // white).astype(np.uint8)
    if low != high and grey.min() == grey.max():
        raise Refused(
            f"has more than 8 bits and values from {low} to {high} of {white} only, which become one single grey in 8"
            " bits; stretch them before"
        )
    remarks.add("deep")
    if not inverted and high < white // 16:
        remarks.add("dark")
    if inverted:
        grey = WHITE - grey
    key = picture.info.get("transparency")
    if isinstance(key, int) and (values == key).any():
        remarks.add("alpha")
        grey[values == key] = WHITE
        if low != high and grey.min() == grey.max():
            raise Refused(_LOST.format("laid on white where it is transparent"))
    return Image.fromarray(grey).convert("RGB")


_LOST = "becomes one single colour when it is {}, which it was not before; save it as RGB on another background"


def _keeps_content(source: Image.Image, rgb: Image.Image, what: str) -> None:
    """Refuse what is (nearly) one colour and was not; a rounding of two levels does not count as content."""
    left, was = _spread(rgb), _spread(source)
    if (left == 0 and was > 0) or (left <= 2 and was > 16):
        raise Refused(_LOST.format(what))


def _spread(picture: Image.Image) -> int:
    """Distance of the least and the greatest value, in the band where it is largest."""
    return max(int(high) - int(low) for low, high in np.reshape(picture.getextrema(), (-1, 2)))


def _several(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # a later frame is broken; the first may be whole
        return True


def _raw_mode(picture: Image.Image) -> str:
    """How the file lays out a pixel, in Pillow's words (``RGB;16B``); "" where it does not say."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    codec, args = tiles[0][0], tiles[0][3]
    many = isinstance(args, tuple)
    if codec == "SGI16" or (codec.startswith("ppm") and many and args[-1] > 255):  # args: raw mode, largest value
        return ";16"
    first = args[0] if many and args else args
    return first if isinstance(first, str) else ""


def _sixteen(raw: str) -> bool:
    """Whether a raw mode has 16 bits per value, without sign; BGR;16 has 16 per pixel."""
    return re.search(r";16[BLNR]?$", raw) is not None and raw != "BGR;16"


@cache
def formats(ending: str) -> tuple[str, ...]:
    """Pillow's names of the formats that a file of this ending may have."""
    Image.init()
    weak = ("TGA",)
    return tuple(name for name, own in FORMATS.items() if name in Image.OPEN and (name not in weak or ending in own))


def _reason(path: str, error: Exception) -> str:
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {shown(os.readlink(path))}, which is not there"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "this user may not open it"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"it has more than {limit:,} pixels, as a decompression bomb has; make it smaller"
    if isinstance(error, UnidentifiedImageError):
        if os.path.getsize(path) == 0:
            return "the file is empty"
        return "its content is no picture of a kind that Pillow reads here"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return why(error)
