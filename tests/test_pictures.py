"""Pictures of every kind become RGB rightly, or are refused in a sentence that names the file."""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
import threading
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forking import ended
from PIL import Image, ImageFile

from kdbench.data import decode, pictures
from kdbench.data.errors import DataMissing, shown
from kdbench.data.pictures import Refused, read, to_rgb

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
#: Content in every channel, and left, right, top and bottom differ.
SCENE = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)


def saved(path: Path, image: Image.Image, **words: Any) -> str:
    image.save(path, **words)
    return str(path)


def pixels(path: str, size: int = 16) -> np.ndarray:
    return read(path, size).pixels.astype(int)


def refused(path: str | Path, size: int = 16) -> str:
    with pytest.raises(DataMissing) as raised:
        read(str(path), size)
    sentence = str(raised.value)
    assert shown(str(path)) in sentence
    assert "\n" not in sentence
    return sentence.replace(shown(str(path)), "FILE")


def png(width: int, height: int, bits: int, kind: int, rows: Sequence[bytes], key: bytes | None = None) -> bytes:
    """A PNG by hand: Pillow writes neither few bits with a key nor 16-bit colours."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"tRNS", key) if key else b"") + data + chunk(b"IEND", b"")


def tiff(values: np.ndarray, bits: int, photometric: int, sample_format: int = 1) -> bytes:
    """A little-endian grey TIFF by hand; 12 bits are packed as Pillow unpacks them."""
    h, w = values.shape
    if bits == 12:
        packed = bytearray()
        for a, b in values.reshape(-1, 2).tolist():
            packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        data = bytes(packed)
    else:
        data = values.tobytes()
    tags = {
        256: w,
        257: h,
        258: bits,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: h,
        279: len(data),
        339: sample_format,
    }
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


# -- modes --------------------------------------------------------------------------------


def test_every_mode_of_pillow_is_right_or_refused_by_name() -> None:
    scene = Image.fromarray(SCENE)
    seen = set()
    for mode in [*Image.MODES, "I;16L", "I;16N"]:
        if mode in ("I;16", "I;16B", "I;16L", "I;16N"):
            source = Image.frombytes(mode, (16, 16), (RAMP.astype(">u2" if mode == "I;16B" else "<u2") * 257).tobytes())
            wanted = np.repeat(RAMP[..., None], 3, axis=-1)
        elif mode in ("I", "F"):
            with pytest.raises(Refused, match=f"mode {mode}\\)"):
                to_rgb(Image.fromarray(RAMP).convert(mode))
            seen.add(mode)
            continue
        elif mode in ("La", "LA", "PA"):
            grey = Image.fromarray(RAMP)
            source = grey.convert("LA") if mode != "PA" else grey.convert("P").convert("PA")
            source = source.convert("La") if mode == "La" else source
            wanted = np.repeat(RAMP[..., None], 3, axis=-1)
        elif mode == "P":
            source = scene.quantize(256)
            wanted = np.asarray(source.convert("RGB"))
        elif mode == "1":
            source = Image.fromarray(RAMP > 99)
            wanted = np.repeat(np.where(RAMP > 99, 255, 0)[..., None], 3, axis=-1)
        elif mode == "L":
            source, wanted = Image.fromarray(RAMP), np.repeat(RAMP[..., None], 3, axis=-1)
        elif mode == "LAB":  # 8 bits of L, a and b hold less of saturated colours
            wanted = SCENE // 2 + 64
            source = Image.fromarray(wanted).convert("LAB")
        else:
            source = scene.convert(mode) if mode != "RGBa" else scene.convert("RGBA").convert("RGBa")
            wanted = SCENE
        assert source.mode == mode
        rgb, _ = to_rgb(source)
        assert rgb.mode == "RGB"
        near = {"YCbCr": 3, "LAB": 8, "HSV": 8}.get(mode, 0)  # few values per band, so roundings of their own
        off = np.abs(np.asarray(rgb).astype(int) - wanted.astype(int))
        assert off.max() <= near, mode
        seen.add(mode)
    assert seen >= set(Image.MODES)
    strange = Image.new("RGB", (4, 4))
    strange._mode = "BGR;15"
    with pytest.raises(Refused, match="mode BGR;15"):
        to_rgb(strange)


@pytest.mark.parametrize("file", ["a.png", "a.pgm", "a.tif", "big.tif", "lzw.tif", "a.jp2"])
def test_sixteen_bits_are_scaled(tmp_path: Path, file: str) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = (
        Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes())
        if file == "big.tif"
        else Image.fromarray(values)
    )
    path = saved(tmp_path / file, image, **({"compression": "tiff_lzw"} if file == "lzw.tif" else {}))
    picture = read(path, 16)
    assert (picture.pixels == np.round(values * 255.0 / 65535)[..., None]).all()
    assert picture.remarks == {"deep"}


def test_sixteen_bit_colours_and_twelve_bit_greys(tmp_path: Path) -> None:
    colour = tmp_path / "colour.png"
    rows = [struct.pack(">6H", 65535, 32768, 0, 256 * row, 300, 65535) for row in range(2)]
    colour.write_bytes(png(2, 2, 16, 2, rows))
    assert pixels(str(colour), 2).tolist() == [[[255, 128, 0], [row, 1, 255]] for row in range(2)]
    assert read(str(colour), 2).remarks == {"deep"}
    values = np.array([[0, 4095], [2048, 16]], dtype=np.uint16)
    twelve = tmp_path / "twelve.tif"
    twelve.write_bytes(tiff(values, 12, 1))
    assert pixels(str(twelve), 2)[..., 0].tolist() == [[0, 255], [128, 1]]


def test_white_is_zero(tmp_path: Path) -> None:
    for bits, dtype, top in ((8, np.uint8, 255), (16, np.uint16, 65535)):
        file = tmp_path / f"{bits}.tif"
        file.write_bytes(tiff(np.array([[0, top], [top // 5, 0]], dtype=dtype), bits, 0))
        assert pixels(str(file), 2)[..., 0].tolist() == [[255, 0], [204, 255]]
        assert "dark" not in read(str(file), 2).remarks


@pytest.mark.parametrize(
    ("values", "bits", "sample_format", "words"),
    [
        (np.array([[0, 70000]], dtype="<i4"), 32, 2, "32-bit values (Pillow's mode I)"),
        (np.array([[0, 7]], dtype="<u4"), 32, 1, "32-bit values (Pillow's mode I)"),
        (np.array([[-5, 700]], dtype="<i2"), 16, 2, "signed or 32-bit values (Pillow's mode I)"),
        (np.array([[-5, 70]], dtype="i1"), 8, 2, "signed 8-bit values"),
        (np.array([[0.0, 1.0]], dtype="<f4"), 32, 3, "floating-point values (Pillow's mode F)"),
    ],
)
def test_values_without_a_white_are_refused(
    tmp_path: Path, values: np.ndarray, bits: int, sample_format: int, words: str
) -> None:
    file = tmp_path / "a.tiff"
    file.write_bytes(tiff(values, bits, 1, sample_format))
    assert f"the picture FILE has {words}, and nothing says which is white" in refused(file)


def test_content_that_conversion_would_lose_is_refused(tmp_path: Path) -> None:
    dim = saved(tmp_path / "dim.png", Image.fromarray(RAMP.astype(np.uint16) // 2))
    assert "values from 0 to 127 of 65535 only, which become one single grey" in refused(dim)
    dark = saved(tmp_path / "dark.png", Image.fromarray(RAMP.astype(np.uint16) * 16 + 7))
    assert read(dark, 16).remarks == {"deep", "dark"}
    assert len(np.unique(read(dark, 16).pixels)) > 10
    colour = tmp_path / "colour.png"
    colour.write_bytes(png(2, 1, 16, 2, [struct.pack(">6H", 1, 2, 3, 200, 100, 50)]))
    assert "16 bits per colour and becomes one single colour" in refused(colour)
    shape = np.full((16, 16, 4), 255, np.uint8)
    shape[4:12, 4:12, 3] = 0
    shape[0, 0] = (253, 254, 255, 255)  # a rounding of white is no content
    logo = saved(tmp_path / "logo.png", Image.fromarray(shape))
    assert "becomes one single colour when it is laid on white where it is transparent" in refused(logo)
    ghost = np.dstack([SCENE, np.zeros((16, 16), np.uint8)])
    assert "one single colour" in refused(
        saved(tmp_path / "ghost.webp", Image.fromarray(ghost), lossless=True, exact=True)
    )
    inks = np.dstack([SCENE, np.full((16, 16), 255, np.uint8)])  # all of it under full black
    assert "turned from CMYK into RGB" in refused(saved(tmp_path / "inks.tif", Image.fromarray(inks, mode="CMYK")))
    # One colour from the start is no loss.
    for name, image in (
        ("deep.png", Image.fromarray(np.full((8, 8), 9, np.uint16))),
        ("clear.png", Image.new("RGBA", (8, 8), (0, 0, 0, 0))),
        ("black.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 255))),
        ("grey.gif", Image.new("L", (8, 8), 77)),
    ):
        assert np.ptp(pixels(saved(tmp_path / name, image), 8)) == 0


# -- transparency -------------------------------------------------------------------------


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    alpha[0, 0] = 102
    icon = Image.fromarray(np.dstack([np.zeros((16, 16, 3), np.uint8), alpha]))  # the shape is in alpha only
    for file, image in (
        ("a.png", icon),
        ("b.png", icon.convert("LA")),
        ("a.webp", icon),
        ("a.tga", icon),
        ("a.ico", icon),
        ("a.tif", icon),
        ("b.tif", icon.convert("LA")),
    ):
        picture = read(saved(tmp_path / file, image, **({"lossless": True} if file == "a.webp" else {})), 16)
        assert picture.pixels[5, :, 1].tolist() == [255] * 8 + [0] * 8, file
        assert picture.pixels[0, 0].tolist() == [153] * 3, file
        assert picture.remarks == {"alpha"}, file
    opaque = saved(tmp_path / "opaque.png", Image.fromarray(np.dstack([SCENE, np.full((16, 16), 255, np.uint8)])))
    assert (pixels(opaque) == SCENE).all()
    assert not read(opaque, 16).remarks


def test_transparent_palettes(tmp_path: Path) -> None:
    indices = Image.fromarray(RAMP // 64, mode="L").convert("P")
    indices.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    for file, key, wanted in (
        ("a.gif", 2, [10, 40, 255, 100]),
        ("a.png", 2, [10, 40, 255, 100]),
        ("b.png", bytes([0, 255, 51, 255]), [255, 40, 255 - 37, 100]),
    ):
        path = saved(tmp_path / file, indices, transparency=key)
        assert read(path, 16).pixels[::4, 0, 0].tolist() == wanted, file
        assert read(path, 16).remarks == {"alpha"}, file
    assert not read(saved(tmp_path / "c.png", indices), 16).remarks


@pytest.mark.parametrize(
    ("bits", "kind", "row", "key", "wanted"),
    [
        (1, 0, bytes([0b01000000]), b"\0\0", [255, 255]),
        (2, 0, bytes([0b00010000]), b"\0\1", [0, 255]),
        (4, 0, bytes([0x3A]), b"\0\x0a", [51, 255]),
        (8, 0, bytes([51, 10]), b"\0\x0a", [51, 255]),
        (16, 0, struct.pack(">HH", 65535 // 5, 300), struct.pack(">H", 300), [51, 255]),
        (8, 2, bytes([1, 1, 1, 2, 2, 2]), struct.pack(">HHH", 2, 2, 2), [1, 255]),
    ],
)
def test_a_key_colour_is_transparent(
    tmp_path: Path, bits: int, kind: int, row: bytes, key: bytes, wanted: list[int]
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(2, 2, bits, kind, [row, row], key))
    if len(set(wanted)) == 1:
        assert "laid on white" in refused(file)
    else:
        assert pixels(str(file), 2)[0, :, 0].tolist() == wanted


def test_a_key_among_sixteen_bit_colours_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    row = struct.pack(">6H", 300, 300, 300, 9000, 9000, 9000)
    file.write_bytes(png(2, 1, 16, 2, [row], struct.pack(">HHH", 300, 300, 300)))
    assert "one of them transparent" in refused(file)


# -- orientation, frames, inks ------------------------------------------------------------

UPRIGHT = {
    1: SCENE,
    2: SCENE[:, ::-1],
    3: SCENE[::-1, ::-1],
    4: SCENE[::-1],
    5: SCENE.swapaxes(0, 1),
    6: np.rot90(SCENE, -1),
    7: SCENE[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(SCENE),
}


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    image = Image.fromarray(SCENE)
    exif = image.getexif()
    exif[274] = orientation
    extra: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    picture = read(saved(tmp_path / f"a.{ending}", image, exif=exif, **extra.get(ending, {})), 16)
    assert np.abs(picture.pixels.astype(int) - UPRIGHT[orientation]).max() <= (6 if ending == "jpg" else 0)
    assert picture.remarks == (set() if orientation == 1 else {"turned"})


def test_odd_exif_is_no_obstacle(tmp_path: Path) -> None:
    image = Image.fromarray(SCENE)
    assert (pixels(saved(tmp_path / "a.png", image, exif=b"Exif\0\0no TIFF at all")) == SCENE).all()
    assert read(str(tmp_path / "a.png"), 16).remarks == {"exif"}
    exif = image.getexif()
    exif[274] = 9
    assert (pixels(saved(tmp_path / "b.png", image, exif=exif)) == SCENE).all()


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_the_first_frame_is_taken_and_told_of(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    frames[0].putpixel((0, 0), (0, 0, 0))
    more = {"lossless": True} if ending == "webp" else {}
    path = saved(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **more)
    picture = read(path, 16)
    assert picture.remarks == {"frames"}
    assert picture.pixels[8, 8].tolist() == [255, 0, 0]
    assert picture.pixels[0, 0].tolist() == [0, 0, 0]


def test_a_broken_second_frame_is_no_obstacle(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(RAMP).save(whole, "GIF", save_all=True, append_images=[Image.fromarray(RAMP.T)])
    second = whole.getvalue().rindex(b"\x2c")  # an image descriptor
    file = tmp_path / "a.gif"
    for cut in (second, second + 1, second + 5, second + 10, len(whole.getvalue()) - 20):
        file.write_bytes(whole.getvalue()[:cut])
        assert (pixels(str(file))[..., 0] == RAMP).all(), cut


def test_cmyk_jpegs_say_whether_their_inks_are_inverted(tmp_path: Path) -> None:
    inks = Image.merge("CMYK", [Image.fromarray(RAMP), *(Image.new("L", (16, 16)),) * 3])
    path = saved(tmp_path / "a.jpg", inks, quality=100)
    assert np.abs(pixels(path) - np.dstack([255 - RAMP, RAMP * 0 + 255, RAMP * 0 + 255]).astype(int)).max() <= 4
    whole = Path(path).read_bytes()
    start = whole.index(b"\xff\xee")  # the Adobe segment
    (tmp_path / "b.jpg").write_bytes(
        whole[:start] + whole[start + 2 + struct.unpack(">H", whole[start + 2 : start + 4])[0] :]
    )
    assert "does not say whether its inks are inverted" in refused(tmp_path / "b.jpg")


# -- broken files -------------------------------------------------------------------------


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert refused(tmp_path / "empty.png") == "the picture FILE cannot be read: the file is empty"
    (tmp_path / "words.jpg").write_text("not a picture")
    assert "its content is no picture" in refused(tmp_path / "words.jpg")
    Image.fromarray(SCENE).save(tmp_path / "targa.tga")
    (tmp_path / "targa.tga").rename(tmp_path / "targa.png")  # TGA begins with no sign of its own
    assert "its content is no picture" in refused(tmp_path / "targa.png")
    (tmp_path / "drawing.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )  # never handed to ghostscript
    assert "its content is no picture" in refused(tmp_path / "drawing.png")
    (tmp_path / "folder.png").mkdir()
    assert "it is a folder" in refused(tmp_path / "folder.png")
    (tmp_path / "lost.png").symlink_to("nowhere\n.png")
    assert refused(tmp_path / "lost.png").endswith("it is a link to nowhere\\n.png, which is not there")
    (tmp_path / "circle.png").symlink_to("circle.png")
    assert "cannot be read" in refused(tmp_path / "circle.png")
    assert "there is no such file" in refused(tmp_path / "never.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "it is no regular file" in refused(tmp_path / "pipe.png")
    assert "it is no regular file" in refused("/dev/zero")
    assert "cannot be read" in refused(tmp_path / "a\nb\udcff.png")


def test_no_pixels_and_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none.png").write_bytes(png(0, 4, 8, 0, [b""] * 4))
    (tmp_path / "none.ppm").write_bytes(b"P6 0 0 255 ")
    for name in ("none.png", "none.ppm"):
        assert "its content is no picture of a kind that Pillow reads here" in refused(tmp_path / name)
    path = saved(tmp_path / "bomb.png", Image.fromarray(SCENE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "more than 200 pixels, as a decompression bomb has" in refused(path)


def test_a_file_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "mine.png", Image.fromarray(SCENE))

    def closed(*words: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(DataMissing, match=r"mine\.png cannot be read: this user may not open it"):
        read(path, 16)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "ending", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "tga", "jp2", "ico", "qoi", "sgi", "avif"]
)
def test_damage_is_a_sentence_or_a_picture(tmp_path: Path, ending: str) -> None:
    whole = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(ending, ending.upper())
    if kind not in pictures.formats(f".{ending}"):
        pytest.skip(f"Pillow was built without {kind}")
    Image.fromarray(SCENE).save(whole, kind)
    good, random = whole.getvalue(), np.random.default_rng(0)
    file, told = tmp_path / f"a.{ending}", 0
    for cut in np.linspace(0, len(good) - 1, 12).astype(int):
        for flips in (0, 3):
            broken = bytearray(good[:cut] if not flips else good)
            for at in random.integers(0, min(len(good), 200), flips):
                broken[at] = random.integers(256)
            file.write_bytes(broken)
            try:
                said = ""
                assert read(str(file), 16).pixels.shape == (16, 16, 3)
            except DataMissing as error:
                said = str(error)
                told += 1
            assert not said or (str(file) in said and "\n" not in said)
    assert told >= 6


# -- many pictures ------------------------------------------------------------------------


def test_pictures_keep_their_order_and_are_counted(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{i}.png", Image.new("RGB", (4, 6), (i, 0, 255 - i))) for i in range(100)]
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0] = 255
    clear[1] = (0, 0, 0, 255)
    files += [saved(tmp_path / f"clear{i}.png", Image.fromarray(clear)) for i in range(2)]
    found = decode.decode(files, 4)
    assert found.images.shape == (102, 3, 4, 4)
    assert found.images.is_contiguous()
    assert found.images[:100, 0, 2, 2].tolist() == list(range(100))
    assert found.digests[100] == found.digests[101] != found.digests[0]
    assert decode.notes(found.remarks, files, tmp_path) == [
        "2 pictures transparent in places, laid on white (clear0.png, ...)"
    ]
    assert decode.decode([], 4).images.shape == (0, 3, 4, 4)


def test_all_that_is_broken_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = saved(tmp_path / "good.bmp", Image.fromarray(SCENE))
    half = Path(good).read_bytes()[:-200]
    files = [good]
    for name in ("b.bmp", "a.bmp", "c.bmp"):
        (tmp_path / name).write_bytes(half)
        files += [str(tmp_path / name), good]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as a plug-in may have set it
    with pytest.raises(
        DataMissing, match=r"/b\.bmp cannot be read: .*; 2 more cannot be used either: \S*a.bmp, \S*c.bmp$"
    ):
        decode.decode(files, 16)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(decode, "ENOUGH", 2)
    with pytest.raises(DataMissing, match=r"[1-9] more at least"):
        decode.decode(files * 50, 16)


def test_what_pillow_warns_of_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.png", Image.fromarray(SCENE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # of 256: a warning, which is an error in these tests
    assert (decode.decode([path], 16).images[0].permute(1, 2, 0).numpy() == SCENE).all()


def test_large_pictures_wait_for_room() -> None:
    room, most, now, lock = decode.Room(100), 0, 0, threading.Lock()

    def take(pixels: int) -> None:
        nonlocal most, now
        with room.take(pixels):
            with lock:
                now += min(pixels, 100)
                most = max(most, now)
            threading.Event().wait(0.002)
            with lock:
                now -= min(pixels, 100)

    threads = [threading.Thread(target=take, args=(pixels,), daemon=True) for pixels in [30, 60, 500, 40] * 6]
    for one in threads:
        one.start()
    for one in threads:
        one.join(5)
    assert now == 0
    assert 60 <= most <= 100


def test_room_is_asked_for_before_pixels_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(SCENE))
    asked: list[int] = []
    room = decode.Room(10)

    def decoding(picture: Image.Image) -> tuple[Image.Image, set[str]]:
        asked.append(-1)
        return to_rgb(picture)

    monkeypatch.setattr(pictures, "to_rgb", decoding)

    def take(pixels: int) -> AbstractContextManager[None]:
        asked.append(pixels)
        return room.take(pixels)

    read(path, 8, take)
    assert asked == [256, -1]


@pytest.mark.skipif(sys.platform != "linux", reason="where /proc tells what a process has")
def test_free_memory_is_what_limits_of_the_process_leave() -> None:
    """Pictures of which more would fit into the machine are read from a pack where ``ulimit`` says so."""

    def less() -> int:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
        return 0 if decode.free_memory() < limit else 1

    limit = 3 * 2**30
    assert ended(less) == 0


def test_free_memory_is_told() -> None:
    assert 2**27 < decode.free_memory() < 2**50
