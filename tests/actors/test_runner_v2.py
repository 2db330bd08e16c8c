"""What actors change in the model runner that vLLM has on GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
FORBIDDEN = 393  # the likeliest
SEEDS = (0, 1, 2, 3, 4, 4)
REQUESTS: list[dict[str, Any]] = [
    {"temperature": temperature, "top_p": top_p, "seed": seed, "logit_bias": {FORBIDDEN: -100.0}}
    for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.9), (0.7, 0.5), (1.3, 0.99))
    for seed in SEEDS
]


@pytest.mark.slow
def test_its_log_probabilities_are_over_the_vocabulary_and_its_tokens_as_without_that():
    command = [sys.executable, str(Path(__file__).with_name("runner_v2.py")), json.dumps(REQUESTS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    tokens = found["vocabulary"]["tokens"]
    assert tokens == found["nucleus"]["tokens"]
    assert FORBIDDEN not in tokens
    assert len(set(tokens)) > 3

    logits = torch.tensor(found["logits"])
    assert logits.argmax() == FORBIDDEN
    logits[FORBIDDEN] -= 100
    expected = []
    for request, token in zip(REQUESTS, tokens, strict=True):
        logprobs = (logits / (request["temperature"] or 1.0)).log_softmax(-1)
        expected.append(logprobs[token].item())
        likelier = logprobs[logprobs > logprobs[token]].exp().sum().item()
        assert likelier < request["top_p"]
    assert found["vocabulary"]["logprobs"] == pytest.approx(expected, abs=1e-5)
    gained = [more - less for more, less in zip(found["nucleus"]["logprobs"], expected, strict=True)]
    assert max(gained) > 0.1, "without the change they are over the nucleus"
    assert tokens[len(SEEDS) - 2 :: len(SEEDS)] == tokens[len(SEEDS) - 1 :: len(SEEDS)], "of the same seed"
