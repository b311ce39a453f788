"""An independent, pure-Python implementation of the part of Detectron2's public API that iaunet-d2
uses.

Same module paths, names, signatures, config keys, checkpoint layout and results as Detectron2 0.6
(main branch), written from its documentation and observed behaviour. :mod:`iaunet_d2` puts these
modules in Detectron2's place where Detectron2 is not installed.

:data:`LEFT_OUT` names what is not there on purpose. ``tools/conformance.sh`` runs Detectron2's own
tests on the rest.
"""

__version__ = "0.6+standin"

# Reason -> names below "detectron2.": a module or package with all in it, or a single name (which
# may be asked of its package or of any module there). "package.*" is all of the package that the
# stand-in does not have.
_BY_REASON: dict[str, tuple[str, ...]] = {
    "models run in PyTorch itself, they are not exported": (
        "export",
        "structures.BitMasks.from_roi_masks",
        "structures.ROIMasks",
        "utils.tracing",
    ),
    "networks are this project's, timm's, torchvision's or transformers'": (
        "layers.*",
        "modeling.*",
        "utils.analysis",
    ),
    "Detectron2's trained models, and projects on top of it, come with Detectron2": (
        "checkpoint.c2_model_loading",
        "checkpoint.catalog",
        "model_zoo",
        "projects",
    ),
    "configs are YAML of the current version, not Python and not older files": (
        "config.LazyCall",
        "config.LazyConfig",
        "config.compat",
        "config.downgrade_config",
        "config.instantiate",
        "config.lazy",
        "config.upgrade_config",
        "utils.registry._convert_target_to_string",
    ),
    "cells have no keypoints": (
        "data.build.filter_images_with_few_keypoints",
        "data.detection_utils.create_keypoint_hflip_indices",
        "data.detection_utils.transform_keypoint_annotations",
        "structures.Keypoints",
        "structures.heatmaps_to_keypoints",
        "structures.keypoints",
        "utils.visualizer.Visualizer.draw_and_connect_keypoints",
    ),
    "boxes are axis-parallel": (
        "data.detection_utils.annotations_to_instances_rotated",
        "data.transforms.HFlip_rotated_box",
        "data.transforms.ResizeTransform.apply_rotated_box",
        "data.transforms.Resize_rotated_box",
        "structures.BoxMode.XYWHA_ABS",
        "structures.RotatedBoxes",
        "structures.pairwise_iou_rotated",
        "structures.rotated_boxes",
        "utils.visualizer.Visualizer.draw_rotated_box_with_label",
        "utils.visualizer.Visualizer.overlay_rotated_instances",
    ),
    "instances are drawn, neither semantic maps nor single lines": (
        "utils.visualizer.Visualizer.draw_circle",
        "utils.visualizer.Visualizer.draw_line",
        "utils.visualizer.Visualizer.draw_panoptic_seg",
        "utils.visualizer.Visualizer.draw_sem_seg",
        "utils.visualizer.Visualizer.draw_soft_mask",
    ),
    "images stand alone, they are no video": ("tracking", "utils.video_visualizer"),
    "no model here takes proposals from a file": (
        "data.detection_utils.transform_proposals",
        "data.load_proposals_into_dataset",
        "structures.pairwise_point_box_distance",
    ),
    "public data sets of everyday photographs are registered by Detectron2": (
        "data.datasets.*",
        "data.detection_utils.get_fed_loss_cls_weights",
    ),
    "evaluation is of instances by COCO's rules, counted by faster-coco-eval": ("evaluation.*",),
    "training draws its images uniformly": (
        "data.samplers.GroupedBatchSampler",
        "data.samplers.RandomSubsetTrainingSampler",
        "data.samplers.RepeatFactorTrainingSampler",
        "data.samplers.grouped_batch_sampler",
    ),
    "no config of this project has such an augmentation": (
        "data.detection_utils.gen_crop_transform_with_instance",
        "data.transforms.ExtentTransform",
        "data.transforms.MinIoURandomCrop",
        "data.transforms.RandomCrop_CategoryAreaConstraint",
        "data.transforms.RandomExtent",
        "data.transforms.RandomLighting",
        "data.transforms.RandomResize",
        "data.transforms.RandomRotation",
        "data.transforms.RandomSaturation",
        "data.transforms.RotationTransform",
    ),
    "PyTorch and its profiler do it directly": (
        "data.benchmark",
        "engine.hooks.AutogradProfiler",
        "engine.hooks.PreciseBN",
        "engine.hooks.TorchMemoryStats",
        "engine.hooks.TorchProfiler",
    ),
    "a mapper that spawned workers get must itself be picklable": ("utils.serialize",),
    "helpers of Detectron2's own code and tests": (
        "data.common.set_default_dataset_from_list_serialize_method",
        "data.detection_utils.convert_image_to_rgb",
        "data.detection_utils.get_bbox",
        "structures.masks.polygon_area",
        "structures.masks.rasterize_polygons_within_box",
        "structures.matched_pairwise_iou",
        "utils.colormap.random_colors",
        "utils.develop",
        "utils.testing",
        "utils.torch_version_utils",
    ),
    "Detectron2 itself calls it outdated": (
        "data.detection_utils.build_transform_gen",
        "data.transforms.TransformGen",
        "data.transforms.apply_transform_gens",
        "solver.WarmupCosineLR",
        "solver.WarmupMultiStepLR",
    ),
}

LEFT_OUT = {f"detectron2.{name}": why for why, names in _BY_REASON.items() for name in names}


class LeftOutError(NotImplementedError, ValueError):
    """Tell that something of Detectron2's is asked for that the stand-in leaves out on purpose.

    Args:
        name: its key in :data:`LEFT_OUT`.
        asked: what the caller asked for, where the name does not say it.
    """

    def __init__(self, name: str, asked: str = "") -> None:
        subject = f"{asked}: {name}" if asked else name
        super().__init__(
            f"{subject} is left out of iaunet-d2's stand-in for Detectron2 ({LEFT_OUT[name]}); "
            "where you need it, install Detectron2 "
            "(https://detectron2.readthedocs.io/tutorials/install.html)"
        )
        self.name = name


def left_out_class(name: str, entry: str) -> type:
    """Make a class that scripts may import, and that raises :class:`LeftOutError` when built.

    Args:
        name: of the class.
        entry: key in :data:`LEFT_OUT` that it belongs to.
    """

    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise LeftOutError(entry, name)

    return type(name, (), {"__init__": refuse, "__doc__": "Left out of the stand-in."})


class ArgumentError(ValueError, AssertionError):
    """Tell that an argument is wrong where Detectron2 asserts, so that callers may catch either."""
