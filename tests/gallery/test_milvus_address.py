"""Galleries behind TLS and a token, which nothing repeats."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc
from typer.testing import CliRunner

from sfsc.cli import app
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.milvus_address import Address, is_milvus

TOKEN = "root:S3cret-word"
PARTS = (TOKEN, "S3cret-word", b64encode(TOKEN.encode()).decode())
# Made for these tests, of no use elsewhere: a certificate of localhost that it has signed itself.
CERTIFICATE, KEY = (Path(__file__).with_name(f"localhost.{suffix}") for suffix in ("pem", "key"))


class Server(milvus_pb2_grpc.MilvusServiceServicer):
    """A Milvus without collections; it keeps what it was sent as authorization, and may quote it."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()
        self.quotes = False

    def connect(self, request: Any, context: Any) -> Any:
        self.seen.add(dict(context.invocation_metadata()).get("authorization"))
        if self.quotes:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"not valid: {', '.join(PARTS)}")
        return milvus_pb2.ConnectResponse(status=common_pb2.Status(), identifier=1)

    def describe(self, request: Any, context: Any) -> Any:
        status = common_pb2.Status(code=100, error_code=common_pb2.CollectionNotExists, reason="not there")
        return milvus_pb2.DescribeCollectionResponse(status=status)

    Connect, DescribeCollection = connect, describe  # the names of the protocol


@pytest.fixture
def server() -> Iterator[tuple[Server, int]]:
    """One with TLS, and its port."""
    served, servicer = grpc.server(ThreadPoolExecutor(2)), Server()
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(servicer, served)
    pair = (KEY.read_bytes(), CERTIFICATE.read_bytes())
    port = served.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    served.start()
    yield servicer, port
    served.stop(None)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFSC_MILVUS_TOKEN", TOKEN)
    monkeypatch.setenv("SFSC_MILVUS_CA", str(CERTIFICATE))


def refusal(url: str) -> str:
    with pytest.raises(SfscError) as caught:
        Gallery.open(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("secrets")
def test_a_server_with_tls_is_sent_the_token(server: tuple[Server, int]) -> None:
    servicer, port = server
    url = f"milvus+https://localhost:{port}/rows"
    assert f"gallery {url} does not exist" in refusal(url)
    assert servicer.seen == {b64encode(TOKEN.encode()).decode()}


def test_a_server_whose_certificate_is_not_known_is_sent_nothing(
    server: tuple[Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, port = server
    monkeypatch.setenv("SFSC_MILVUS_TOKEN", TOKEN)
    monkeypatch.setattr("sfsc.gallery.milvus.SECONDS", 1.0)
    assert "cannot be opened" in refusal(f"milvus+https://localhost:{port}/rows")
    assert servicer.seen == set()


@pytest.mark.usefixtures("secrets")
def test_what_a_server_quotes_is_not_repeated(
    server: tuple[Server, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    servicer, port = server
    servicer.quotes = True
    monkeypatch.setattr("sfsc.gallery.milvus.SECONDS", 2.0)
    with caplog.at_level(logging.DEBUG), pytest.raises(SfscError) as caught:
        Gallery.open(f"milvus+https://localhost:{port}/rows")
    logging.getLogger("test").error("refused", exc_info=caught.value)
    for text in (str(caught.value), caplog.text):
        assert not [part for part in PARTS if part in text]
    assert servicer.seen


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    ("url", "uri", "sent"),
    [
        ("milvus://localhost:1953/rows", "http://localhost:1953", {"token": TOKEN}),
        ("milvus://127.0.0.1/rows", "http://127.0.0.1", {"token": TOKEN}),
        ("milvus://[::1]:19530/rows", "http://[::1]:19530", {"token": TOKEN}),
        (
            "milvus+https://a.example:443/rows",
            "https://a.example:443",
            {"token": TOKEN, "server_pem_path": str(CERTIFICATE)},
        ),
        ("milvus:///some@where/x.db/rows", "/some@where/x.db", {}),
    ],
)
def test_what_the_client_is_told(
    monkeypatch: pytest.MonkeyPatch, url: str, uri: str, sent: dict[str, str]
) -> None:
    told: list[Any] = []

    def client(uri: str, **options: Any) -> Any:
        told.append((uri, {name: value for name, value in options.items() if name != "timeout"}))
        raise ValueError(f"cannot reach it with {options.get('token')}")

    monkeypatch.setattr("sfsc.gallery.milvus.MilvusClient", client)
    message = refusal(url)
    assert told == [(uri, sent)]
    assert not [part for part in PARTS if part in message]
    assert TOKEN not in repr(Address.parse(url))


def test_without_a_token_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SFSC_MILVUS_TOKEN", "SFSC_MILVUS_CA"):
        monkeypatch.delenv(name, raising=False)
    assert Address.parse("milvus+https://a.example/rows").connection() == {}
    assert Address.parse("milvus://a.example:19530/rows") == Address("http://a.example:19530", "rows")


def test_a_token_that_is_no_text_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFSC_MILVUS_TOKEN", "root:w\udcffrd")
    assert "w\udcffrd" not in refusal("milvus://localhost:1/rows")


@pytest.mark.usefixtures("secrets")
def test_a_token_is_sent_to_other_machines_only_with_encryption() -> None:
    for host in ("a.example:19530", "10.0.0.5", "localhost.example", "127.0.0.1.example:1", "[::2]:1"):
        message = refusal(f"milvus://{host}/rows")
        assert "SFSC_MILVUS_TOKEN without encryption: use milvus+https://" in message
        assert TOKEN not in message


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SFSC_MILVUS_CA", str(tmp_path / "none.pem"))
    message = refusal("milvus+https://a.example/rows")
    assert message == f"SFSC_MILVUS_CA names {tmp_path}/none.pem, which cannot be read"


@settings(max_examples=200, deadline=None)
@given(
    scheme=st.sampled_from(["milvus", "milvus+https", "milvus+http", "milvus+tcp"]),
    password=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12).map(
        "s3cr{}t".format
    ),
    after=st.sampled_from(["@h:1/rows", "@h", "@h:1/a/b", "@/x.db/rows", "@h:1/rows?x"]),
)
def test_credentials_in_an_address_are_refused_and_not_repeated(
    scheme: str, password: str, after: str
) -> None:
    url = f"{scheme}://root:{password}{after}"
    assert is_milvus(url)
    message = refusal(url)
    assert (
        message
        == "a gallery's address must not contain credentials: set SFSC_MILVUS_TOKEN in the environment"
    )


def test_the_command_line_does_not_repeat_them_either() -> None:
    result = CliRunner().invoke(app, ["gallery", "info", "milvus+https://root:word@a.example/rows"])
    said = result.output + str(result.exception)
    assert "must not contain credentials" in said
    assert "word" not in said


@pytest.mark.parametrize(
    "url", ["milvus+http://h/rows", "milvus+https:///x.db/rows", "milvus://h", "milvus://"]
)
def test_other_addresses_are_told_the_forms(url: str) -> None:
    assert f"{url} is not the address of a gallery: milvus://HOST:PORT/NAME, milvus+https://" in refusal(url)
