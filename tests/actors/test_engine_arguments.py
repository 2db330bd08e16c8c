"""What an actor asks of vLLM, and what vLLM makes of it, on CPUs and as on a GPU."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from vision_sr1.config import load_config
from vision_sr1.config.engine_args import ONLINE_QUANTIZATION, REFUSED, known_arguments

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "vision_sr1_3b.yaml"
FURTHER = {
    "kv_cache_dtype": "fp8",
    "quantization": "fp8_per_block",
    "pipeline_parallel_size": 2,
    "max_num_batched_tokens": 4096,
}
SHARED = ["actors.placement=shared", "learner.max_staleness=0"]
ADAPTERS = ["learner.lora.rank=64", "learner.lora.publish=adapter"]
TEXT_3B = {
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11_008,
    "max_position_embeddings": 128_000,
    "layer_types": ["full_attention"] * 36,
}
VISION_3B = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048}


@pytest.mark.slow
def test_names_are_those_of_vllm_and_none_that_the_actor_sets_is_free(tiny_model: Path):
    from vllm.config.quantization import ONLINE_QUANT_SHORTHAND_NAMES
    from vllm.engine.arg_utils import AsyncEngineArgs

    from actors.vllm.engine_arguments import engine_arguments

    assert known_arguments() == {field.name for field in fields(AsyncEngineArgs)}
    assert set(REFUSED) <= known_arguments()
    assert set(ONLINE_QUANTIZATION) == set(ONLINE_QUANT_SHORTHAND_NAMES)
    options = [f"model.path={tiny_model}", "learner.lora.rank=8", "learner.lora.publish=adapter"]
    options += ["actors.placement=shared", "learner.max_staleness=0", "actors.engine_args={block_size: 32}"]
    config = load_config(None, options, environment={}).config
    with patch.dict(os.environ):  # which vLLM's settings are put into
        arguments = engine_arguments(config, "cpu")
    assert set(arguments) - {"block_size"} <= set(REFUSED)
    assert arguments["block_size"] == 32


@pytest.fixture(scope="module")
def on_cuda(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """vLLM's decisions for the example of 3B: as it is, with further arguments, with a wrong one, on devices that are
    shared, and with adapters."""
    model = tmp_path_factory.mktemp("3b") / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "config.json").read_text())
    config["text_config"] |= TEXT_3B
    config["vision_config"] |= VISION_3B
    (model / "config.json").write_text(json.dumps(config))
    further: tuple[list[str], ...] = ([], [_args(FURTHER)], [_args({"kv_cache_dtype": "fp9"})], SHARED, ADAPTERS)
    given = [[f"model.path={model}", *more] for more in further]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "CUDA_"))}
    command = [sys.executable, str(Path(__file__).with_name("on_cuda.py")), str(EXAMPLE), json.dumps(given)]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _args(arguments: dict[str, Any]) -> str:
    return f"actors.engine_args={json.dumps(arguments)}"


@pytest.mark.slow
def test_an_actor_on_a_gpu_is_what_was_intended(on_cuda: list[dict[str, Any]]):
    assert on_cuda[0] == {
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 256,
        "chunked_prefill": True,
        "async_scheduling": True,
        "policy": "priority",
        "runner_v2": True,
        "graphs": "FULL_AND_PIECEWISE",
        "largest_graph": 512,
        "prefix_caching": True,
        "cache_dtype": "auto",
        "quantization": None,
        "logprobs": "processed_logprobs",
        "weight_transfer": "bounded_nccl",
        "worker": "actors.vllm.workers.TrainingWorker",
        "world_size": 1,
        "executor": "uni",
        "sleep_mode": False,
        "adapter_rank": None,
        "attention": "FLASH_ATTN",
        "flash_attention": 3,
        "vision_attention": "FLASH_ATTN",
    }


@pytest.mark.slow
def test_further_arguments_reach_vllm_and_its_refusal_is_ours(on_cuda: list[dict[str, Any]]):
    plain, further, wrong, *_ = on_cuda
    assert _changes(plain, further) == {
        "max_num_batched_tokens": 4096,
        "cache_dtype": "fp8",
        "quantization": "fp8_per_block",
        "world_size": 2,
        "executor": "mp",
    }
    assert "vLLM refuses actors.engine_args ({'kv_cache_dtype': 'fp9'}): Input should be 'auto'" in wrong["refused"]


@pytest.mark.slow
def test_sleep_and_adapters_change_what_they_need_and_nothing_else(on_cuda: list[dict[str, Any]]):
    plain, _, _, shared, adapters = on_cuda
    assert _changes(plain, shared) == {"sleep_mode": True, "weight_transfer": "gloo"}
    assert _changes(plain, adapters) == {"adapter_rank": 64}


def _changes(plain: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in other.items() if value != plain[name]}
