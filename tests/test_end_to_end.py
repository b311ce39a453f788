"""On real images: train, evaluate, resume, evaluate again, predict."""

import json
from pathlib import Path

import pytest
from PIL import Image

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import main
from iaunet_d2.inference import Predictor


@pytest.mark.parametrize("pack", ["bbbc010_worms", "dsb2018_nuclei", "usiigaci_phase"])
def test_train_evaluate_resume_and_predict_on_real_images(
    pack: str, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / pack
    content = json.loads((folder / "val.json").read_text())
    content["images"] = content["images"][:2]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (tmp_path / "val.json").write_text(json.dumps(content))
    test_name = f"coco:{tmp_path / 'val.json'}:{folder / 'images'}"
    common = [
        "MODEL.DEVICE", "cpu",
        "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.NAME", "resnet18",
        "MODEL.TIMM.NORM_EVAL", "False", "SOLVER.BACKBONE_MULTIPLIER", "1.0",
        "MODEL.IAUNET.HIDDEN_DIM", "32",
        "MODEL.IAUNET.FFN_DIM", "64",
        "MODEL.IAUNET.LOSS.NUM_POINTS", "64",
        "MODEL.IAUNET.LOSS.MATCHER_POINTS", "64",
        "MODEL.IAUNET.SCORE_THRESH", "0.0",
        "INPUT.IMAGE_SIZE", "96",
        "INPUT.MIN_SIZE_TEST", "96",
        "INPUT.MAX_SIZE_TEST", "96",
        "DATALOADER.NUM_WORKERS", "0",
        "DATASETS.TRAIN", f"('coco:{folder / 'train.json'}:{folder / 'images'}',)",
        "DATASETS.TEST", f"('{test_name}',)",
        "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.WARMUP_ITERS", "0",
        "TEST.NUM_OVERLAYS", "1",
        "OUTPUT_DIR", str(tmp_path / "out"),
    ]  # fmt: skip
    config = ["--config-file", "base/small.yaml"]
    out = tmp_path / "out"

    assert main([*config, *common, "SOLVER.MAX_ITER", "2"]) == 0
    first = json.loads((out / "results.json").read_text())
    assert 0 <= first[test_name]["segm"]["AP"] <= 100
    assert main([*config, "--resume", *common, "SOLVER.MAX_ITER", "3"]) == 0
    rows = [json.loads(x) for x in (out / "metrics.json").read_text().splitlines()]
    assert max(row["iteration"] for row in rows) == 2
    assert any("val/total_loss" in row for row in rows)
    trained = json.loads((out / "results.json").read_text())
    weights = str(out / "model_final.pth")
    assert main([*config, "--eval-only", *common, "MODEL.WEIGHTS", weights]) == 0
    assert json.loads((out / "results.json").read_text()) == trained
    with Image.open(next((out / "overlays" / "iter_0000002").glob("*.png"))) as picture:
        assert picture.width > 2 * 200

    cfg = get_iaunet_cfg("base/small.yaml")
    cfg.merge_from_list([*common, "MODEL.WEIGHTS", weights])
    record = content["images"][0]
    found = Predictor(cfg)(folder / "images" / record["file_name"])
    assert found.image_size == (record["height"], record["width"])
    assert len(found) > 0
