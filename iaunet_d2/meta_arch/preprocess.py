"""What every meta-architecture does to its images first."""

from collections.abc import Sequence

import torch
from detectron2.structures import ImageList
from torch import Tensor


def normalize_images(
    images: list[Tensor],
    mean: Tensor,
    std: Tensor,
    how: str,
    given: Sequence[Tensor | None] = (),
) -> list[Tensor]:
    """Normalise each image (C, H, W).

    Args:
        mean, std: (C, 1, 1), used with ``how="dataset"``.
        how: ``dataset``, or ``image`` for each image's own mean and standard deviation per channel.
        given: these two (2, C) of images that are tiles of a larger one, which knows them; used
            with ``how="image"``.

    Raises:
        ValueError: unknown ``how``, or images of another number of channels.
    """
    if how not in ("dataset", "image"):
        raise ValueError(f"INPUT.NORMALIZE is {how!r}; it is 'dataset' or 'image'")
    normalized = []
    for image, known in zip(images, given or [None] * len(images), strict=True):
        if image.shape[0] != mean.shape[0]:
            raise ValueError(
                f"an image has {image.shape[0]} channels, the network expects {mean.shape[0]} "
                "(the entries of MODEL.PIXEL_MEAN); choose channels with INPUT.CHANNELS"
            )
        image = image.float()
        if how == "image":
            if known is None:
                own = image.mean(dim=(1, 2), keepdim=True)
                deviation = image.std(dim=(1, 2), keepdim=True, unbiased=False)
            else:
                own, deviation = known.to(image)[..., None, None]
            normalized.append((image - own) / deviation.clamp(min=1e-3))
        else:
            normalized.append((image - mean) / std)
    return normalized


def padding_mask(images: ImageList) -> Tensor | None:
    """Bool (B, H, W), True where the batch is padding; None where no image is padded."""
    batch, _, height, width = images.tensor.shape
    if all(tuple(size) == (height, width) for size in images.image_sizes):
        return None
    mask = torch.ones(batch, height, width, dtype=torch.bool, device=images.tensor.device)
    for row, (h, w) in zip(mask, images.image_sizes, strict=True):
        row[:h, :w] = False
    return mask
