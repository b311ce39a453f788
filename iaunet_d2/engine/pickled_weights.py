"""The pickled weights of Detectron2's model zoo, read without running what is in them."""

import codecs
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from .errors import CheckpointError

# What a dict of arrays needs; anything else that a pickle names is refused. NumPy has moved its two
# functions from numpy.core to numpy._core, so that they are taken from where they are now.
_MULTIARRAY = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
}
_PLAIN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name in ("numpy.core.multiarray", "numpy._core.multiarray"):
            found: Any = _MULTIARRAY.get(global_name)
        else:
            found = _PLAIN.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"{module_name}.{global_name}")
        return found


def read_pickled_weights(path: str) -> dict[str, Any]:
    """Read a dict of arrays, numbers and strings.

    Returns:
        ``model`` (name -> array) and what stands beside it. Files of Caffe2 are a bare dict of
        arrays; they are marked, as Detectron2 does, so that it looks for like names and shapes.

    Raises:
        CheckpointError: it holds anything else, or is damaged.
    """
    try:
        with open(path, "rb") as stream:
            data = _ArraysOnly(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{path} is a pickle of more than arrays, or damaged ({error}), and reading one runs "
            "whatever code it holds. Convert it once where you trust it: "
            "torch.save({'model': {name: tensor, ...}}, 'weights.pth')"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a dict of weights")
    if "model" in data:
        return data
    arrays = data.get("blobs", data)
    model = {name: value for name, value in arrays.items() if not name.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
