"""The engine by itself: what its process is sent, and what comes back."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from actors import metrics
from actors.policy_engine import PolicyEngine
from tests.conftest import TINY
from vision_sr1.config import load_config
from vision_sr1.v1 import pipeline_pb2 as pb

GROUP = 4


def image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def retries() -> float:
    samples = [one for family in metrics.SAMPLE_RETRIES.collect() for one in family.samples]
    return sum(one.value for one in samples if one.name.endswith("_total"))


@pytest.fixture
async def engine(cold_start_model: Path) -> AsyncIterator[PolicyEngine]:
    options = [f"model.path={cold_start_model}", "actors.engine_args.max_num_batched_tokens=512", *TINY]
    config = load_config(None, options, environment={}).config
    with patch.dict(os.environ):  # which vLLM's settings are put into
        engine = PolicyEngine(config, "cpu")
        yield engine
        engine.shutdown()
        engine._engine.engine_core.resources.ctx.destroy(linger=0)  # which vLLM leaves to the end of the process


async def test_an_images_features_go_to_vllm_once_for_a_group_and_again_where_they_are_lost(
    engine: PolicyEngine, monkeypatch: pytest.MonkeyPatch
):
    core = engine._engine.engine_core
    assert engine._engine.vllm_config.scheduler_config.max_num_batched_tokens == 512
    with_features: list[bool] = []
    add = type(core).add_request_async

    async def noted(self: Any, request: Any) -> None:
        with_features.append(any(feature.data is not None for feature in request.mm_features or []))
        await add(self, request)

    monkeypatch.setattr(type(core), "add_request_async", noted)
    greedy = pb.SamplingParams(temperature=0.0, top_p=1.0, max_tokens=8)

    async def sampled(name: str, seed: int) -> set[tuple[tuple[int, ...], tuple[float, ...]]]:
        with_features.clear()
        samples = engine.sample(name, "<image>what color is the square", [image(seed)], greedy, GROUP, 0)
        found = {index: sample async for index, sample in samples}
        assert sorted(found) == list(range(GROUP))
        return {
            (tuple(one.response_token_ids), tuple(round(logprob, 3) for logprob in one.logprobs))
            for one in found.values()
        }

    (answer,) = await sampled("new", seed=0)
    assert with_features == [True, *[False] * (GROUP - 1)]
    assert await sampled("another", seed=1) != {answer}
    assert with_features == [True, *[False] * (GROUP - 1)]
    assert await sampled("known", seed=0) == {answer}
    assert not any(with_features)
    assert retries() == 0

    await core.reset_mm_cache_async()  # of vLLM's process, as in the middle of an update
    assert await sampled("lost", seed=0) == {answer}
    assert with_features[:GROUP] == [False] * GROUP
    assert any(with_features[GROUP:])
    assert retries() == len(with_features) - GROUP == GROUP
    await asyncio.wait_for(engine.responds(), 20)
