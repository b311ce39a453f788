"""The mean and the deviation of the training images, measured when training starts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_model import write_cells

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import BadFileError, image_size
from iaunet_d2.engine.pixel_statistics import fill_pixel_statistics


def config(name: str) -> object:
    cfg = get_iaunet_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.MODEL.PIXEL_STATISTICS = "train"
    return cfg


def test_means_over_the_images(tmp_path: Path) -> None:
    """Half 10 and half 30: mean 20, deviation 10; all 100: mean 100, deviation 0."""
    name = write_cells(tmp_path)
    files = sorted((tmp_path / "images").glob("*"))
    sizes = [image_size(str(f))[::-1] for f in files]
    for k, (file, (width, height)) in enumerate(zip(files, sizes, strict=True)):
        pixels = np.full((height, width), 100, np.uint8)
        if k == 0:
            pixels[:, : width // 2], pixels[:, width // 2 :] = 10, 30
        Image.fromarray(pixels).save(file)
    cfg = config(name)
    fill_pixel_statistics(cfg)
    count = len(files)
    assert pytest.approx([(20 + 100 * (count - 1)) / count] * 3, abs=1e-3) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([10 / count] * 3, abs=1e-3) == cfg.MODEL.PIXEL_STD


def test_only_when_asked(tmp_path: Path) -> None:
    cfg = config(write_cells(tmp_path))
    cfg.MODEL.PIXEL_STATISTICS = "config"
    fill_pixel_statistics(cfg)
    assert cfg.MODEL.PIXEL_MEAN == [127.5] * 3
    cfg.MODEL.PIXEL_STATISTICS = "imagenet"
    with pytest.raises(ValueError, match="'imagenet'; it is 'config' or 'train'"):
        fill_pixel_statistics(cfg)


def test_unreadable_images(tmp_path: Path) -> None:
    name = write_cells(tmp_path)
    for file in (tmp_path / "images").glob("*"):
        file.write_bytes(file.read_bytes()[:-40])  # the header is whole
    with pytest.raises(BadFileError):
        fill_pixel_statistics(config(name))


def test_checkpoints_carry_them() -> None:
    from detectron2.modeling import build_model

    cfg = get_iaunet_cfg("configs/quickstart.yaml")
    cfg.MODEL.DEVICE = "cpu"
    trained = build_model(cfg)
    trained.pixel_mean.fill_(7.0)
    other = build_model(cfg)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.pixel_mean, trained.pixel_mean)
