"""The memory that tensors take, as the bytes of live tensors.

The resident memory of a process differs from run to run, because it depends on earlier calls and on when the
allocator returns memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages; each storage is counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def rise(call: Callable[[], object], device: str) -> int:
    """Return the maximum growth of live tensors during a call, in bytes.

    The call must not free tensors that existed before it, because this would not be noticed.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    level = highest = 0
    for _, change in sorted(changes, key=lambda timed: timed[0]):
        level += change
        highest = max(highest, level)
    return highest
