"""A scene with every awkward kind of mask, its exact outlines, and folders for a test's files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import find_contours, label

from iaunet_d2.data.importers import Report

SIZE = (37, 53)


def _disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def _box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def scene() -> dict[str, np.ndarray]:
    """Masks (37, 53) by name; some overlap."""
    noise = np.random.default_rng(3).random(SIZE) < 0.5
    return {
        "ring": _disc(10, 12, 8.3) & ~_disc(10, 12, 3.2),
        "in the hole": _disc(10, 12, 1.5),
        "over the ring": _disc(14, 20, 6.5),
        "two parts": _box(24, 3, 30, 8) | _box(26, 11, 33, 14),
        "touching left": _box(22, 20, 30, 26),
        "touching right": _box(22, 26, 30, 33),
        "one pixel": _box(3, 30, 4, 31),
        "corner of the frame": _box(36, 52, 37, 53),
        "left frame": _box(12, 0, 20, 3),
        "top and right frame": _box(0, 45, 9, 53) & ~_box(5, 45, 9, 49),
        "ragged": noise & _box(12, 36, 22, 50),
    }


def whole_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The pieces of a mask that touch along edges."""
    pieces, count = label(mask, connectivity=1, return_num=True)
    return [pieces == k for k in range(1, count + 1)]


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Rings (points, 2) of x and y in pixel-edge coordinates, the outer one first.

    Contours at half height around a padded mask pass between the pixels' centres.
    """
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    rings = [contour[:, ::-1] - 0.5 for contour in contours]
    return sorted(rings, key=lambda ring: -np.ptp(ring[:, 0]) * np.ptp(ring[:, 1]))


@dataclass
class Folders:
    """Where a test writes its files."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def annotations(self) -> Path:
        return self.root / "annotations"

    def image(self, name: str = "a.png", size: tuple[int, int] = SIZE) -> Path:
        """Write a grey image."""
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(size, dtype=np.uint8)).save(path)
        return path

    def text(self, name: str, content: str) -> Path:
        """Write an annotation file."""
        path = self.annotations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path


@dataclass
class Imported:
    """What came out: the report, and per image its masks and class names, in order."""

    report: Report
    masks: dict[str, list[np.ndarray]]
    classes: dict[str, list[str]]

    def told(self, part: str) -> int:
        """How often a finding was counted that holds these words; they belong to exactly one."""
        counts = [n for what, n in self.report.findings.items() if part in what]
        assert len(counts) <= 1
        return sum(counts)


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """The masks, pixel by pixel and in order."""
    assert len(found) == len(expected)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.shape == other.shape
        assert np.array_equal(one, other), f"mask {place}: {np.sum(one != other)} pixels differ"
