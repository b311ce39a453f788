"""An IAUNet that knows the truth of a synthetic data set, and finds a known part of it."""

from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances

from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.meta_arch.iaunet import IAUNet

CALLS: list[tuple[int, Any]] = []
"""(``kept`` of the model, image id) of every inference, in order."""

TINY = [
    *("MODEL.DEVICE", "cpu"),
    *("INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
    *("MODEL.IAUNET.HIDDEN_DIM", "16", "MODEL.IAUNET.FFN_DIM", "16"),
    *("MODEL.IAUNET.NUM_QUERIES", "8", "MODEL.IAUNET.NUM_HEADS", "2"),
    *("MODEL.IAUNET.LOSS.NUM_POINTS", "64", "MODEL.IAUNET.LOSS.MATCHER_POINTS", "64"),
]


@META_ARCH_REGISTRY.register()
class IAUNetCheating(IAUNet):
    """Finds the first ``kept`` instances of an image, each one pixel too far to the right.

    With ``label_map`` every pixel belongs to one instance at most.
    """

    finds_overlaps = None  # as models of others, which do not say it

    kept: torch.Tensor
    label_map: torch.Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("kept", torch.tensor(3))
        self.register_buffer("label_map", torch.tensor(False))
        self.dataset = "synthetic:2:64:0.9:7"

    def fold(self) -> None:
        """Nothing: what is found does not depend on the network."""

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        super().inference(batched_inputs)
        return [{"instances": self._found(inputs["image_id"])} for inputs in batched_inputs]

    def _found(self, image_id: Any) -> Instances:
        CALLS.append((int(self.kept), image_id))
        records = DatasetCatalog.get(self.dataset)
        (record,) = (r for r in records if r["image_id"] == image_id)
        masks = np.stack(list(annotation_masks(record)))[: int(self.kept)]
        masks = np.roll(masks, 1, axis=2)
        if self.label_map:
            masks &= np.cumsum(masks, axis=0) == 1
        instances = Instances(masks.shape[1:])
        instances.pred_masks = torch.from_numpy(masks)
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        instances.scores = torch.linspace(0.9, 0.6, len(masks))
        instances.pred_classes = torch.zeros(len(masks), dtype=torch.int64)
        return instances
