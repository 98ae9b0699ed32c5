"""Fetching packages of the npm registry with npm, and checking their digests."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from sfsc.errors import SfscError, one_line


def fetch(package: str, integrity: str, archive: Path) -> None:
    """Fetch a package with npm and write it to `archive`, unless it already exists there.

    The package is written to an empty folder next to `archive`, and moved after its digest was checked.

    Args:
        package: the package as "@scope/name@version".
        integrity: "sha512-" and the base64 digest of the .tgz file, as `npm view PACKAGE dist.integrity`
            prints it.
        archive: the path of the .tgz file, with the name that npm gives to it.

    Raises:
        SfscError: npm is missing or fails, or the package has another digest.
    """
    if archive.is_file() and integrity_of(archive) == integrity:
        return
    landing = archive.with_suffix(".download")
    shutil.rmtree(landing, ignore_errors=True)
    landing.mkdir()
    pack(package, landing)
    found = integrity_of(landing / archive.name)
    if found != integrity:
        shutil.rmtree(landing)
        raise SfscError(
            f"npm fetched a different file than {package} ({found}, expected {integrity}): "
            "see which registry it asks with `npm config get registry`"
        )
    (landing / archive.name).replace(archive)
    landing.rmdir()


def pack(package: str, folder: Path) -> None:
    """Fetch a package as a .tgz file into a folder; raise `SfscError` if this fails.

    npm runs no scripts. It reads the settings of the user and the machine, but not those in the working
    folder.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SfscError("npm is not installed: install Node.js (it includes npm) and run the command again")
    with tempfile.TemporaryDirectory() as empty:
        command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error", f"--prefix={empty}"]
        command += [f"--pack-destination={folder.absolute()}"]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise SfscError(
            f"npm could not fetch {package} ({one_line(said, 200)}): check the network and run the command "
            "again, finished downloads are kept"
        )


def integrity_of(archive: Path) -> str:
    """Return the digest of a file in the form that npm uses."""
    return f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
