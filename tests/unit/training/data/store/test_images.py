"""Test that images of every mode come out upright and in RGB, and that broken ones say why."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from training.data.store import images
from training.data.store.images import (
    FORMATS,
    BadImageError,
    ImageFacts,
    Preprocessing,
    decode_image,
    open_upright,
    prepare_image,
    scale_boxes,
    scale_points,
    turn_points,
)

SIDE = 16
RAW = Preprocessing(SIDE, "raw")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(original: bytes, preprocessing: Preprocessing = RAW) -> np.ndarray[Any, Any]:
    return decode_image(prepare_image(original, preprocessing)[0], preprocessing.encoding, preprocessing.image_size)


def marked(width: int = 8, height: int = 6) -> Image.Image:
    """Return a black image with a white pixel at (1, 2)."""
    image = Image.new("RGB", (width, height))
    image.putpixel((1, 2), (255, 255, 255))
    return image


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize(
    ("image", "kind", "colour"),
    [
        (Image.new("L", (8, 6), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (8, 6), 1), "PNG", (255, 255, 255)),
        (Image.new("LA", (8, 6), (77, 0)), "PNG", (77, 77, 77)),
        (Image.new("RGBA", (8, 6), (10, 20, 30, 0)), "PNG", (10, 20, 30)),
        (Image.new("RGB", (8, 6), (10, 200, 30)).quantize(4), "PNG", (10, 200, 30)),
        (Image.new("RGB", (8, 6), (10, 200, 30)).quantize(4), "GIF", (10, 200, 30)),
        (Image.new("CMYK", (8, 6), (255, 0, 255, 0)), "TIFF", (0, 255, 0)),
        (Image.new("CMYK", (8, 6), (255, 0, 255, 0)), "JPEG", (0, 255, 0)),
    ],
    ids=["grey", "bilevel", "grey+alpha", "rgba", "palette", "gif", "cmyk-tiff", "cmyk-jpeg"],
)
def test_every_mode_becomes_rgb(image: Image.Image, kind: str, colour: tuple[int, int, int]) -> None:
    out = pixels(encoded(image, kind))
    assert out.shape == (SIDE, SIDE, 3)
    assert np.abs(out.astype(int) - colour).max() <= 3


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    image = Image.fromarray(np.full((6, 8), 257 * 100, np.uint16))
    assert pixels(encoded(image)).min() == pixels(encoded(image)).max() == 100


def test_palette_with_transparent_entries_is_read(recwarn: pytest.WarningsRecorder) -> None:
    image = Image.new("RGB", (8, 6), (10, 200, 30)).quantize(4)
    out = pixels(encoded(image, transparency=bytes([0, 128, 255, 255])))
    assert tuple(out[0, 0]) == (10, 200, 30)
    recwarn.clear()  # the store's writer silences Pillow


def test_resize_is_pillows_bilinear_to_a_square() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8))
    expected = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels(encoded(image)), expected)
    lossy = pixels(encoded(image), Preprocessing(SIDE, "jpeg")).astype(int)
    assert 0 < np.abs(lossy - expected).mean() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_come_upright_and_points_follow(orientation: int) -> None:
    stored = marked()
    original = encoded(stored, exif=exif(orientation))
    upright = open_upright(original)
    facts = prepare_image(original, RAW)[1]
    assert facts.orientation == orientation
    assert (facts.width, facts.height) == upright.size == ((8, 6) if orientation < 5 else (6, 8))
    # The middle of the white pixel.
    ((x, y),) = turn_points(np.array([[1.5, 2.5]], np.float32), facts)
    assert upright.getpixel((int(x), int(y))) == (255, 255, 255)


def test_nonsense_in_exif_turns_nothing() -> None:
    assert open_upright(encoded(marked(), exif=exif(9))).size == (8, 6)
    assert prepare_image(encoded(marked(), "JPEG", exif=b"Exif\0\0garbage"), RAW)[1].orientation == 1


def photo(kind: str = "JPEG", share: float = 1.0) -> bytes:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)), kind)
    return whole[: round(share * len(whole))]


@pytest.mark.parametrize(
    ("original", "why"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "not an image"),
        (photo(share=0.5), "truncated"),
        (photo(share=0.98), "truncated"),
        (photo("PNG", share=0.5), "truncated"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "html", "half a jpeg", "nearly a jpeg", "half a png", "float"],
)
def test_broken_files_say_why(original: bytes, why: str) -> None:
    with pytest.raises(BadImageError, match=why):
        prepare_image(original, RAW)


def test_files_that_are_called_like_images_say_what_they_are_and_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        b"\0\0\0\x18ftypheic" + bytes(50): "is a HEIC photo or a video.*heif-convert",
        b"\n<!DOCTYPE html><title>gone</title>": "is a web page",
        b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
        b"no picture": "is not an image that can be read. Use JPEG, PNG",
    }
    for original, why in cases.items():
        with pytest.raises(BadImageError, match=why):
            prepare_image(original, RAW)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(BadImageError, match=r"has more than 100 million pixels.*mogrify -resize"):
        prepare_image(encoded(marked()), RAW)


def test_boxes_are_scaled_turned_and_never_empty() -> None:
    boxes = np.array([[2, 0, 0, 50, 20], [1, 99, 39, 100, 40], [0, -5, -5, 300, 300]], np.float32)
    assert scale_boxes(boxes, ImageFacts("", 100, 40), 20).tolist() == [
        [2, 0, 0, 10, 10],
        [1, 19, 19, 20, 20],
        [0, 0, 0, 20, 20],
    ]
    # Upright it is 40 wide and 100 high; what was at the left is at the top.
    assert scale_boxes(boxes[:1], ImageFacts("", 40, 100, 6), 20).tolist() == [[2, 10, 0, 20, 10]]
    assert scale_boxes(np.zeros((0, 5), np.float32), ImageFacts("", 4, 4), 20).shape == (0, 5)


def test_points_are_scaled() -> None:
    points = np.array([[3, 50, 10]], np.float32)
    assert scale_points(points, ImageFacts("", 100, 40), 20).tolist() == [[3, 10, 5]]


@pytest.mark.parametrize(("size", "encoding"), [(0, "raw"), (9999, "raw"), (16, "png")])
def test_preprocessing_refuses_what_it_cannot_do(size: int, encoding: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        Preprocessing(size, encoding)


def test_only_the_formats_of_datasets_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *words, **options: ran.append(words))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/x) (w) file\n%%EOF\n"
    for hostile in (script, b"\xc5\xd0\xd3\xc6" + bytes(60), b"%PDF-1.4\n"):
        with pytest.raises(BadImageError, match=r"is PostScript or PDF.*Use JPEG, PNG, BMP, WEBP, TIFF or GIF"):
            prepare_image(hostile, RAW)
    for kind in ("PPM", "TGA", "ICO", "PCX", "SGI"):
        with pytest.raises(BadImageError, match="Use JPEG"):
            prepare_image(encoded(marked(), kind), RAW)
    for kind in FORMATS:
        prepare_image(encoded(marked(), kind), RAW)
    with pytest.raises(BadImageError):  # what a store encodes is JPEG, whatever its shards hold
        decode_image(encoded(marked()), "jpeg", SIDE)
    assert not ran


def test_a_small_file_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    original = bytearray(encoded(marked()))
    for width, height in ((10_000, 10_001), (60_000, 60_000)):
        original[16:24] = struct.pack(">II", width, height)
        original[29:33] = struct.pack(">I", zlib.crc32(original[12:29]))
        with pytest.raises(BadImageError, match="has more than 100 million pixels"):
            prepare_image(bytes(original), RAW)


def test_whatever_a_decoder_raises_is_a_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (struct.error("odd"), zlib.error("odd"), MemoryError(), KeyError("odd"), RecursionError("odd")):

        def load(image: ImageFile.ImageFile, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", load)
            with pytest.raises(BadImageError, match="cannot be decoded: "):
                prepare_image(photo(), RAW)


def test_no_other_code_opens_images() -> None:
    root = Path(images.__file__).parents[3]
    files = [path for package in ("orchestrator", "training") for path in (root / package).rglob("*.py")]
    calls = [line for path in files for line in path.read_text().splitlines() if "Image.open(" in line]
    assert len(calls) == 2  # here, and the two photos of digits, which come with scikit-learn
    assert all("formats=" in line for line in calls)
