"""The ranks of a training job: the processes that torchrun starts, or one process alone.

A world of one rank takes the same way through the code as one of many, and passes no messages.
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

TIMEOUT = timedelta(minutes=30)  # of one message: so long at most one rank may be busy while others wait


class RankLost(SfscError):
    """A message between the ranks failed: one of them ended or does not answer."""


@contextmanager
def messages() -> Iterator[None]:
    """A message that fails within is a RankLost."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost("a rank ended or stopped answering: continue with --resume") from error


@dataclass(frozen=True)
class World:
    """The ranks of a job, as one of them sees them: its own number, from 0, and how many there are.

    Every method that passes messages must be called by all ranks, in the same order; it raises RankLost where
    one of them is gone.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which reads, writes and prints for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of `count` things: the parts of all ranks, one after the other, are the whole."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def on_first(self, function: Callable[[], T]) -> T:
        """What the function returns on rank 0, where alone it runs; its SfscError is raised on all ranks."""
        if self.size == 1:
            return function()
        result, error = _attempt(function) if self.first else (None, None)
        message = [(result, error)]
        with messages():
            dist.broadcast_object_list(message, src=0)
        return self._agree(result if self.first else message[0][0], message[0][1])

    def on_all(self, function: Callable[[], T]) -> T:
        """What the function returns here; where a rank has an SfscError, the first is raised on all ranks."""
        if self.size == 1:
            return function()
        result, error = _attempt(function)
        errors = self.gather([error])
        return self._agree(result, next((e for e in errors if e is not None), None))

    def gather(self, part: Sequence[T]) -> list[T]:
        """The parts of all ranks, one after the other, on each of them."""
        if self.size == 1:
            return list(part)
        parts: list[Any] = [None] * self.size
        with messages():
            dist.all_gather_object(parts, list(part))
        return [item for items in parts for item in items]

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks of a CPU tensor."""
        if self.size == 1:
            return tensor
        total = tensor / self.size
        with messages():
            dist.all_reduce(total)
        return total

    def average(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None]]:
        """Begin to average tensors over the ranks: one message for all of them, under way while others work.

        Args:
            tensors: of any shapes and one dtype, on the training device.

        Returns:
            Tensors of the same shapes, which hold the means, the same bits on every rank, once the function
            beside them was called.
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
        """The device of this rank: with "cuda", each rank of a machine has its own.

        Raises:
            SfscError: the device cannot be used, or several ranks would have one accelerator.
        """
        try:
            device = torch.device(name)
        except RuntimeError:  # its message lists all kinds of devices that there are anywhere
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
        except NotImplementedError:  # torch's word for a device that this build has no operators for
            raise SfscError(f"device {name!r} does not exist: this machine has {_devices()}") from None
        except (RuntimeError, AssertionError, ImportError) as error:
            raise SfscError(
                f"device {name!r} cannot be used ({first_line(error)}): this machine has {_devices()}"
            ) from None
        return device

    def speaks(self) -> bool:
        """Whether this is the one rank that prints and saves when ranks are gone, and cannot be asked."""
        if self.size == 1:
            return True
        try:
            store = dist.distributed_c10d._get_default_store()
            speaker = store.compare_set("sfsc/speaker", "", str(self.rank))
        except RuntimeError:  # the store is gone as well: better said twice than not at all
            return True
        return speaker == str(self.rank).encode()

    def _agree(self, result: Any, error: SfscError | None) -> Any:
        if error is None:
            return result
        raise error if self.first else SaidElsewhere(str(error))


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """The world of this process: that of torchrun where it was started by it, else one of its own.

    Within another `joined`, or where the caller has set up torch.distributed, it is the world that is there.

    Raises:
        SfscError: the ranks cannot connect to each other.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
    elif dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        _join()
        yield World(dist.get_rank(), dist.get_world_size())
        # After an error this is not reached: to take leave of ranks that are gone would wait for them.
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
        # When torchrun starts the ranks again, what those before them wrote must not be found.
        fresh = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SfscError(f"the ranks cannot connect to each other: {first_line(error)}") from None


def _devices() -> str:
    """The names of the devices that torch finds."""
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
