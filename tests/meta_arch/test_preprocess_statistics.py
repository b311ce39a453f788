"""Tiles of one plane are normalised by the plane's statistics."""

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from iaunet_d2 import Segmenter
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.checkpointer import AtomicCheckpointer
from iaunet_d2.meta_arch.preprocess import normalize_images


def test_given_statistics_take_the_place_of_the_image_s_own():
    image = torch.rand(2, 5, 7) * 255
    mean, std = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    own, given = normalize_images(
        [image, image], mean, std, "image", [None, torch.tensor([[10.0, 20.0], [2.0, 4.0]])]
    )
    assert own.mean().abs() < 1e-4 and own.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    expected = (image - torch.tensor([10.0, 20.0]).view(2, 1, 1)) / torch.tensor([2.0, 4]).view(
        2, 1, 1
    )
    torch.testing.assert_close(given, expected)
    ignored = normalize_images([image], mean, std, "dataset", [torch.ones(2, 2)])[0]
    assert torch.equal(ignored, image)


SEEN: list[torch.Tensor | None] = []


@META_ARCH_REGISTRY.register()
class Watcher(torch.nn.Module):
    """Finds nothing, and notes the statistics that it is given."""

    def __init__(self, cfg) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def segment(self, batch):
        from iaunet_d2.networks.scored_masks import ScoredMasks

        SEEN.extend(x.get("statistics") for x in batch)
        empty = torch.zeros(0, dtype=torch.int64)
        return [
            ScoredMasks(
                [], torch.zeros(0, 2).long(), torch.zeros(0), empty, (x["height"], x["width"])
            )
            for x in batch
        ]


@pytest.mark.parametrize("how", ["image", "dataset"])
def test_each_tile_gets_the_plane_s(tmp_path, how):
    cfg = get_iaunet_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.NORMALIZE = "Watcher", how
    (tmp_path / "config.yaml").write_text(cfg.dump())
    AtomicCheckpointer(Watcher(cfg), str(tmp_path)).save_weights("model_final")
    segmenter = Segmenter(tmp_path, device="cpu")
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (90, 130)).astype(np.uint8)
    SEEN.clear()
    segmenter.predict(grey, tile="64")
    assert len(SEEN) > 2
    if how == "dataset":
        assert set(SEEN) == {None}
        return
    for statistics in SEEN:
        expected = torch.tensor([[grey.mean()] * 3, [grey.std()] * 3], dtype=torch.float32)
        torch.testing.assert_close(statistics, expected, rtol=1e-4, atol=1e-3)
    SEEN.clear()
    segmenter.predict(grey, tile="off")
    assert SEEN == [None]
