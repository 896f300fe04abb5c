"""Checks at the border: everything that enters the library becomes a finite float64 or int64 NumPy array here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Array = Any  # what callers may pass: a torch tensor, a NumPy array or nested lists

LARGEST = 1e100  # squares of larger entries would overflow the statistics within a run


def _to_numpy(name: str, value: Array) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # NumPy has no bfloat16; widening loses nothing because the result is float64 anyway.
        return value.to(torch.float64).numpy() if value.is_floating_point() else value.numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be rectangular; its rows have different lengths: {error}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got {type(value).__name__} of dtype {array.dtype}")
    return array


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        want = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise ValueError(f"{name} must have shape {want}, got {list(array.shape)}")


def floats(name: str, value: Array, shape: tuple[int | None, ...]) -> FloatArray:
    """Return `value` as a finite float64 array of the given shape.

    Parameters
    ----------
    name : str
        What the caller calls it; every message starts with it.
    value : array-like or torch.Tensor
        Numbers; tensors may live on any device and have any floating dtype.
    shape : tuple of int or None
        Required shape; None accepts any length on that axis.

    Raises
    ------
    TypeError
        If `value` does not hold numbers.
    ValueError
        If the shape differs or an entry is NaN or infinite.
    """
    array = _to_numpy(name, value).astype(np.float64, copy=False)
    _check_shape(name, array, shape)
    # One reduction instead of isfinite().all(): a NaN or inf always reaches the sum (so may an overflow: look then).
    if not math.isfinite(array.sum()) and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"{name} must be finite, but entry {where} is {array[tuple(where)]}; remove or mask it before the call"
        )
    return array


def moderate(name: str, array: FloatArray | float) -> None:
    """Refuse what would overflow later, in the middle of a draw or of an update.

    Raises
    ------
    ValueError
        If an entry is above 1e100 in size.
    """
    largest = float(np.abs(array).max(initial=0.0))
    if largest > LARGEST:
        raise ValueError(f"{name} is too large to square without overflow ({largest:.3g}); rescale it to about 1")


def ints(name: str, value: Array, shape: tuple[int | None, ...]) -> IntArray:
    """Return `value` as an int64 array of the given shape.

    Raises
    ------
    TypeError
        If an entry is not a whole number.
    ValueError
        If the shape differs.
    """
    array = _to_numpy(name, value)
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and not np.array_equal(array, np.floor(array))):
        raise TypeError(f"{name} must hold whole numbers, got dtype {array.dtype}; round them first")
    array = array.astype(np.int64, copy=False)
    _check_shape(name, array, shape)
    return array


def number(name: str, value: Any, *, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float inside [low, high].

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN, infinite or out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {result}")
    if (low is not None and result < low) or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {bounds}, got {result:g}")
    return result


def count(name: str, value: Any, *, low: int = 1) -> int:
    """Return `value` as an int of at least `low`.

    Raises
    ------
    TypeError
        If `value` is not a whole number.
    ValueError
        If it is below `low`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    result = int(value)
    if result < low:
        raise ValueError(f"{name} must be at least {low}, got {result}")
    return result
