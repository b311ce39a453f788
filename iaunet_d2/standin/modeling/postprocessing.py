"""From the network's frame back to the frame of the original image."""

from torch import Tensor
from torch.nn import functional as F


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Cut the padding off per-pixel predictions and resize them bilinearly.

    Args:
        result: (C, H, W) predictions of the padded input.
        img_size: height and width of the input without padding.
        output_height: height of the original image.
        output_width: width of the original image.

    Returns:
        (C, output_height, output_width).
    """
    height, width = img_size
    valid = result[None, :, :height, :width]
    size = (output_height, output_width)
    return F.interpolate(valid, size=size, mode="bilinear", align_corners=False)[0]
