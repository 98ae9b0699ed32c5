"""Measuring one sub-model in a separate process, so that memory and threads of this process do not count.

Run as `python -P -m sfsc.deploy.measuring MODEL WIDTH THREADS SECONDS ALLOW_CODE`, with an empty ALLOW_CODE
to allow none. It prints the result of `measure` as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from sfsc.embedding.model import ONNX, Model
from sfsc.errors import SfscError, one_line

BATCH = 32
WARM_UP, FEWEST = 5, 5  # calls


@dataclass(frozen=True)
class Measurement:
    """Memory, latency and throughput of one sub-model.

    Attributes:
        memory: the growth of the peak resident set in bytes while loading the model and embedding one image.
        p50: the median time for one image in seconds.
        p95: the 95th percentile of the time for one image in seconds.
        throughput: images per second in batches of `BATCH`.
    """

    memory: int
    p50: float
    p95: float
    throughput: float


def measure(
    model: Path, width: float, threads: int, seconds: float, allow_code: str | None = None
) -> Measurement:
    """Measure a sub-model in a new process.

    Args:
        model: an exported file, or a run folder whose family runs with torch.
        width: the width of the sub-model.
        threads: the number of threads that compute.
        seconds: the time to measure single images, and again to measure batches; at least `FEWEST` calls
            each.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: the process failed.
    """
    # -P: modules in the working folder are not imported.
    command = [sys.executable, "-P", "-m", __name__, str(model), repr(width), str(threads), repr(seconds)]
    done = subprocess.run([*command, allow_code or ""], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        raise SfscError(f"{model} cannot be measured at width {width:g}: {one_line(said, 200)}")
    return Measurement(**json.loads(done.stdout))


def _measure(path: Path, width: float, threads: int, seconds: float, allow_code: str | None) -> Measurement:
    # Imports do not count as memory of the model.
    import_module("onnxruntime" if path.suffix == ONNX else "sfsc.family.family")
    before = _peak()
    model = _load(path, threads, allow_code)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *model.image_size_of(width), 3), np.uint8)
    single = times_of(model, pixels[:1], width, seconds)
    memory = _peak() - before
    together = times_of(model, pixels, width, seconds)
    p50, p95 = np.quantile(single, (0.5, 0.95)).tolist()
    return Measurement(memory, p50, p95, BATCH / float(np.median(together)))


def _load(path: Path, threads: int, allow_code: str | None) -> Model:
    if path.suffix == ONNX:
        from sfsc.embedding.exported import ExportedModel

        return ExportedModel.load(path, threads)
    import torch

    from sfsc.family.family import Family

    torch.set_num_threads(threads)
    return Family.load(path, allow_code)


def times_of(model: Model, pixels: np.ndarray, width: float, seconds: float) -> list[float]:
    """Return the seconds of each call, after some warm-up calls."""
    for _ in range(WARM_UP):
        model.embed_pixels(pixels, width)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        start = time.perf_counter()
        model.embed_pixels(pixels, width)
        times.append(time.perf_counter() - start)
    return times


def _peak() -> int:
    """Return the peak resident set of this process in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    # On Linux, getrusage includes the peak of the process that started this one.
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])


def _main(path: str, width: str, threads: str, seconds: str, allow_code: str) -> None:
    try:
        found = _measure(Path(path), float(width), int(threads), float(seconds), allow_code or None)
    except SfscError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
