"""Keys of VSM (``MODEL.VSM``); the defaults are the paper's X size, as far as it gives any."""

from detectron2.config import CfgNode as CN


def add_vsm(cfg: CN) -> None:
    """Add the keys."""
    own = cfg.MODEL.VSM = CN()
    # What is trained: "det" (the detector), "seg" (the segmenter, on true boxes) or "joint" (both
    # in one loop). At inference both always work, whatever they have learnt so far.
    own.STAGE = "joint"
    # A checkpoint of this system from which the detector, or the segmenter, starts: to put together
    # what two trainings made. Each part must fit whole.
    own.DETECTOR_WEIGHTS = ""
    own.SEGMENTER_WEIGHTS = ""
    # A mask's pixel belongs to the instance where its probability exceeds this.
    own.MASK_THRESHOLD = 0.5
    # Instances with a lower score (detector's x mean mask probability) are dropped.
    own.SCORE_THRESH = 0.05
    # Give each pixel to the best instance alone, and drop those below RESOLVED_SCORE_THRESH instead
    # of SCORE_THRESH: the paper's label maps. COCO's AP wants overlaps and low scores.
    own.RESOLVE_OVERLAPS = False
    own.RESOLVED_SCORE_THRESH = 0.5
    _add_detector(own)
    _add_segmenter(own)


def _add_detector(own: CN) -> None:
    # Size of YOLOX: nano 0.33 and 0.25, tiny 0.33 and 0.375, S 0.33 and 0.5, X 1.33 and 1.25.
    own.DEPTH = 1.33
    own.WIDTH = 1.25
    # Momentum of the batch norms' statistics; a training of a few hundred steps needs 0.1.
    own.NORM_MOMENTUM = 0.03
    # Priors this many strides around a true centre are candidates of the assignment.
    own.CENTRE_RADIUS = 2.5
    # Weight of the loss on centres and log sides, of batches without an image that is joined of
    # several: YOLOX adds it once it trains without mosaic.
    own.L1_WEIGHT = 1.0
    # In each view: detections with a lower score are dropped; same-class box IoU above which the
    # lower-scored detection is dropped.
    own.DETECTOR_SCORE_THRESH = 0.01
    own.DETECTOR_NMS_THRESH = 0.65
    # Detect in four rotations of the image and of its mirror image, and merge: eight times the
    # work.
    own.TTA = True
    # How the boxes of all views, or of the only one, are merged: "nms" (as submitted) or "wbf"
    # (weighted box fusion, as in development); and the IoU above which two of a class are one.
    own.MERGE = "nms"
    own.MERGE_IOU = 0.5
    # Boxes with a shorter side are dropped, pixels.
    own.MIN_BOX_SIDE = 3.0
    # Boxes wider or higher than this share of the image are dropped (the paper's code: 0.5), and
    # those both wider and higher than this one (0.8). 0 is off, because it loses the cell of an
    # image of one.
    own.MAX_BOX_SIDE = 0.0
    own.MAX_BOX_SIDES = 0.0


def _add_segmenter(own: CN) -> None:
    # Channels of the U-Net's first stage; its five stages double them.
    own.UNET_WIDTH = 64
    # Channels and dilations of the ASPP head's branches.
    own.ASPP_WIDTH = 16
    own.ASPP_RATES = [1, 12, 24, 36]
    # Channels of the auxiliary head; 0 leaves it out.
    own.AUX_WIDTH = 64
    # Dropout in front of the classifiers.
    own.DROPOUT = 0.1
    # Side of the crops, pixels; a multiple of 16.
    own.CROP_SIZE = 64
    # True boxes per image and step, chosen at random, that the segmenter learns at most.
    own.CROPS_PER_IMAGE = 64
    # Crops in one forward pass at inference: what bounds its memory.
    own.CROPS_PER_PASS = 96
    # Of the crops, per channel, on the scale of what the detector gets; [] takes them as they are.
    own.CROP_MEAN = []
    own.CROP_STD = []
    # Share of the true boxes that are stretched, and by how much at most: each side of a box is
    # multiplied by 1 - JITTER to 1 + JITTER.
    own.JITTER_PROB = 0.5
    own.JITTER = 0.2
    own.LOSS = CN()
    # Weights of cross-entropy, Dice and the auxiliary head's cross-entropy. The paper gives none;
    # these are its code's.
    own.LOSS.CE_WEIGHT = 1.0
    own.LOSS.DICE_WEIGHT = 3.0
    own.LOSS.AUX_WEIGHT = 0.4
