"""Augmentations of the images: Detectron2's own where it has them, and exact quarter turns."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from ..config.former import instead_of

FLIPS = ("none", "horizontal", "vertical")


def train_augmentations(
    image_size: int,
    min_scale: float,
    max_scale: float,
    random_flip: str = "horizontal",
    rot90_prob: float = 0.5,
    brightness: float = 0.0,
    contrast: float = 0.0,
    flip_both: bool = True,
) -> list[T.Augmentation]:
    """Random scale, crop, flips, quarter turns and light.

    The longest side becomes ``image_size`` times a random scale; the crop is at most
    ``image_size``².

    The crop is not padded: images of a batch are padded by the model, which knows what is padding.

    Args:
        image_size: side of the crop in pixels.
        min_scale: least random scale.
        max_scale: greatest random scale.
        random_flip: one of :data:`FLIPS`; a flip happens with probability 0.5.
        rot90_prob: probability of a turn by 90, 180 or 270 degrees.
        brightness: largest relative change.
        contrast: largest relative change.
        flip_both: flip horizontally and vertically, each with probability 0.5, whichever way
            ``random_flip`` names; "none" stays none.

    Raises:
        ValueError: a value makes no sense, named with its config key.
    """
    if image_size < 1 or not 0 < min_scale <= max_scale:
        raise ValueError(
            f"INPUT.IMAGE_SIZE {image_size} must be at least 1, and 0 < INPUT.MIN_SCALE "
            f"{min_scale} <= INPUT.MAX_SCALE {max_scale}"
        )
    if not (0 <= rot90_prob <= 1 and 0 <= brightness < 1 and 0 <= contrast < 1):
        raise ValueError(
            f"INPUT.ROT90_PROB {rot90_prob}, INPUT.BRIGHTNESS {brightness} and INPUT.CONTRAST "
            f"{contrast} must lie in 0..1"
        )
    augmentations: list[T.Augmentation] = [
        T.ResizeScale(min_scale, max_scale, image_size, image_size),
        T.RandomCrop("absolute", (image_size, image_size)),
    ]
    for direction in _flips(random_flip, flip_both):
        augmentations.append(
            T.RandomFlip(
                0.5, horizontal=direction == "horizontal", vertical=direction == "vertical"
            )
        )
    if rot90_prob:
        augmentations.append(RandomQuarterTurn(rot90_prob))
    if brightness:
        augmentations.append(T.RandomBrightness(1 - brightness, 1 + brightness))
    if contrast:
        augmentations.append(T.RandomContrast(1 - contrast, 1 + contrast))
    return augmentations


def _flips(random_flip: str, flip_both: bool) -> tuple[str, ...]:
    """The directions to flip in, in order."""
    if random_flip not in FLIPS:
        now = instead_of("INPUT.RANDOM_FLIP", random_flip)
        hint = f"; write {now}" if now else ""
        raise ValueError(f"INPUT.RANDOM_FLIP {random_flip!r} must be one of {FLIPS}{hint}")
    if random_flip == "none":
        return ()
    return ("horizontal", "vertical") if flip_both else (random_flip,)


def inference_augmentations(min_size: int, max_size: int) -> list[T.Augmentation]:
    """Shortest side to ``min_size``, longest at most ``max_size``: as ``DefaultPredictor``."""
    return [T.ResizeShortestEdge([min_size, min_size], max_size, "choice")]


class QuarterTurn(T.Transform):
    """Counter-clockwise turns by 90 degrees: exact, where Detectron2's rotation interpolates.

    Args:
        height: of the image before the turn.
        width: of the image before the turn.
        turns: 0 to 3.
    """

    def __init__(self, height: int, width: int, turns: int) -> None:
        super().__init__()
        self._set_attributes({"height": height, "width": width, "turns": turns % 4})

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Turn an image (H, W) or (H, W, C)."""
        return np.rot90(img, self.turns, (0, 1))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Turn points (N, 2), x and y in pixels from the upper left corner."""
        x, y = coords[:, 0], coords[:, 1]
        turned = {
            0: (x, y),
            1: (y, self.width - x),
            2: (self.width - x, self.height - y),
            3: (self.height - y, x),
        }[self.turns]
        return np.stack(turned, axis=1)

    def inverse(self) -> T.Transform:
        """The turn back."""
        height, width = (
            (self.height, self.width) if self.turns % 2 == 0 else (self.width, self.height)
        )
        return QuarterTurn(height, width, -self.turns)


class RandomQuarterTurn(T.Augmentation):
    """A turn by 90, 180 or 270 degrees, equally likely, with probability ``prob``."""

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        self._init({"prob": prob})

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a turn for an image (H, W, C)."""
        if self._rand_range() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        return QuarterTurn(height, width, 1 + int(np.random.randint(3)))


class ManyChannelInput(T.AugInput):
    """``AugInput`` for images (H, W, C) of any number of channels; resizing knows 1 and 3."""

    image: np.ndarray

    def transform(self, tfm: Any) -> None:
        """Transform the image, in place."""
        image = self.image
        if image.shape[2] == 3:
            image = tfm.apply_image(image)
        else:
            image = np.stack([tfm.apply_image(i) for i in np.moveaxis(image, 2, 0)], axis=2)
        # Resizing gives Pillow's memory, which the next transform's tensor must not share.
        self.image = image if image.flags.writeable else image.copy()


@contextlib.contextmanager
def numpy_randomness(seed: int, position: int) -> Iterator[None]:
    """Make NumPy's global random numbers depend on (seed, position) alone.

    Detectron2's augmentations draw them. The state from before is put back, so that nothing outside
    notices.
    """
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence([seed, position]).generate_state(8))
    try:
        yield
    finally:
        np.random.set_state(before)
