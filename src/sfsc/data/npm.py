"""Packages of the npm registry: fetched by npm itself, and accepted if they are the known ones."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from sfsc.errors import SfscError, one_line


def fetch(package: str, integrity: str, archive: Path) -> None:
    """Have npm write a package to `archive`, unless it is there already.

    It is written into an empty folder beside it and moved when it is whole and known.

    Args:
        package: "@scope/name@version".
        integrity: "sha512-" and the digest of its .tgz in base64, as `npm view PACKAGE dist.integrity` says.
        archive: the .tgz, named as npm names it.

    Raises:
        SfscError: npm is missing or fails, or the registry sends something else.
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
    """Fetch one package as a .tgz into the folder; SfscError if that fails.

    npm runs no script, and reads the settings of the user and the machine, but none in the working folder.
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
    """The digest of a file, as npm writes it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
