"""Data in: image readers, COCO files, mapper, loaders, and synthetic cells."""

from .augmentation import inference_augmentations, train_augmentations
from .checks import check_files, warn_if_crowded
from .coco_json import CocoContent, load_coco
from .datasets import ensure_registered, parse_coco_name, register_splits
from .datasets_root import datasets_root
from .errors import BadFileError, ClassesError
from .loaders import build_test_loader, build_train_loader, build_val_loss_loader, dataset_records
from .mapper import IAUNetDatasetMapper
from .readers import image_size, read_image
from .registered import SPLITS
from .stream import PositionSampler, ReportingLoader, SampleStream
from .synthetic import SyntheticCells, draw_cells, ensure_synthetic
from .unlabeled import is_unlabeled

register_splits()

__all__ = [
    "SPLITS",
    "BadFileError",
    "ClassesError",
    "CocoContent",
    "IAUNetDatasetMapper",
    "PositionSampler",
    "ReportingLoader",
    "SampleStream",
    "SyntheticCells",
    "build_test_loader",
    "build_train_loader",
    "build_val_loss_loader",
    "check_files",
    "dataset_records",
    "datasets_root",
    "draw_cells",
    "ensure_registered",
    "ensure_synthetic",
    "image_size",
    "inference_augmentations",
    "is_unlabeled",
    "load_coco",
    "parse_coco_name",
    "read_image",
    "register_splits",
    "train_augmentations",
    "warn_if_crowded",
]
