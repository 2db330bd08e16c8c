"""Tokens per second of an actor server, prompt stream to rollout stream, against vLLM's offline `LLM`.

`python -m bench.actor [MODEL] [--prompts N] [--samples N] [--tokens N] [--rounds N]`: a round is 32 image prompts x 8
samples of 48 tokens with log-probabilities, the same work both ways, one after the other on the same cores. MODEL is a
folder; default: a tiny model made on the spot. Values are medians of 5 rounds; a first round of each warms up and does
not count.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vision_sr1.config import Config
from vision_sr1.pipeline.prompt_message import sampling_seed

OFFLINE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Sizes:
    """What both engines generate: `rounds` count, the one before them does not."""

    prompts: int
    samples: int
    tokens: int
    rounds: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.actor", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="folder; default: a tiny model")
    parser.add_argument("--prompts", type=int, default=32, help="of a round; default: %(default)s")
    parser.add_argument("--samples", type=int, default=8, help="of a prompt; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=48, help="of a sample, at most; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    arguments = parser.parse_args()
    sizes = Sizes(arguments.prompts, arguments.samples, arguments.tokens, arguments.rounds)
    with tempfile.TemporaryDirectory() as name:
        from vision_sr1.cli.tasks.distributions import TASKS, corpus, write_task
        from vision_sr1.cli.tasks.tiny_model import make_tiny_model

        folder = Path(name)
        model = arguments.model or folder / "model"
        if arguments.model is None:
            make_tiny_model(model, corpus(TASKS["shapes"]))
        rows = sizes.prompts * (sizes.rounds + 1)
        write_task(TASKS["shapes"], folder, seed=0, base=1, cold_start=1, train=rows, held_out=1)
        served = through_actor(model, folder, sizes)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            baseline = process.submit(offline, model, folder, sizes).result(OFFLINE_TIMEOUT_S)
    print(f"{'round':>8} {'actor server':>14} {'offline LLM':>14}  tokens/s")
    for index, (a, b) in enumerate(zip(served, baseline, strict=True)):
        print(f"{index or 'warm-up':>8} {a:14.0f} {b:14.0f}")
    value, reference = median(served[1:]), median(baseline[1:])
    result = {
        "name": "actor_tokens_per_second",
        "value": round(value),
        "unit": "tokens/s",
        "baseline": round(reference),
        "ratio": round(value / reference, 3),
    }
    print(json.dumps(result))


def through_actor(model: Path, folder: Path, sizes: Sizes) -> list[float]:
    """Tokens per second of each round through a running actor server."""
    from bench.fleet import running_actors
    from learner.distributed.deepspeed_engine import build_engine
    from learner.distributed.ranks import init_process_group
    from learner.model.policy import load_policy
    from learner.publishing.fleet_transfer import FleetTransfer

    overrides = [f"model.path={model}", "data.prompt_template=plain_answer", *tiny()]
    with running_actors(folder, 1, overrides) as actors:
        init_process_group()
        policy = load_policy(actors.config, str(model), forbidden_token_ids=[])
        engine = build_engine(actors.config, policy, learning_rate=1e-6, weight_decay=0.0)
        FleetTransfer(actors.config, engine).send(0, actors.infos)
        return asyncio.run(rounds(actors.config, folder, sizes))


async def rounds(config: Config, folder: Path, sizes: Sizes) -> list[float]:
    """Tokens per second from prompt stream to rollout stream, of each round."""
    from vision_sr1.data import Questions
    from vision_sr1.streams import Blobs, Keys, Output, Stream, connect
    from vision_sr1.v1 import pipeline_pb2 as pb

    redis = await connect(config.streams)
    keys = Keys(config.streams_name)
    prompts = Stream(redis, keys, "prompts", config.streams)
    rollouts = Stream(redis, keys, "rollouts", config.streams, group="bench", consumer="bench")
    await rollouts.open()
    blobs = Blobs(redis, keys, 600)
    rows = Questions(str(folder / "train.parquet"), config.data)
    rates = []
    for round_ in range(sizes.rounds + 1):
        outputs = []
        for index in range(round_ * sizes.prompts, (round_ + 1) * sizes.prompts):
            row = rows[index]
            prompt = pb.Prompt(
                schema_version=1,
                id=f"0/{index}",
                run=config.run.name,
                question=row.question,
                images=[await blobs.put(image) for image in row.images],
                group_size=sizes.samples,
                sampling=pb.SamplingParams(
                    temperature=1.0,
                    top_p=1.0,
                    max_tokens=sizes.tokens,
                    seed=prompt_seed(index),
                ),
            )
            outputs.append(Output("prompts", prompt.id, prompt.SerializeToString()))
        started, tokens, seen = time.perf_counter(), 0, 0
        await prompts.append(outputs)
        while seen < sizes.prompts * sizes.samples:
            entries = await rollouts.read(sizes.prompts * sizes.samples, 1.0)
            seen += len(entries)
            tokens += sum(len(pb.Rollout.FromString(e.message).sample.response_token_ids) for e in entries)
            await rollouts.acknowledge(entries)
        rates.append(tokens / (time.perf_counter() - started))
    await redis.aclose()
    return rates


def offline(model: Path, folder: Path, sizes: Sizes) -> list[float]:
    """Tokens per second of each round in vLLM's offline engine, with the actor's engine settings."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    from PIL import Image
    from vllm import LLM, SamplingParams

    from actors.policy_engine import FORBIDDEN_BIAS
    from actors.vllm.engine_arguments import engine_arguments, resolve_device
    from vision_sr1.config import load_config
    from vision_sr1.data import Questions
    from vision_sr1.families import family_of_model
    from vision_sr1.prompting.prompt_template import PromptTemplate

    config = load_config(None, [f"model.path={model}", *tiny()], environment={}).config
    engine = LLM(**engine_arguments(config, resolve_device(config.actors.device)))
    tokenizer = engine.get_tokenizer()
    rows = Questions(str(folder / "train.parquet"), config.data)
    template, chat = PromptTemplate("plain_answer"), config.model.chat(tokenizer)
    forbidden = dict.fromkeys(family_of_model(str(model)).reserved_token_ids(tokenizer), FORBIDDEN_BIAS)
    rates = []
    for round_ in range(sizes.rounds + 1):
        started = time.perf_counter()
        prompts, sampling = [], []
        for index in range(round_ * sizes.prompts, (round_ + 1) * sizes.prompts):
            sampling.append(
                SamplingParams(
                    n=sizes.samples,
                    temperature=1.0,
                    top_p=1.0,
                    max_tokens=sizes.tokens,
                    logprobs=0,
                    flat_logprobs=True,
                    detokenize=False,
                    logit_bias=forbidden,
                    seed=prompt_seed(index),
                )
            )
            row = rows[index]
            images = [Image.open(io.BytesIO(image)).convert("RGB") for image in row.images]
            text = chat.user_turn(template.answer(row.question, len(images)), len(images))
            prompts.append({"prompt": text, "multi_modal_data": {"image": images}})
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        tokens = sum(len(answer.token_ids) for output in outputs for answer in output.outputs)
        rates.append(tokens / (time.perf_counter() - started))
    engine.llm_engine.engine_core.shutdown()  # otherwise the interpreter waits for the engine's process at its end
    return rates


def prompt_seed(index: int) -> int:
    """As in training: each sample has a random stream of its own."""
    return sampling_seed(0, f"0/{index}")


def tiny() -> list[str]:
    """Overrides for the tiny model."""
    return ["model.dtype=float32", "model.max_model_len=256", "model.min_pixels=3136", "model.max_pixels=3136"]


if __name__ == "__main__":
    main()
