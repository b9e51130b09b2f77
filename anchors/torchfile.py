"""Torch files of tensors, read without executing what a pickle may hold. Knows nothing of their meaning."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.guidance.errors import BankError
from shelllcc.guidance.faults import ours_of


def load_tensors(path: Path, *, most: int | None = None) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain containers alone. Raises BankError.

    `most` is the largest size in bytes that is opened.
    """
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise BankError(f"{path} is larger than {most >> 20} MiB")
        with warnings.catch_warnings():  # foreign pickles are refused, not remarked on
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BankError(f"cannot read {path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise BankError(f"{path} holds more than tensors, or is torn; nothing in it was executed") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        if (ours := ours_of(error, f"reading {path}", "use a machine with more memory")) is not None:
            raise ours from error
        raise BankError(f"{path} is not a whole torch file") from error


def check_plain(tensor: Any, name: str) -> Tensor:
    """The tensor, if it is dense, real, and no larger than what is stored of it. Raises BankError."""
    if not isinstance(tensor, Tensor):
        raise BankError(f"{name} is a {type(tensor).__name__}, expected a tensor")
    if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.is_quantized or tensor.is_meta:
        raise BankError(f"{name} must be a dense tensor of real numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BankError(f"{name} claims {tuple(tensor.shape)}, more than is stored")
    return tensor
