"""Decode, rotate, resize and encode the images of a store, and decode them when the store is read."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from training.errors import first_line

Encoding = Literal["jpeg", "raw"]
ENCODINGS: tuple[Encoding, ...] = ("jpeg", "raw")
JPEG_QUALITY = 95

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
"""The formats that are decoded. Pillow knows more, and runs Ghostscript for one of them, PostScript."""
MAX_PIXELS = 100_000_000
"""Decoding takes up to 16 bytes per pixel, so an image never needs much more than 1.5 GiB."""
# Pillow checks frames and tiles against this while it decodes: above it, it warns, and above twice as many it raises.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
_ACCEPTED = f"Use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_TOO_LARGE = (
    f"has more than {MAX_PIXELS // 10**6} million pixels, the maximum. Make it smaller: mogrify -resize 4096x4096 FILE"
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""


class BadImageError(ValueError):
    """A file is not a complete image; the message says why in one clause."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every image once, when the store is written.

    Images are resized bilinearly to a square and lose their aspect ratio, as in the SPML literature.

    Attributes:
        image_size: Side in px.
        encoding: ``jpeg`` (quality 95) or ``raw`` (uint8 rows of RGB).
    """

    image_size: int
    encoding: Encoding

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= 4096:
            raise ValueError(f"image_size must be in 1..4096 px, but got image_size={self.image_size}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, but got encoding={self.encoding}")

    def describe(self) -> dict[str, Any]:
        """Return everything that decides a pixel, for the content hash."""
        quality = {"jpeg_quality": JPEG_QUALITY} if self.encoding == "jpeg" else {}
        return asdict(self) | quality | {"resize": "bilinear", "upright": True}


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an original image file.

    Attributes:
        sha256: Hash of the file.
        width, height: Size in px, after it was turned upright.
        orientation: EXIF orientation, 1..8; 1 is upright.
    """

    sha256: str
    width: int
    height: int
    orientation: int = 1


def prepare_image(original: bytes, preprocessing: Preprocessing) -> tuple[bytes, ImageFacts]:
    """Decode, turn upright, resize and encode one image.

    Args:
        original: The file's bytes.
        preprocessing: Size and encoding.

    Returns:
        The encoded image, and the facts about its original.

    Raises:
        BadImageError: It is cut short, damaged or not an image.
    """
    image, orientation = _decode(original)
    facts = ImageFacts(hashlib.sha256(original).hexdigest(), image.width, image.height, orientation)
    side = preprocessing.image_size
    return encode_image(image.resize((side, side), Image.Resampling.BILINEAR), preprocessing.encoding), facts


def open_upright(original: bytes) -> Image.Image:
    """Decode an image to RGB and rotate it as its EXIF data says.

    Raises:
        BadImageError: It is cut short, damaged or not an image.
    """
    return _decode(original)[0]


def encode_image(image: Image.Image, encoding: Encoding) -> bytes:
    """Encode an RGB image for a store; ``raw`` is uint8 (H, W, 3)."""
    if encoding == "raw":
        return image.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_image(encoded: bytes, encoding: Encoding, image_size: int) -> NDArray[np.uint8]:
    """Decode the output of :func:`encode_image` to (H, W, 3)."""
    if encoding == "raw":
        return np.frombuffer(encoded, np.uint8).reshape(image_size, image_size, 3)
    with open_image(encoded, ("JPEG",)) as image:
        return np.asarray(image)


def open_image(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image without decoding its pixels; all code that reads images of others uses this.

    Args:
        content: The file's bytes.
        formats: Pillow's names of the formats that are accepted.

    Raises:
        BadImageError: It is not an image of these formats, or has more than ``MAX_PIXELS``.
    """
    # Common after an interrupted download, and Pillow's own message says little.
    if not content:
        raise BadImageError("is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # a decoder may raise anything for a damaged file
        raise _explain(error, content) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(_TOO_LARGE)
    return image


def turn_points(points: NDArray[np.float32], facts: ImageFacts) -> NDArray[np.float32]:
    """Move points (M, 2) of (x, y) from px of the file to px of the upright image.

    Annotations count the pixels of the file; viewers and this store show it upright.
    """
    x, y = points[:, 0], points[:, 1]
    width, height = facts.width, facts.height
    turned = {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (width - y, x),
        7: (width - y, height - x),
        8: (y, height - x),
    }
    return np.stack(turned[facts.orientation], 1).astype(np.float32)


def scale_boxes(boxes: NDArray[np.float32], facts: ImageFacts, image_size: int) -> NDArray[np.int16]:
    """Scale boxes (M, 5) of (class, left, top, right, bottom) to px of the store, each at least 1 px wide."""
    corners = np.concatenate([turn_points(boxes[:, 1:3], facts), turn_points(boxes[:, 3:5], facts)], 1)
    factor = np.array([image_size / facts.width, image_size / facts.height], np.float64)
    # A rotation may swap the corners, so the smaller values are left and top.
    low = np.rint(np.minimum(corners[:, :2], corners[:, 2:]) * factor).clip(0, image_size - 1)
    high = np.rint(np.maximum(corners[:, :2], corners[:, 2:]) * factor).clip(low + 1, image_size)
    return np.concatenate([boxes[:, :1], low, high], 1).astype(np.int16)


def scale_points(points: NDArray[np.float32], facts: ImageFacts, image_size: int) -> NDArray[np.float32]:
    """Scale points (M, 3) of (part, x, y) from px of the file to px of the store."""
    factor = np.array([image_size / facts.width, image_size / facts.height], np.float64)
    return np.concatenate([points[:, :1], turn_points(points[:, 1:], facts) * factor], 1).astype(np.float32)


def _decode(original: bytes) -> tuple[Image.Image, int]:
    try:
        with open_image(original) as image:
            image.load()
            # Read after the pixels: Pillow turns some formats itself while loading, and then reports orientation 1.
            orientation = _orientation(image)
            rgb = _to_rgb(image)
    except Exception as error:  # as in open_image
        raise _explain(error, original) from None
    return (rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb), orientation


def _explain(error: Exception, content: bytes) -> BadImageError:
    """Return the fault of an image that Pillow failed on."""
    if isinstance(error, BadImageError):
        return error
    if isinstance(error, UnidentifiedImageError):
        return BadImageError(_describe_content(content))
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return BadImageError(_TOO_LARGE)
    return BadImageError(f"cannot be decoded: {first_line(error)}")


def _describe_content(content: bytes) -> str:
    """Return why a file is no image that can be read, from its first bytes."""
    start = content[:64].lstrip().lower()
    if content[4:8] == b"ftyp":
        return "is a HEIC photo or a video, which cannot be read. Convert photos to JPEG: heif-convert IN OUT.jpg"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not an image: its download failed"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the image. Fetch the images: git lfs pull"
    if start.startswith((b"%!ps", b"\xc5\xd0\xd3\xc6", b"%pdf")):
        return f"is PostScript or PDF, which is a program and not an image. {_ACCEPTED}"
    return f"is not an image that can be read. {_ACCEPTED}"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # an image with unreadable EXIF data is still a good image
    return value if value in _TURNS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImageError("has floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        # convert("RGB") would clip everything above 255 to white; 257 maps 65535 to 255.
        pixels = np.asarray(image)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
            raise BadImageError("has pixels beyond 16 bits, whose range is not known")
        image = Image.fromarray((pixels // 257).astype(np.uint8))
    return image.convert("RGB")
