"""A Ray cluster of two nodes with networks and processes of their own, one of which is lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.images.reading import write_png

HEAD, OTHER, PORT = "10.77.0.1", "10.77.0.2", 6379
IMAGES = 2000
PATIENCE = 300  # seconds, for each step on a busy machine
CURRENT = Path("/tmp/ray/ray_current_cluster")  # a lost head leaves its address to all programs here
RAY = Path(sys.executable).with_name("ray")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not RAY.exists() or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="needs Ray, and root to make network namespaces",
    ),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cluster:
    """Two nodes with two cores each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spaces = [f"sfsc-{name}-{os.getpid()}" for name in ("head", "other")]
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2},
            **{"RAY_ADDRESS": f"{HEAD}:{PORT}", "RAY_USAGE_STATS_ENABLED": "0"},
        }

    def start(self) -> None:
        for space in self.spaces:
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        head, other = self.spaces
        ip("-n", head, "link", "add", "sfsc0", "type", "veth", "peer", "name", "sfsc1", "netns", other)
        for space, link, address in ((head, "sfsc0", HEAD), (other, "sfsc1", OTHER)):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", space, "link", "set", link, "up")
        self.node(head, HEAD, "--head", f"--port={PORT}", "--include-dashboard=false")
        self.node(other, OTHER, f"--address={HEAD}:{PORT}")
        wait_for(lambda: self.start_command("-c", COUNT).communicate(timeout=PATIENCE)[0].split() == ["2"])

    def node(self, space: str, address: str, *options: str) -> None:
        """Start a node that ends, with all of its workers, when its first process is killed."""
        ray = [*(str(RAY), "start", "--block", "--num-cpus=2", f"--node-ip-address={address}"), *options]
        own = ["unshare", "--pid", "--mount-proc", "--kill-child", "--fork"]
        if address == OTHER:
            own += ["sh", "-c", 'mount -t tmpfs tmpfs /tmp/ray && exec "$@"', "sh"]
        log = (self.folder / f"{address}.log").open("wb")
        command = ["ip", "netns", "exec", space, *own, *ray]
        self.nodes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def start_command(self, *command: str) -> subprocess.Popen[str]:
        """Start a Python command in the network of the head."""
        inside = ["ip", "netns", "exec", self.spaces[0], sys.executable, *command]
        pipe = subprocess.PIPE
        return subprocess.Popen(inside, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def embeds(self, node: int) -> bool:
        """Return whether an actor on this node is embedding images; Ray puts that into its command line."""
        network = Path(f"/run/netns/{self.spaces[node]}").stat().st_ino
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                own = (process / "ns" / "net").stat().st_ino == network
                if own and ACTOR.match((process / "cmdline").read_bytes()):
                    return True
        return False

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
            node.wait()
        CURRENT.unlink(missing_ok=True)
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


ACTOR = re.compile(rb"ray::.*\(Actor\).*\.submit")
COUNT = """
import ray
ray.init(log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
"""


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    Path("/tmp/ray").mkdir(exist_ok=True)
    made = Cluster(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images that take long enough to read that a node can be lost in the middle."""
    folder = tmp_path / "images"
    folder.mkdir()
    write_png(folder / "0000.png", np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8))
    for number in range(1, IMAGES):
        os.link(folder / "0000.png", folder / f"{number:04d}.png")
    return folder


def test_a_lost_node_loses_no_row_and_adds_none_twice(cluster: Cluster, images: Path, tmp_path: Path) -> None:
    Family.create("small", "0.5,1.0", 16, (32, 32)).save(tmp_path / "run")
    gallery = tmp_path / "gallery"
    engine = ("--engine", "ray", "--workers", "2")
    command = cluster.start_command(
        *("-m", "sfsc", "index", str(tmp_path / "run"), str(images), "--gallery", str(gallery), *engine)
    )
    wait_for(lambda: command.poll() is not None or cluster.embeds(1))
    assert command.poll() is None, command.communicate()
    cluster.nodes[1].kill()
    _, messages = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, messages
    paths = Gallery.open(gallery).column("path")
    assert sorted(paths) == sorted(str(path) for path in images.iterdir())
    verified = cluster.start_command("-m", "sfsc", "gallery", "verify", str(gallery))
    assert f"{IMAGES} rows, all sound" in verified.communicate(timeout=PATIENCE)[0]
