"""Parts of a user's own in tests: imported as in a new process, and forgotten afterwards."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from iaunet_d2.config import imports
from iaunet_d2.meta_arch import PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

OWN = ("_iaunet_d2_import_", "own_")
"""How names of modules begin that tests import: files, and packages."""

TINY = [
    *(
        "MODEL.DEVICE",
        "cpu",
        "MODEL.TIMM.PRETRAINED",
        "False",
        "MODEL.TIMM.NAME",
        "resnet10t",
        "MODEL.IAUNET.HIDDEN_DIM",
        "16",
    ),
    *("MODEL.IAUNET.NUM_QUERIES", "5", "MODEL.IAUNET.FFN_DIM", "16"),
    *("MODEL.IAUNET.NUM_HEADS", "2", "MODEL.IAUNET.SCORE_THRESH", "0.0"),
    *("MODEL.IAUNET.LOSS.NUM_POINTS", "64", "MODEL.IAUNET.LOSS.MATCHER_POINTS", "64"),
    *("INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
    *("DATASETS.TRAIN", "('synthetic:4:64:0.1:1',)", "DATASETS.TEST", "('synthetic:2:64:0.1:2',)"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2"),
    *("TEST.EVAL_PERIOD", "0", "TEST.NUM_OVERLAYS", "0", "TEST.VAL_LOSS", "False"),
]
"""Config keys and values that train a model of two decoders in a moment."""


@contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """Know no imported parts inside, and outside none that were imported inside."""
    kinds = (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        PIXEL_DECODER_REGISTRY,
        QUERY_DECODER_REGISTRY,
    )
    tables = [*(registry._obj_map for registry in kinds), imports._imported]
    before = [dict(table) for table in tables]
    modules, asked = set(sys.modules), list(imports._asked)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "iaunet_d2")]
    logging_before = [(x.level, x.propagate, list(x.handlers)) for x in loggers]
    for table in tables[:-1]:
        for name in [name for name, part in table.items() if part.__module__.startswith(OWN)]:
            del table[name]
    imports._imported.clear()
    imports._asked.clear()
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
        imports._asked[:] = asked
        for name in set(sys.modules) - modules:
            if name.startswith(OWN):
                del sys.modules[name]
        for logger, (level, propagate, handlers) in zip(loggers, logging_before, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers
