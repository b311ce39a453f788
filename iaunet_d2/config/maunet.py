"""Keys of MAUNet (``MODEL.MAUNET``); the defaults are the published model's, one network of two."""

from detectron2.config import CfgNode as CN


def add_maunet(cfg: CN) -> None:
    """Add the keys."""
    own = cfg.MODEL.MAUNET = CN()
    # timm encoders with a map at stride 2 (ResNets), one per network; the outputs of several are
    # averaged. () is one network with MODEL.BACKBONE.
    own.ENCODERS = ()
    # The last stride that each encoder is built to: 32, 16 or 8 (a single number serves all).
    own.LAST_STRIDES = (32,)
    # One checkpoint per encoder, each of a training with that encoder alone: where the networks
    # start, unless MODEL.WEIGHTS gives them all. () starts from the encoders' weights.
    own.MEMBER_WEIGHTS = ()
    # Channels at strides 1 and 2; twice as many with every stride after.
    own.WIDTH = 24

    own.LOSS = CN()
    # Weights of dice, focal and distance loss.
    own.LOSS.DICE_WEIGHT = 1.0
    own.LOSS.FOCAL_WEIGHT = 1.0
    own.LOSS.DISTANCE_WEIGHT = 1.0
    # Focusing exponent of the focal loss.
    own.LOSS.FOCAL_GAMMA = 2.0
    # The focal loss as the authors' code has it: a sigmoid on top of the probabilities.
    own.LOSS.PUBLISHED_FOCAL = False
    # Weight of the consistency of two networks on unlabelled images (the paper's is 1.5); 0 is off,
    # as in the authors' submission. Needs two ENCODERS.
    own.LOSS.CONSISTENCY_WEIGHT = 0.0

    own.INFERENCE = CN()
    # The image is seen at these scales, and the outputs are averaged; images of more pixels than
    # MOST_PIXELS at the first one alone.
    own.INFERENCE.SCALES = (1.0, 1.25, 1.5)
    own.INFERENCE.MOST_PIXELS = 25000000
    # Side of the sliding windows (a multiple of 32), the share of a side that neighbours have in
    # common, and windows at once.
    own.INFERENCE.WINDOW = 512
    own.INFERENCE.OVERLAP = 0.25
    own.INFERENCE.WINDOW_BATCH = 4
    # A pixel is interior above the one probability, and foreground where that of background is
    # below the other.
    own.INFERENCE.INTERIOR_THRESH = 0.7
    own.INFERENCE.BACKGROUND_THRESH = 0.3
    # Smaller parts of the interior are dropped, pixels of the file.
    own.INFERENCE.MIN_INTERIOR = 16
    # Seeds are where the smoothed distance exceeds this share of its greatest in the interior
    # ("relative", as in the authors' code), or this distance ("absolute", in the paper's text 0.8).
    own.INFERENCE.SEED = 0.85
    own.INFERENCE.SEED_IS = "relative"
    # Least smoothed distance of a peak, as a share of the greatest, where no seed was found.
    own.INFERENCE.PEAK = 0.6
    # Instances smaller than this share of the image's mean are dropped.
    own.INFERENCE.LEAST_SHARE = 0.1
    # Cut instances out as the authors' code does, with OpenCV's watershed.
    own.INFERENCE.PUBLISHED_CUTTING = False
