"""How synthetic cells look in a bright-field microscope: translucent, dark rim, bright halo.

Light that passes two cells is dimmed by both: what cells do is added up as optical depth and
becomes a factor of the background, so that an overlap is darker and shows the rims of both.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .synthetic_shapes import CellShape, pixel_centres


@dataclass(frozen=True)
class CellLook:
    """What the cells of one image have in common (one kind of cell, one focus).

    Attributes:
        absorption: optical depth of the cytoplasm's thickest part.
        rim: optical depth of the outline.
        halo: brightening just outside the outline.
        relief: light from one side, by the slope of the cell.
        light: direction of that light in radians.
        nucleus: optical depth of the nucleus; 0 for cells without a visible one.
        granules: mean number of granules per cell.
    """

    absorption: float
    rim: float
    halo: float
    relief: float
    light: float
    nucleus: float
    granules: float


def draw_look(rng: np.random.Generator) -> CellLook:
    """Draw the common look of an image's cells."""
    return CellLook(
        absorption=rng.uniform(0.1, 0.22),
        rim=rng.uniform(0.15, 0.3),
        halo=rng.uniform(0.05, 0.14),
        relief=rng.uniform(0.0, 0.1),
        light=rng.uniform(0, 2 * np.pi),
        nucleus=rng.uniform(0.12, 0.25) if rng.random() < 0.65 else 0.0,
        granules=rng.choice([0.0, 4.0, 12.0]),
    )


def optical_depth(
    depth: np.ndarray, shape: CellShape, look: CellLook, rng: np.random.Generator
) -> None:
    """Add a cell to the optical depth (H, W), in place.

    Args:
        depth: natural logarithm of background by light.
        shape: the cell's outline.
        look: of the image's cells; each cell differs a little.
        rng: random numbers.
    """
    rows, columns = shape.window(margin=8)
    y, x = pixel_centres(rows, columns)
    relative = shape.relative_radius(y, x)
    # Distance from the outline in pixels, positive inside, from the local slope of the relative
    # radius.
    slope = np.hypot(*np.gradient(relative))
    distance = (1 - relative) / np.maximum(slope, 0.25 / shape.radius)
    vary = rng.uniform(0.75, 1.25)
    inside = np.clip(distance + 0.5, 0, 1)
    thickness = np.sqrt(np.clip(1 - relative**2, 0, None))
    cell = look.absorption * vary * (0.35 * inside + 0.65 * thickness)
    cell += look.rim * vary * np.exp(-(((distance - 0.6) / 0.9) ** 2))
    cell -= look.halo * np.exp(-(((distance + 2.2) / 1.3) ** 2))
    dy, dx = np.gradient(thickness)
    cell += look.relief * shape.radius * 0.5 * (np.cos(look.light) * dx + np.sin(look.light) * dy)
    cell += inside * _texture(rng, relative.shape) * look.absorption * 0.35
    if look.nucleus:
        cell += _nucleus(shape, look.nucleus * vary, y, x, rng)
    for _ in range(int(rng.poisson(look.granules))):
        cell += _granule(shape, y, x, rng) * (relative < 0.85)
    depth[rows, columns] += cell


def expose(depth: np.ndarray, difficulty: float, rng: np.random.Generator) -> np.ndarray:
    """The camera image of an optical depth: uneven light, debris, blur, noise.

    Args:
        depth: (H, W).
        difficulty: 0 to 1; lowers contrast, raises blur, noise, unevenness and debris.
        rng: random numbers.

    Returns:
        (H, W) ``uint8``.
    """
    size = depth.shape[0]
    light = rng.uniform(150, 190) * np.exp(_uneven(rng, size) * (0.04 + 0.06 * difficulty))
    debris = np.zeros_like(depth)
    for _ in range(int(rng.poisson(1 + 10 * difficulty))):
        row, column = rng.integers(size, size=2)
        cv2.circle(
            debris,
            (int(column), int(row)),
            int(rng.integers(1, 3)),
            float(rng.uniform(0.1, 0.4)),
            -1,
        )
    contrast = (1.15 - 0.6 * difficulty) * rng.uniform(0.85, 1.15)
    image = light * np.exp(-contrast * (depth + debris))
    image = cv2.GaussianBlur(image, (0, 0), 0.55 + 0.6 * difficulty)
    # Shot noise grows with the square root of the light.
    noise = rng.standard_normal(depth.shape) * (1.5 + 6 * difficulty) * np.sqrt(image / 180)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 1.5)
    return noise / max(float(noise.std()), 1e-6)


def _nucleus(
    shape: CellShape, strength: float, y: np.ndarray, x: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    radius = shape.radius * rng.uniform(0.3, 0.42) / shape.aspect**0.25
    row, column = (c + rng.uniform(-0.15, 0.15) * shape.radius for c in shape.centre)
    stretch, turn = rng.uniform(1, 1.4), rng.uniform(0, np.pi)
    u = ((x - column) * np.cos(turn) + (y - row) * np.sin(turn)) / stretch
    v = ((y - row) * np.cos(turn) - (x - column) * np.sin(turn)) * stretch
    inside = 1 / (1 + np.exp((np.hypot(u, v) - radius) / 0.6))
    spot = np.exp(-((u - 0.3 * radius) ** 2 + v**2) / (0.25 * radius) ** 2)
    return strength * (inside + 0.8 * spot)


def _granule(
    shape: CellShape, y: np.ndarray, x: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    distance, angle = shape.radius * np.sqrt(rng.uniform(0, 0.7)), rng.uniform(0, 2 * np.pi)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    along, across = along * np.sqrt(shape.aspect), across / np.sqrt(shape.aspect)
    column = shape.centre[1] + along * np.cos(shape.turn) - across * np.sin(shape.turn)
    row = shape.centre[0] + along * np.sin(shape.turn) + across * np.cos(shape.turn)
    width = rng.uniform(0.6, 1.1)
    strength = rng.uniform(0.1, 0.3) * rng.choice([1, 1, -0.6])
    return strength * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * width**2))


def _uneven(rng: np.random.Generator, size: int) -> np.ndarray:
    """A slowly varying field (size, size) of standard deviation 1."""
    coarse = rng.standard_normal((3, 3)).astype(np.float32)
    field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / max(float(field.std()), 1e-6)
