"""Crop, resize, grey and invert: what happens to an image before it becomes a row of a data set."""

import dataclasses

import numpy as np

from pae_zoo.core.errors import UserError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode L


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The steps, in this order: crop, resize to `size` x `size`, grey, invert; all-default is the identity.

    `crop` is () or (height, width) about the centre or (top, left, height, width).
    """

    crop: tuple = ()
    size: int = 0
    grey: bool = False
    invert: bool = False

    @property
    def is_identity(self) -> bool:
        return self == Geometry()

    def shape(self, shape: tuple) -> tuple:
        """Returns the event shape (H, W, C) that an image of shape (H, W, C) gets."""
        height, width, channels = shape
        if self.crop:
            height, width = self.crop[-2:]
        if self.size:
            height = width = self.size
        return height, width, 1 if self.grey and channels == 3 else channels

    def apply(self, images: np.ndarray, where: str = "images") -> np.ndarray:
        """Returns the images (n, H, W, C) after all steps, in their dtype; UserError if the crop does not fit."""
        images = self._cropped(images, where)
        if self.size and images.shape[1:3] != (self.size, self.size):
            images = _resized(images, self.size)
        if self.grey and images.shape[-1] == 3:
            luma = images.astype(np.float32) @ np.asarray(_LUMA, np.float32)
            if images.dtype == np.uint8:
                luma = np.rint(luma)
            images = luma[..., None].astype(images.dtype)
        if self.invert:
            images = (255 if images.dtype == np.uint8 else np.float32(1)) - images
        return images

    def _cropped(self, images: np.ndarray, where: str) -> np.ndarray:
        if not self.crop:
            return images
        height, width = self.crop[-2:]
        if len(self.crop) == 4:
            top, left = self.crop[:2]
        else:
            top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        if top < 0 or left < 0 or top + height > images.shape[1] or left + width > images.shape[2]:
            raise UserError(
                f"crop={','.join(map(str, self.crop))} does not fit into {where} of "
                f"{images.shape[1]}x{images.shape[2]} pixels; give a smaller crop or use image_size."
            )
        return images[:, top : top + height, left : left + width]


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear by Pillow, whose filter widens when it shrinks, so that no source pixel is skipped."""
    from PIL import Image

    out = np.empty((len(images), size, size, images.shape[-1]), images.dtype)
    for row, image in zip(out, images):
        for channel in range(image.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            row[..., channel] = np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR))
    return out


def parse_crop(crop: str) -> tuple:
    """Returns "H,W" or "top,left,height,width" as integers, () for ""; raises UserError for anything else."""
    if not crop:
        return ()
    try:
        numbers = tuple(int(part) for part in crop.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 4) or min(numbers[-2:]) < 1 or min(numbers) < 0:
        raise UserError(
            f"crop={crop!r} is not understood; give HEIGHT,WIDTH for a centre crop or "
            "TOP,LEFT,HEIGHT,WIDTH, for example crop=128,128."
        )
    return numbers
