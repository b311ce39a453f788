"""Where :func:`register_coco_instances` was once, and is still looked for."""

from .coco import register_coco_instances

__all__ = ["register_coco_instances"]
