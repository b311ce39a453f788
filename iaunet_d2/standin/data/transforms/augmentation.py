"""What an augmentation is: a rule that looks at an image and decides on a transform."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "apply_augmentations",
]

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Augmentation:
    """Base of all augmentations: subclasses write :meth:`get_transform`.

    The parameters of ``get_transform`` tell what it looks at: each is the name of an attribute of
    the :class:`AugInput` ("image", "boxes", "sem_seg"); a single parameter is the image, whatever
    its name.
    """

    # Names of the attributes to look at; None reads them off get_transform.
    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Keep a constructor's arguments, given as ``locals()``, as attributes."""
        for key, value in (params or {}).items():
            if key != "self" and not key.startswith("_"):
                setattr(self, key, value)

    def get_transform(self, *args: Any) -> Transform:
        """Decide on the transform for these inputs."""
        raise NotImplementedError(f"{type(self).__name__} does not say which transform to make")

    def __call__(self, aug_input: "AugInput") -> Transform:
        """Transform ``aug_input`` in place, and give the transform, to be applied to whatever
        belongs to it.

        Raises:
            TypeError: ``get_transform`` gives something else than a transform, or has open
                parameters.
            AttributeError: it wants what ``aug_input`` does not have.
        """
        transform = self.get_transform(*self._look_at(aug_input))
        if not isinstance(transform, Transform):
            raise TypeError(
                f"{type(self).__name__}.get_transform must give a Transform, "
                f"it gave {type(transform).__name__}"
            )
        aug_input.transform(transform)
        return transform

    def _look_at(self, aug_input: "AugInput") -> list[Any]:
        if self.input_args is None:
            self.input_args = self._names()
        for name in self.input_args:
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self).__name__}.get_transform wants {name!r}, which "
                    f"{type(aug_input).__name__} does not have"
                )
        return [getattr(aug_input, name) for name in self.input_args]

    def _names(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.get_transform).parameters
        if len(parameters) == 1:
            return ("image",)
        if any(parameter.kind in _VARIABLE for parameter in parameters.values()):
            raise TypeError(
                f"{type(self).__name__}.get_transform has *args or **kwargs: name its inputs, "
                "or write __call__ instead"
            )
        return tuple(parameters)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """A uniform number in [low, high), or with one bound in [0, low); an array where ``size``
        is given.
        """
        low, high = (0.0, low) if high is None else (low, high)
        return np.random.uniform(low, high, size)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters.values()
        shown = [
            f"{parameter.name}={getattr(self, parameter.name)!r}"
            for parameter in parameters
            if getattr(self, parameter.name, parameter.default) is not parameter.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


class _Fixed(Augmentation):
    """A transform in an augmentation's clothes."""

    def __init__(self, transform: Transform) -> None:
        self.tfm = transform

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def as_augmentation(step: Augmentation | Transform) -> Augmentation:
    """``step`` itself, or wrapped when it is a plain transform.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(step, Augmentation):
        return step
    if not isinstance(step, Transform):
        raise TypeError(f"expected an Augmentation or a Transform, got {type(step).__name__}")
    return _Fixed(step)


class AugmentationList(Augmentation):
    """Augmentations one after the other, each looking at what the one before it made."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = [as_augmentation(step) for step in augs]

    def __call__(self, aug_input: "AugInput") -> TransformList:
        return TransformList([augment(aug_input) for augment in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList{self.augs}"


class AugInput:
    """What augmentations look at and change.

    Args:
        image: (H, W) or (H, W, C), uint8 or float.
        boxes: (N, 4) as x1, y1, x2, y2 in pixels, or None.
        sem_seg: (H, W) integer labels, or None.

    Raises:
        TypeError: the image is not an array of two or three dimensions.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ) -> None:
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            found = getattr(image, "shape", type(image).__name__)
            raise TypeError(f"expected an image as an array (H, W) or (H, W, C), got {found}")
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply ``tfm`` to all of it, in place."""
        self.image = tfm.apply_image(self.image)
        others = {"boxes": tfm.apply_box, "sem_seg": tfm.apply_segmentation}
        for name, apply in others.items():
            if (value := getattr(self, name)) is not None:
                setattr(self, name, apply(value))

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """Apply several augmentations, in place."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[Any, TransformList]:
    """Augment an image or an :class:`AugInput`; give the same kind back, and the transforms."""
    if isinstance(inputs, np.ndarray):
        wrapped = AugInput(inputs)
        transforms = wrapped.apply_augmentations(augmentations)
        return wrapped.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


# Its name of old, which projects still use.
StandardAugInput = AugInput
