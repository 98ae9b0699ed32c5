"""The ranks of a training job: the processes that torchrun starts, or a single process.

A single process runs the same code as several ranks but sends no messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sfsc.errors import SaidElsewhere, SfscError, first_line

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # of a message: how long ranks wait for a rank that is busy


class RankLost(SfscError):
    """A message between ranks failed because a rank ended or does not answer."""


@contextmanager
def messages() -> Iterator[None]:
    """Raise RankLost if a message inside the context fails."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost("a rank ended or stopped answering: continue with --resume") from error


@dataclass(frozen=True)
class World:
    """The number of this rank, counted from 0, and the number of ranks in the job.

    All ranks must call the methods that send messages, and in the same order. These methods raise RankLost if
    a rank is gone.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which reads, writes and prints for all ranks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's slice of `count` items. The slices of all ranks, in order, cover all items."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def on_first(self, function: Callable[[], T]) -> T:
        """Run a function on rank 0 only; return its result, or raise its SfscError, on all ranks."""
        if self.size == 1:
            return function()
        result, error = _attempt(function) if self.first else (None, None)
        message = [(result, error)]
        with messages():
            dist.broadcast_object_list(message, src=0)
        return self._agree(result if self.first else message[0][0], message[0][1])

    def on_all(self, function: Callable[[], T]) -> T:
        """Run a function on every rank; return its own result, or raise the first SfscError on all ranks."""
        if self.size == 1:
            return function()
        result, error = _attempt(function)
        errors = self.gather([error])
        return self._agree(result, next((e for e in errors if e is not None), None))

    def gather(self, part: Sequence[T]) -> list[T]:
        """Return the parts of all ranks, concatenated in the order of the ranks, on every rank."""
        if self.size == 1:
            return list(part)
        parts: list[Any] = [None] * self.size
        with messages():
            dist.all_gather_object(parts, list(part))
        return [item for items in parts for item in items]

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a CPU tensor over the ranks."""
        if self.size == 1:
            return tensor
        total = tensor / self.size
        with messages():
            dist.all_reduce(total)
        return total

    def average(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None]]:
        """Start to average tensors over the ranks, in one message that is sent in the background.

        Args:
            tensors: tensors of any shapes and one dtype, on the training device.

        Returns:
            Tensors of the same shapes, and a function that waits for the message. After the function has been
            called, the tensors contain the means, which are bitwise equal on all ranks.
        """
        if self.size == 1:
            return list(tensors), _nothing
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).div_(self.size)
        with messages():
            work = dist.all_reduce(flat, async_op=True)
        parts = flat.split([tensor.numel() for tensor in tensors])
        means = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        return means, partial(_wait, work)

    def device(self, name: str) -> torch.device:
        """Return the device of this rank; with "cuda", each rank of a machine has a device of its own.

        Raises:
            SfscError: the device cannot be used, or several ranks would share one accelerator.
        """
        try:
            device = torch.device(name)
        except RuntimeError:  # torch's message lists every kind of device that it knows
            raise SfscError(f"there is no device {name!r}: this machine has {_devices()}") from None
        several = device.type == "cuda" and self.size > 1
        if several and device.index is not None:
            raise SfscError(
                f"device {name!r} names a single device for {self.size} ranks: set device to cuda"
            )
        if several:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        try:
            torch.ones(1, device=device).item()
            if several:
                torch.cuda.set_device(device)
        except NotImplementedError:  # raised if this build of torch has no operators for the device
            raise SfscError(f"device {name!r} does not exist: this machine has {_devices()}") from None
        except (RuntimeError, AssertionError, ImportError) as error:
            raise SfscError(
                f"device {name!r} cannot be used ({first_line(error)}): this machine has {_devices()}"
            ) from None
        return device

    def speaks(self) -> bool:
        """Return whether this is the rank that prints and saves after ranks were lost."""
        if self.size == 1:
            return True
        try:
            store = dist.distributed_c10d._get_default_store()
            speaker = store.compare_set("sfsc/speaker", "", str(self.rank))
        except RuntimeError:  # the store is gone too: printing twice is better than not at all
            return True
        return speaker == str(self.rank).encode()

    def _agree(self, result: Any, error: SfscError | None) -> Any:
        if error is None:
            return result
        raise error if self.first else SaidElsewhere(str(error))


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """Yield the world of this process: the ranks that torchrun started, or a single rank.

    Inside another `joined`, or if the caller has initialised torch.distributed, the existing ranks are used.

    Raises:
        SfscError: the ranks cannot connect to each other.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
    elif dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        _join()
        yield World(dist.get_rank(), dist.get_world_size())
        # Not reached after an error, because it would wait for ranks that are gone.
        dist.destroy_process_group()
    else:
        yield ALONE


def _join() -> None:
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    accelerated = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if accelerated else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        # If torchrun restarts the ranks, they must not find the keys of their predecessors.
        fresh = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SfscError(f"the ranks cannot connect to each other: {first_line(error)}") from None


def _devices() -> str:
    """Return the names of the devices that torch finds."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])])


def _attempt(function: Callable[[], T]) -> tuple[T | None, SfscError | None]:
    try:
        return function(), None
    except SfscError as error:
        return None, error


def _wait(work: dist.Work) -> None:
    with messages():
        work.wait()


def _nothing() -> None:
    pass
