"""Every request that the OpenAPI document allows, and many that it does not, is answered as it says."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from reward_service.api import create_app
from reward_service.traces import TraceStore
from tests.reward_service.test_api import scored, up, written

EXAMPLES = 60


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    folder: Path = tmp_path_factory.mktemp("traces")

    async def filled() -> TraceStore:
        store = TraceStore(f"sqlite:///{folder}/traces.sqlite", None, buffer=100)
        for index in range(10):
            store.record(scored(index, version=index))
        writing = asyncio.create_task(store.write_forever())
        await written(store, 10)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        return store

    store = asyncio.run(filled())
    yield create_app(store, up)
    store.close()


def test_no_query_crashes_the_api(app: FastAPI):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/traces", "/v1/traces/{trace_id}", "/v1/images/{sha}"}
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answered(case: schemathesis.Case) -> None:
            response = case.call()
            case.validate_response(response, excluded_checks=[positive_data_acceptance])  # a cursor is opaque
            assert response.status_code < 500

        answered()
