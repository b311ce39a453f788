"""IAUNet on both implementations: the same losses, the same Instances, and runs that continue on
the other.
"""

import pytest
import torch

SETTINGS = [
    "MODEL.DEVICE", "cpu",
    "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.NAME", "resnet18",
    "MODEL.IAUNET.HIDDEN_DIM", 32,
    "MODEL.IAUNET.FFN_DIM", 64,
    "MODEL.IAUNET.NUM_QUERIES", 12,
    "MODEL.IAUNET.LOSS.NUM_POINTS", 64,
    "MODEL.IAUNET.LOSS.MATCHER_POINTS", 64,
    "MODEL.IAUNET.SCORE_THRESH", 0.0,
]  # fmt: skip

MODEL = """
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.env import seed_all_rng
from iaunet_d2.config import get_iaunet_cfg
cfg = get_iaunet_cfg()
cfg.merge_from_list(settings)
seed_all_rng(7)
model = build_model(cfg)
batch = []
for image, masks in images:
    instances = Instances(tuple(image.shape[1:]))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.zeros(len(masks), dtype=torch.int64)
    batch.append({"image": image, "instances": instances, "height": 50, "width": 90})
seed_all_rng(8)
losses = {k: v.item() for k, v in model(batch).items()}
model.eval()
found = []
for x in model(batch):
    x = x["instances"]
    found.append((x.image_size, x.pred_masks, x.pred_boxes.tensor.detach(), x.scores.detach(),
    x.pred_classes))
result = losses, found
"""

TRAIN = """
import os
os.environ["DETECTRON2_DATASETS"] = datasets
from iaunet_d2.engine import main
for arguments in runs:
    code = main(arguments)
    assert code == 0, (arguments, code)
result = torch.load(weights, map_location="cpu", weights_only=True)["model"]
"""


def test_same_seed_weights_and_images_give_the_same_losses_and_instances(run_both):
    images = []
    for height, width, count in ((40, 70, 3), (64, 33, 0), (64, 64, 1)):
        masks = torch.rand(count, height, width) > 0.6
        images.append((torch.randint(0, 256, (3, height, width), dtype=torch.uint8), masks))
    (ours, our_found), (theirs, their_found) = run_both(MODEL, settings=SETTINGS, images=images)
    assert ours.keys() == theirs.keys() and len(ours) == 27
    assert ours == pytest.approx(theirs, abs=1e-5)
    for (size, masks, boxes, scores, classes), other in zip(our_found, their_found, strict=True):
        assert size == other[0] and len(scores) > 0
        assert torch.equal(masks, other[1]) and torch.equal(classes, other[4])
        torch.testing.assert_close(boxes, other[2])
        torch.testing.assert_close(scores, other[3], atol=1e-6, rtol=0)


def test_a_run_begun_on_one_ends_on_the_other(run_one, tmp_path):
    """Six iterations on one, or three and then three on the other: the same weights."""
    common = ["--config-file", "configs/quickstart.yaml"]
    options = [
        *map(str, SETTINGS),
        "DATALOADER.NUM_WORKERS", "0",
        "DATASETS.TRAIN", "('synthetic:6:64:0.3:1',)",
        "DATASETS.TEST", "()",
        "SOLVER.IMS_PER_BATCH", "2",
        "INPUT.IMAGE_SIZE", "64",
        "SOLVER.CHECKPOINT_PERIOD", "3",
        "SOLVER.MAX_ITER", "6",
    ]  # fmt: skip
    datasets = str(tmp_path / "datasets")

    def train(name, standin, folder, *extra, weights="model_final.pth"):
        out = tmp_path / folder
        arguments = [*common, *extra, *options, "OUTPUT_DIR", str(out)]
        return run_one(
            TRAIN,
            tmp_path / name,
            standin,
            datasets=datasets,
            runs=[arguments],
            weights=str(out / weights),
        )

    ours = train("ours", True, "whole_standin")
    theirs = train("theirs", False, "whole_genuine")
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=1e-5, rtol=1e-4, msg=key)
    # Keep only what a run killed after three iterations would have left, and go on with the other.
    for folder, standin, whole in (("whole_standin", False, ours), ("whole_genuine", True, theirs)):
        (tmp_path / folder / "model_final.pth").unlink()
        (tmp_path / folder / "last_checkpoint").write_text("model_0000002.pth")
        resumed = train(f"resumed_{folder}", standin, folder, "--resume")
        for key, value in whole.items():
            torch.testing.assert_close(value, resumed[key], atol=1e-5, rtol=1e-4, msg=key)
