"""Where a gallery on Milvus is, and what opens it: an address, and secrets from the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from base64 import b64encode
from dataclasses import dataclass, field

from sfsc.errors import SfscError

TOKEN, CERTIFICATES = "SFSC_MILVUS_TOKEN", "SFSC_MILVUS_CA"
FORMS = "milvus://HOST:PORT/NAME, milvus+https://HOST:PORT/NAME, or milvus:///FILE.db/NAME"
SCHEME = re.compile(r"milvus(\+\w+)?://")
HOST = re.compile(r"milvus(\+https)?://([\w.:\[\]-]+)/(\w+)")
FILE = re.compile(r"milvus://(/.+\.db)/(\w+)")


def is_milvus(path: str) -> bool:
    """Whether a gallery's path is an address of Milvus, and not a folder."""
    return SCHEME.match(path) is not None


@dataclass(frozen=True)
class Address:
    """What the client is told: the address of Milvus or a file, a collection, and how to get in.

    `certificates` is a file of the authorities that the server's certificate is checked with; empty for
    those that gRPC trusts. `token` is empty where none is needed.
    """

    uri: str
    collection: str
    token: str = field(default="", repr=False)
    certificates: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an address, and the token and the certificates that the environment names for a server.

        Raises:
            SfscError: it is no address of a gallery, or holds credentials; the token would be sent to
                another machine without encryption; or the certificates cannot be read.
        """
        if file := FILE.fullmatch(url):
            return cls(*file.groups())
        if "@" in url or "?" in url:
            raise SfscError(
                f"a gallery's address must not contain credentials: set {TOKEN} in the environment"
            )
        if (match := HOST.fullmatch(url)) is None:
            raise SfscError(f"{url} is not the address of a gallery: {FORMS}")
        encrypted, host, collection = match.groups()
        token = os.environ.get(TOKEN, "")
        if not encrypted:
            if token and not _is_here(host):
                raise SfscError(f"{url} would be sent {TOKEN} without encryption: use milvus+https://")
            return cls(f"http://{host}", collection, token)
        certificates = os.environ.get(CERTIFICATES, "")
        if certificates and not os.access(certificates, os.R_OK):
            raise SfscError(f"{CERTIFICATES} names {certificates}, which cannot be read")
        return cls(f"https://{host}", collection, token, certificates)

    def connection(self) -> dict[str, str]:
        """What the client takes beside the URI."""
        certificates = {"server_pem_path": self.certificates} if self.certificates else {}
        return {"token": self.token, **certificates} if self.token else certificates

    def without_secrets(self, text: str) -> str:
        """Replace the token in a text with stars, also as gRPC encodes it, and its password."""
        encoded = b64encode(self.token.encode(errors="surrogateescape")).decode()
        secrets = {self.token, encoded, self.token.partition(":")[2]}
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def _is_here(host: str) -> bool:
    """Whether a host, with or without port, is this machine by its loopback address."""
    name = re.sub(r":\d*$", "", host).strip("[]")
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
