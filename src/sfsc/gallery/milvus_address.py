"""The address of a gallery on Milvus, and the credentials for it from the environment."""

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
    """Return whether the path of a gallery is a Milvus address instead of a directory."""
    return SCHEME.match(path) is not None


@dataclass(frozen=True)
class Address:
    """The address of a collection, and the credentials for it.

    Attributes:
        uri: the URI of a Milvus server, or the path of a milvus-lite file.
        collection: the name of the collection.
        token: the token for the server; empty if it needs none.
        certificates: the path of the CA certificates that verify the server; empty for those that gRPC
            trusts.
    """

    uri: str
    collection: str
    token: str = field(default="", repr=False)
    certificates: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse an address, and read the token and the certificates of a server from the environment.

        Raises:
            SfscError: the text is not the address of a gallery or contains credentials, the token would be
                sent to another machine without encryption, or the certificates cannot be read.
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
        """Return the arguments of the client other than the URI."""
        certificates = {"server_pem_path": self.certificates} if self.certificates else {}
        return {"token": self.token, **certificates} if self.token else certificates

    def without_secrets(self, text: str) -> str:
        """Replace the token, its encoding by gRPC and its password with asterisks in a text."""
        encoded = b64encode(self.token.encode(errors="surrogateescape")).decode()
        secrets = {self.token, encoded, self.token.partition(":")[2]}
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def _is_here(host: str) -> bool:
    """Return whether a host, with or without a port, is a loopback address of this machine."""
    name = re.sub(r":\d*$", "", host).strip("[]")
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
