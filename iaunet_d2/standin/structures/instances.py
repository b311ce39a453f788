"""What is known of the instances of one image, field by field."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch


class Instances:
    """N instances of one image with named fields, each of length N.

    Fields are set and read as attributes (``instances.scores``); indexing picks instances in all
    fields: ``instances[instances.scores > 0.5]``. Names that start with ``_`` are no fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """Take the image's (height, width), and fields."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name[:1] == "_":
            object.__setattr__(self, name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # "_fields" itself is asked for while an object is unpickled.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"there is no field {name!r} in these Instances")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Raises:
            AssertionError: its length differs from that of the other fields (Detectron2's type).
        """
        if self._fields and len(value) != len(self):
            raise AssertionError(
                f"field {name!r} has length {len(value)}, these Instances have {len(self)}"
            )
        self._fields[name] = value

    def get(self, name: str) -> Any:
        """A field; KeyError where there is none."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drop a field; KeyError where there is none."""
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields by name: the dict itself, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """With every field moved that has a method ``to``."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: Any) -> "Instances":
        """The instances of an int, a slice, or a tensor of indices or bools.

        Raises:
            IndexError: an int out of range.
        """
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"instance {item} of {len(self)}")
            item = slice(item, None, len(self))  # a slice keeps the dimension of instances
        picked = Instances(self._image_size)
        for name, value in self._fields.items():
            picked.set(name, value[item])
        return picked

    def __len__(self) -> int:
        """Number of instances; NotImplementedError where there is no field."""
        if not self._fields:
            raise NotImplementedError("Instances without fields have no length")
        return len(next(iter(self._fields.values())))

    def __iter__(self) -> Iterator["Instances"]:
        raise NotImplementedError("Instances are indexed, not iterated over")

    @staticmethod
    def cat(instance_lists: Sequence["Instances"]) -> "Instances":
        """All instances of several objects of one image size and with the same fields, in order.

        Raises:
            ValueError: there is nothing to join, the sizes differ, or a field cannot be joined.
        """
        if not instance_lists:
            raise ValueError("there are no Instances to join")
        if len(instance_lists) == 1:
            return instance_lists[0]
        sizes = {tuple(instances.image_size) for instances in instance_lists}
        if len(sizes) > 1:
            raise ValueError(f"Instances of images of different size cannot be joined: {sizes}")
        joined = Instances(instance_lists[0].image_size)
        for name in instance_lists[0].get_fields():
            joined.set(name, _join([instances.get(name) for instances in instance_lists]))
        return joined

    def __str__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        counts = f"num_instances={len(self)}, image_height={height}, image_width={width}"
        return f"Instances({counts}, fields=[{fields}])"

    __repr__ = __str__


def _join(values: list[Any]) -> Any:
    """One field of several Instances as one value."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(values)
    if isinstance(first, list):
        return [item for value in values for item in value]
    if hasattr(type(first), "cat"):
        return type(first).cat(values)
    raise ValueError(f"fields of type {type(first)} cannot be joined")
