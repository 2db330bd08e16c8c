"""An actor's engine, with captured graphs on a GPU, against transformers; its figures calibrate `verify_tolerance`."""

import asyncio
from collections.abc import AsyncIterator

from actors.metrics import PROMPT_TOKENS
from bench.gpu.compared import Answer, compare, prompts
from bench.gpu.findings import Bench, Findings
from bench.gpu.models import cut_model, pixels
from learner.publishing.tolerance import Tolerance
from vision_sr1.config import Config, load_config
from vision_sr1.v1 import pipeline_pb2 as pb

ROUNDS = 2  # the second finds its prompts in the prefix cache


def run(bench: Bench, findings: Findings) -> None:
    """Samples answers to several prompts at once, frees the GPU, and judges them."""
    model = bench.model or str(cut_model(bench.folder / "model", bench))
    config = load_config(None, [f"model.path={model}", "model.dtype=bfloat16", *pixels(bench)], environment={}).config
    findings.figure("model", bench.model or ("3B cut to 12 layers, random" if bench.is_cuda else "tiny, random"))
    tolerance = Tolerance(config.model.dtype, config.learner.weights.verify_tolerance)
    findings.figure("a run stops at (learner.weights.verify_tolerance)", tolerance.limit)
    answers = asyncio.run(_answers(config, bench, findings))
    compare(config, model, answers, bench, findings)


async def _answers(config: Config, bench: Bench, findings: Findings) -> list[Answer]:
    from actors.policy_engine import PolicyEngine

    engine = PolicyEngine(config, bench.device)
    findings.figure("graphs are asked for", bench.is_cuda and not config.actors.enforce_eager)
    samples, tokens = (4, 64) if bench.is_cuda else (2, 24)
    sampling = pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=tokens, seed=1)
    answers: list[Answer] = []
    try:
        for round_ in range(ROUNDS):
            calls = [
                (prompt, engine.sample(f"{round_}/{number}", prompt.text, prompt.images, sampling, samples, 0))
                for number, prompt in enumerate(prompts(bench))
            ]
            found = await asyncio.gather(*(_all(call) for _, call in calls))
            answers += [Answer(prompt, s) for (prompt, _), some in zip(calls, found, strict=True) for s in some]
        cached = PROMPT_TOKENS.labels("cached")._value.get()
        findings.figure("prompt tokens from the prefix cache", cached)
        findings.holds("prompts come from the prefix cache in part", cached > 0 or not bench.is_cuda)
    finally:
        engine.shutdown()
    return answers


async def _all(call: AsyncIterator[tuple[int, pb.Sample]]) -> list[pb.Sample]:
    return [sample async for _, sample in call]
