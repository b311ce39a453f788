"""A config of Detectron2's own trains here too, where Detectron2 is installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

# Mask R-CNN with a feature pyramid as in Detectron2's Base-RCNN-FPN.yaml, on the smallest ResNet.
STOCK = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: {weights}
  MASK_ON: True
  BACKBONE: {{NAME: build_resnet_fpn_backbone}}
  RESNETS: {{OUT_FEATURES: [res2, res3, res4, res5], DEPTH: 18, RES2_OUT_CHANNELS: 64}}
  FPN: {{IN_FEATURES: [res2, res3, res4, res5]}}
  ANCHOR_GENERATOR: {{SIZES: [[32], [64], [128], [256], [512]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}}
  RPN: {{IN_FEATURES: [p2, p3, p4, p5, p6], PRE_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TRAIN: 50}}
  ROI_HEADS: {{NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], NUM_CLASSES: 1}}
  ROI_BOX_HEAD: {{NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}}
  ROI_MASK_HEAD: {{NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}}
DATASETS:
  TRAIN: ("synthetic_cells_train",)
SOLVER:
  IMS_PER_BATCH: 2
  MAX_ITER: 2
  CHECKPOINT_PERIOD: 0
  BASE_LR: 1.0e-6
  GROUPED_OPTIMIZER: SGD
INPUT: {{IMAGE_SIZE: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
VERSION: 2
"""

TRAIN = """
import json, pickle
from iaunet_d2.engine import main
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from iaunet_d2.config import get_iaunet_cfg

# ImageNet weights of the zoo: the backbone's alone, under its own names, as arrays in a pickle.
(folder / "c.yaml").write_text(stock.format(weights="''"))
cfg = get_iaunet_cfg()
cfg.merge_from_file(str(folder / "c.yaml"))
cfg.MODEL.DEVICE = "cpu"
state = build_model(cfg).backbone.bottom_up.state_dict()
state["stem.conv1.weight"].fill_(0.125)
zoo = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}
with open(folder / "R-18.pkl", "wb") as stream:
    pickle.dump({**zoo, "matching_heuristics": True}, stream, protocol=2)
(folder / "c.yaml").write_text(stock.format(weights=folder / "R-18.pkl"))
out = folder / "out"
code = main(["--config-file", str(folder / "c.yaml"), "MODEL.DEVICE", "cpu",
             "OUTPUT_DIR", str(out), "TEST.EVAL_PERIOD", "0"])
lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
losses = sorted({key for line in lines for key in line if key.startswith("loss_")})
final = torch.load(out / "model_final.pth", weights_only=True)["model"]
result = code, losses, final["backbone.bottom_up.stem.conv1.weight"].unique().tolist()
"""


def test_a_stock_mask_rcnn_trains_from_a_zoo_backbone(
    run_one: Callable[..., Any], tmp_path: Path
) -> None:
    code, losses, stem = run_one(TRAIN, tmp_path / "genuine", False, stock=STOCK)
    assert code == 0
    assert losses == [
        "loss_box_reg",
        "loss_cls",
        "loss_mask",
        "loss_rpn_cls",
        "loss_rpn_loc",
    ]
    assert stem == [0.125]  # loaded, and frozen as the stock config has it
