"""Keys of parts that any model can be put together from."""

from detectron2.config import CfgNode as CN


def add_parts(cfg: CN) -> None:
    """Add the keys of backbones, decoders and imports."""
    # Files or modules, imported before the model is built, that register parts of your own; a file
    # is looked for beside the config, then in the working directory. Training keeps a copy in
    # OUTPUT_DIR.
    cfg.MODEL.IMPORTS = ()
    # A builder in Detectron2's BACKBONE_REGISTRY: build_timm_backbone (MODEL.TIMM), Detectron2's
    # own (build_resnet_fpn_backbone), or yours.
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.PIXEL_DECODER = CN()
    # IAUNetPixelDecoder, MSDeformAttnPixelDecoder (Mask2Former's), FPNPixelDecoder, or yours; ""
    # is the model's own.
    cfg.MODEL.PIXEL_DECODER.NAME = ""
    # Channels of FPNPixelDecoder.
    cfg.MODEL.PIXEL_DECODER.FPN_DIM = 256
    cfg.MODEL.QUERY_DECODER = CN()
    # IAUNetQueryDecoder, SeededQueryDecoder (with MODEL.META_ARCHITECTURE IAUNet),
    # MultiScaleMaskedTransformerDecoder (Mask2Former's), or yours; "" is the model's own.
    cfg.MODEL.QUERY_DECODER.NAME = ""
    _add_backbones(cfg)


def _add_backbones(cfg: CN) -> None:
    """Detectron2's backbones that have no keys of its own; the defaults are Swin-T and ViT-B."""
    swin = cfg.MODEL.D2_SWIN = CN()
    # Channels at stride 4; they double with every stride.
    swin.EMBED_DIM = 96
    # Blocks and attention heads of each of the four stages.
    swin.DEPTHS = [2, 2, 6, 2]
    swin.NUM_HEADS = [3, 6, 12, 24]
    # Side of the windows that blocks attend in, patches.
    swin.WINDOW_SIZE = 7
    # Stochastic depth rate.
    swin.DROP_PATH_RATE = 0.2

    vit = cfg.MODEL.D2_VITDET = CN()
    # Side of the image that the positions are made for, pixels; they are interpolated for others.
    vit.IMAGE_SIZE = 512
    # Channels, blocks and attention heads of the ViT, patches of 16 pixels.
    vit.EMBED_DIM = 768
    vit.DEPTH = 12
    vit.NUM_HEADS = 12
    # Side of the windows, patches; and the blocks that attend to the whole image instead.
    vit.WINDOW_SIZE = 14
    vit.GLOBAL_BLOCKS = [2, 5, 8, 11]
    # Stochastic depth rate.
    vit.DROP_PATH_RATE = 0.1
    # Channels of the pyramid's maps.
    vit.OUT_CHANNELS = 256
