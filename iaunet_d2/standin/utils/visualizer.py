"""Instances drawn on their image. Matplotlib is imported when the first picture is made."""

from collections.abc import Sequence
from enum import Enum, unique
from typing import Any

import cv2
import numpy as np
import torch

from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from ._drawing import GenericMask, VisImage, brighter, jittered, rgb
from .colormap import random_color

__all__ = ["ColorMode", "GenericMask", "VisImage", "Visualizer"]

# Square pixels: smaller objects have their label beside them, larger parts of a mask one each.
_SMALL_AREA = 1000
_LARGE_AREA = 120000


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    # Every instance in a random colour, translucent.
    IMAGE = 0
    # Every instance in a shade of its class's colour (the metadata's thing_colors), more opaque.
    SEGMENTATION = 1
    # As IMAGE, with everything outside of the masks in grey.
    IMAGE_BW = 2


class Visualizer:
    """Draws predictions and annotations on an image."""

    def __init__(
        self,
        img_rgb: Any,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """Start from an image.

        Args:
            img_rgb: (H, W, 3), red first, in 0..255.
            metadata: of the data set, for names and colours of classes.
            scale: size of the picture relative to the image.
            instance_mode: how instances are coloured.
            font_size_scale: size of the text relative to the default.
        """
        if metadata is None:
            from ..data.catalog import MetadataCatalog

            metadata = MetadataCatalog.get("__nonexist__")
        self.img = np.clip(np.asarray(img_rgb), 0, 255).astype(np.uint8)
        self.metadata = metadata
        self.output = VisImage(self.img, scale)
        self._instance_mode = instance_mode
        self._reference = float(np.sqrt(self.output.height * self.output.width))  # pixels
        self._default_font_size = max(self._reference // 90, 10 // scale) * font_size_scale

    def get_output(self) -> VisImage:
        """The picture with all that was drawn."""
        return self.output

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw what a model returned, on the CPU.

        Args:
            predictions: any of ``pred_boxes``, ``pred_masks``, ``pred_classes``, ``scores``.
            jittering: vary the class's colour from instance to instance, in mode SEGMENTATION.
        """
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        labels = _labels(classes, fields.get("scores"), self.metadata.get("thing_classes", None))
        masks = fields.get("pred_masks")
        colors = self._class_colors(classes, jittering)
        alpha = 0.5 if colors is None else 0.8
        if self._instance_mode == ColorMode.IMAGE_BW:
            covered = None if masks is None else np.any(_arrays(masks), axis=0)
            self.output.reset_image(self._grey_outside(covered))
            alpha = 0.3
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            masks=None if masks is None else list(_arrays(masks)),
            labels=labels,
            assigned_colors=colors,
            alpha=alpha,
        )

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of one image in Detectron2's data-set format."""
        annotations = dic.get("annotations") or []
        if not annotations:
            return self.output
        classes = [a["category_id"] for a in annotations]
        has_masks = "segmentation" in annotations[0]
        labels = _labels(classes, None, self.metadata.get("thing_classes", None)) or []
        crowd = [a.get("iscrowd", 0) for a in annotations]
        return self.overlay_instances(
            boxes=np.array(
                [
                    BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS)
                    for a in annotations
                ]
            ),
            masks=[a["segmentation"] for a in annotations] if has_masks else None,
            labels=[t + "|crowd" if c else t for t, c in zip(labels, crowd, strict=True)],
            assigned_colors=self._class_colors(classes, jittering=True),
        )

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        assigned_colors: Sequence[Any] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw instances, the large ones first so that small ones stay visible.

        Args:
            boxes: Boxes, or (N, 4) as (left, top, right, bottom).
            labels: N texts.
            masks: PolygonMasks, BitMasks, (N, H, W), or a list of N polygon lists, arrays (H, W)
                or COCO RLEs.
            assigned_colors: N Matplotlib colours; random ones by default.
            alpha: opacity of the masks.

        Raises:
            ValueError: boxes, labels, masks and colours differ in number.
        """
        corners = None if boxes is None else _arrays(boxes)
        shapes = None if masks is None else self._generic(masks)
        counts = {len(x) for x in (corners, shapes) if x is not None} or {0}
        number = counts.copy().pop()
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(number)]
        counts |= {len(x) for x in (labels, assigned_colors) if x is not None}
        if len(counts) > 1:
            raise ValueError(f"boxes, masks, labels and colours differ in number: {sorted(counts)}")
        if corners is not None:
            areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1) if number else np.zeros(0)
        else:
            areas = np.array([shape.area() for shape in shapes or []])
        for i in np.argsort(-areas).tolist():
            if corners is not None:
                self.draw_box(corners[i], edge_color=assigned_colors[i])
            if shapes is not None:
                for polygon in shapes[i].polygons:
                    self.draw_polygon(polygon.reshape(-1, 2), assigned_colors[i], alpha=alpha)
            if labels is not None:
                box = None if corners is None else corners[i]
                self._draw_label(labels[i], assigned_colors[i], box, shapes[i] if shapes else None)
        return self.output

    def _draw_label(
        self, text: str, color: Any, box: np.ndarray | None, shape: GenericMask | None
    ) -> None:
        """Write at the box's corner, else in the middle of the mask; beside small objects."""
        if box is not None:
            position, align = (box[0], box[1]), "left"
        elif shape is not None and shape.polygons:
            box = shape.bbox()
            y, x = np.median(shape.mask.nonzero(), axis=1)
            position, align = (x, y), "center"
        else:
            return
        x0, y0, x1, y1 = box
        scale = self.output.scale
        if (y1 - y0) * (x1 - x0) < _SMALL_AREA * scale or y1 - y0 < 40 * scale:
            position = (x1, y0) if y1 >= self.output.height - 5 else (x0, y1)
        # Between 0.6 and 1 times the default size, for objects of 4 % of the image and more.
        growth = np.clip(((y1 - y0) / self._reference - 0.02) / 0.08 + 1, 1.2, 2)
        self.draw_text(
            text,
            position,
            color=brighter(color, 0.7),
            horizontal_alignment=align,
            font_size=float(growth) * 0.5 * self._default_font_size,
        )

    def draw_text(
        self,
        text: str,
        position: tuple[float, float],
        *,
        font_size: float | None = None,
        color: Any = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write on a dark ground, below ``position`` (x, y), turned by ``rotation`` degrees."""
        legible = np.maximum(rgb(color), 0.2)
        legible[legible.argmax()] = max(0.8, legible.max())
        self.output.ax.text(
            *position,
            text,
            color=legible,
            size=(font_size or self._default_font_size) * self.output.scale,
            family="sans-serif",
            horizontalalignment=horizontal_alignment,
            verticalalignment="top",
            rotation=rotation,
            zorder=10,
            bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.8, "pad": 0.7},
        )
        return self.output

    def draw_box(
        self, box_coord: Any, alpha: float = 0.5, edge_color: Any = "g", line_style: str = "-"
    ) -> VisImage:
        """Draw the outline of a box (left, top, right, bottom)."""
        from matplotlib.patches import Rectangle

        left, top, right, bottom = (float(c) for c in box_coord)
        outline = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=edge_color
        )
        outline.set(alpha=alpha, linestyle=line_style)
        outline.set_linewidth(max(self._default_font_size / 4, 1) * self.output.scale)
        self.output.ax.add_patch(outline)
        return self.output

    def draw_polygon(
        self, segment: np.ndarray, color: Any, edge_color: Any = None, alpha: float = 0.5
    ) -> VisImage:
        """Fill a polygon (N, 2); its edge is opaque, and darker where the filling is too."""
        from matplotlib.patches import Polygon

        if edge_color is None:
            edge_color = brighter(color, -0.7) if alpha > 0.8 else color
        width = max(self._default_font_size // 15 * self.output.scale, 1)
        face, edge = (*rgb(color), alpha), (*rgb(edge_color), 1)
        self.output.ax.add_patch(Polygon(segment, facecolor=face, edgecolor=edge, linewidth=width))
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Any = None,
        *,
        edge_color: Any = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float | None = 10,
    ) -> VisImage:
        """Draw a mask (H, W) without parts below ``area_threshold`` pixels, and a text on it."""
        color = rgb(random_color(rgb=True, maximum=1) if color is None else color)
        shape = GenericMask(binary_mask.astype("uint8"), self.output.height, self.output.width)
        drawn = shape.has_holes
        if shape.has_holes:  # a polygon would fill them
            height, width = shape.mask.shape
            layer = np.empty((height, width, 4), dtype=np.float32)
            layer[..., :3] = color
            layer[..., 3] = alpha * (shape.mask == 1)
            self.output.ax.imshow(layer, extent=(0, self.output.width, self.output.height, 0))
        for polygon in [] if shape.has_holes else shape.polygons:
            part = GenericMask([polygon], shape.height, shape.width)
            if part.area() >= (area_threshold or 0):
                self.draw_polygon(polygon.reshape(-1, 2), color, edge_color, alpha)
                drawn = True
        if text is not None and drawn:
            self._draw_text_in_mask(shape.mask, text, brighter(color, 0.7))
        return self.output

    def _draw_text_in_mask(self, mask: np.ndarray, text: str, color: Any) -> None:
        """Write in the largest connected part, and in the other very large ones."""
        _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = statistics[1:, cv2.CC_STAT_AREA]  # without the background
        for index in range(len(areas)):
            if index == areas.argmax() or areas[index] > _LARGE_AREA:
                y, x = np.median((parts == index + 1).nonzero(), axis=1)
                self.draw_text(text, (x, y), color=color)

    def _class_colors(self, classes: Sequence[int] | None, jittering: bool) -> list[Any] | None:
        """Colours by class, in mode SEGMENTATION where the metadata has them; else None."""
        palette = self.metadata.get("thing_colors", None)
        if self._instance_mode != ColorMode.SEGMENTATION or not palette or classes is None:
            return None
        colors = [np.array(palette[c]) / 255 for c in classes]
        return [jittered(c) if jittering else tuple(c) for c in colors]

    def _grey_outside(self, covered: Any) -> np.ndarray:
        """The image in grey, but in colour where ``covered`` (H, W)."""
        grey = np.repeat(self.img.mean(axis=2, dtype=np.float32, keepdims=True), 3, axis=2)
        return grey if covered is None else np.where(covered[..., None], self.img, grey)

    def _generic(self, masks: Any) -> list[GenericMask]:
        items = list(masks) if isinstance(masks, (list, PolygonMasks)) else list(_arrays(masks))
        size = (self.output.height, self.output.width)
        return [m if isinstance(m, GenericMask) else GenericMask(m, *size) for m in items]


def _arrays(values: Any) -> np.ndarray:
    """Boxes, BitMasks or a tensor as a NumPy array."""
    tensor = values.tensor if isinstance(values, (Boxes, BitMasks)) else values
    return tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)


def _labels(
    classes: Sequence[int] | None, scores: Any, names: Sequence[str] | None
) -> list[str] | None:
    """``name percent`` for every instance, of what there is."""
    if classes is None and scores is None:
        return None
    percent = None if scores is None else [f"{float(s) * 100:.0f}%" for s in scores]
    if classes is None:
        return percent
    words = [names[c] if names else str(c) for c in classes]
    return words if percent is None else [f"{w} {p}" for w, p in zip(words, percent, strict=True)]
