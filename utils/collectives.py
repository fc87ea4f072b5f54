"""What the processes of torchrun do together; each function must be called by all of them, and does nothing alone.

All raise a UserError if another process has ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from utils.run import UserError, world_size

Item = TypeVar("Item")


def gather(value: Item) -> list[Item]:
    """Give the value of each process, in the order of their ranks."""
    values = [value] * world_size()
    if dist.is_initialized():
        with _others_may_have_ended():
            dist.all_gather_object(values, value)
    return values


def all_reduce(values: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    """Replace values, of any shape, by their sum over the processes, or by another reduction."""
    if dist.is_initialized():
        with _others_may_have_ended():
            dist.all_reduce(values, operation)


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        with _others_may_have_ended():
            dist.barrier()


@contextlib.contextmanager
def _others_may_have_ended() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"another process has ended, see its output ({reason})") from error
