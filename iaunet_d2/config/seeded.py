"""Keys of seeded queries (``MODEL.SEEDED``); they are not in the paper."""

from detectron2.config import CfgNode as CN


def add_seeded(cfg: CN) -> None:
    """Add the keys."""
    # The loader's workers make the targets of seeded queries (MODEL.QUERY_DECODER.NAME
    # SeededQueryDecoder); False: the model makes them, which is slower.
    cfg.INPUT.SEED_TARGETS = False

    own = cfg.MODEL.SEEDED = CN()
    # Channels of the queries.
    own.HIDDEN_DIM = 256
    # Queries of an image in training: the best peaks of its heat map; or half as many again as it
    # has instances, if these are more.
    own.TRAIN_QUERIES = 100
    # At inference: a query begins at each peak above the threshold, up to so many. After a short
    # training a cell's peak is low; a needless query costs little, and gets a low score.
    own.MAX_QUERIES = 1000
    own.THRESHOLD = 0.02
    # Query blocks per decoder level.
    own.BLOCKS_PER_LEVEL = 1
    # Attention heads, width of the feed-forward layers, and dropout.
    own.NUM_HEADS = 8
    own.FFN_DIM = 1024
    own.DROPOUT = 0.0
    # A query attends to SIDE x SIDE pixels of a level around its anchor.
    own.SIDE = 9
    # Stride of the masks (4, 2 or 1 pixels), and channels of the mask features where it is finer
    # than 4.
    own.MASK_STRIDE = 2
    own.MASK_DIM = 32
    # Teacher queries per instance in training, each at a random place well inside it.
    own.TEACHERS = 3

    own.LOSS = CN()
    # Weight of the heat map's loss, and of the mask losses of all teacher queries.
    own.LOSS.HEAT_WEIGHT = 1.0
    own.LOSS.TEACHER_WEIGHT = 1.0
    # Matching cost of a query that begins outside the instance.
    own.LOSS.LOCATION_COST = 100.0
    # "quality": a focal loss that wants the class probability to be the mask's IoU; or
    # "cross_entropy", the published one.
    own.LOSS.CLASS_LOSS = "cross_entropy"
    # Take the points of the mask losses around the instance; False: all over the image, where
    # small cells get few.
    own.LOSS.LOCAL_POINTS = False
