"""Whatever fits the service's own description, and much that does not: no answer may be a failure of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from sfsc.serving import create_app

ERRORS = {"401", "404", "413", "422", "429", "503"}


@pytest.fixture
def schema(run: Path, indexed: Path, tmp_path: Path) -> schemathesis.BaseSchema:
    stored = shutil.copytree(indexed, tmp_path / "gallery")
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(run, stored, hosts=["testserver"]))


def check(schema: schemathesis.BaseSchema, examples: int) -> int:
    """Send so many examples to every operation; returns how many operations there are."""
    operations = [operation.ok() for operation in schema.get_all_operations()]
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def holds(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=[not_a_server_error, response_schema_conformance])

        holds()
    return len(operations)


def test_some_requests_that_fit_the_description(schema: schemathesis.BaseSchema) -> None:
    assert check(schema, 6) == 14


@pytest.mark.slow
def test_many_requests_that_fit_the_description(schema: schemathesis.BaseSchema) -> None:
    assert check(schema, 150) == 14


def test_every_error_is_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for operations in paths.values():
        for operation in operations.values():
            assert set(operation["responses"]) >= ERRORS
            for status in ERRORS:
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/Error")
