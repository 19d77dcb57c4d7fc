"""The processes of a launch (accelerate, torchrun): the share of the work that each does, and their results together.

Every process ends with the same results, so that all of them take the same decisions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hr_search.base.errors import InputError

if TYPE_CHECKING:  # what metrics are computed with needs no torch
    import torch
    from accelerate import Accelerator
    from torch import Tensor

T = TypeVar("T")
_BLOCK = 2**24  # numbers of an array that travel at a time: 64 MB


def make_accelerator() -> Accelerator:
    """Device and processes as `accelerate launch` or the machine gives them."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    # Encoders carry parameters that pooling does not use, such as BERT's pooler.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # The encoder handles precision itself, in evaluation too.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[unused])


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that share some work; by default there is one.

    Attributes:
        index: the number of this one, from 0.
        count: how many there are.
        device: of this one.
    """

    index: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """Those of an accelerator."""
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device)

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """The parts of some work that this process does; they are dealt out in turn."""
        return parts[self.index :: self.count]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block in which each process does its share, and that fails in all of them if it fails in one.

        Raises:
            InputError: another process has failed, or has ended.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception:
            with contextlib.suppress(InputError):  # what went wrong here is the better message
                self.anywhere(True)
            raise
        if self.anywhere(False):
            raise InputError("another process of this launch has failed; its own message says why.")

    def anywhere(self, here: bool) -> bool:
        """Whether something holds in any of the processes."""
        if self.count == 1:
            return here
        import torch

        return bool(self.summed(torch.tensor([float(here)], device=self.device)).item())

    def joined(self, array: np.ndarray) -> np.ndarray:
        """An array of which each process has filled in its rows and left 0 in all others, with the rows of all.

        Args:
            array: numbers of 32 or 64 bits; it is changed in place.
        """
        if self.count > 1:
            import torch

            numbers = torch.from_numpy(array.reshape(-1).view(np.int32))  # added as bits, which stay what they are
            for start in range(0, len(numbers), _BLOCK):
                block = numbers[start : start + _BLOCK]
                block.copy_(self.summed(block.to(self.device)))
        return array

    def gathered(self, items: list[T]) -> list[T]:
        """The lists of all processes, one after the other."""
        if self.count == 1:
            return items
        from torch import distributed

        lists: list[Any] = [None] * self.count
        with _ended_by_others():
            distributed.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    def completed(self, tensor: Tensor, mine: np.ndarray) -> Tensor:
        """A tensor of which each process has computed its rows, with the rows of all; gradients flow into the own ones.

        Args:
            tensor: (N, ...), right in the rows `mine`.
            mine: the rows of this process, int64.
        """
        if self.count == 1:
            return tensor
        import torch

        rows = torch.from_numpy(mine).to(tensor.device)
        own = tensor[rows]
        every = torch.zeros_like(tensor).index_copy_(0, rows, own.detach())
        return self.summed(every).index_copy(0, rows, own)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            from torch import distributed

            with _ended_by_others():
                distributed.all_reduce(tensor)
        return tensor


ALONE = Processes()


def launched() -> Processes:
    """The processes of the launch that this program is one of; `ALONE` where nobody launched several.

    All but the first say only what is wrong from now on.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    processes = Processes.of(make_accelerator())
    if processes.index:
        logging.getLogger("hr_search").setLevel(logging.ERROR)
    return processes


@contextlib.contextmanager
def _ended_by_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise InputError("another process of this launch has ended too early; its own message says why.") from error
