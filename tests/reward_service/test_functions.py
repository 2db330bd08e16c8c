"""Rewards of the user's own: found, called, and missing where they cannot be given."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from reward_service.rewards.user_functions import RewardFunctions
from reward_service.store.tables import NO_REWARDS
from tests.reward_service.test_rewards import answered
from vision_sr1.config import Config, ConfigError, RewardFunctionConfig, load_config
from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.answer_record import answer_record, unanswered
from vision_sr1.rewards import MissingReward, Reward
from vision_sr1.rewards.names import BESIDE_REWARDS
from vision_sr1.streams import Blobs, Keys, connect
from vision_sr1.v1 import pipeline_pb2 as pb

pytestmark = pytest.mark.slow

ANSWER = answered(b"\\boxed{red}")
HERE = "tests.reward_service.user_rewards"
NOWHERE = Blobs(Redis(), Keys("r"), 60)  # for functions that ask for no images

Opened = Callable[..., Awaitable[RewardFunctions]]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    made = []

    async def make(*names: str, blobs: Blobs = NOWHERE, **options: object) -> RewardFunctions:
        configs = {name: RewardFunctionConfig(function=f"{HERE}:{name}", timeout_s=20, **options) for name in names}
        made.append(RewardFunctions(configs, processes=1, images=blobs))
        return made[-1]

    yield make
    for functions in made:
        await functions.close()


async def test_functions_are_plain_or_async_and_per_rollout_or_per_group(opened: Opened):
    functions = await opened("brevity", "waits")
    assert await functions.of_rollout(ANSWER, []) == {"brevity": Reward(0.9, "10 of 100 tokens"), "waits": Reward(0.25)}
    assert await functions.of_group([ANSWER], []) == {}
    functions = await opened("agreement", per="group")
    group = [answered(rf"\boxed{{{answer}}}".encode()) for answer in ("red", "blue", "red")]
    assert await functions.of_rollout(ANSWER, []) == {}
    given = (await functions.of_group(group, []))["agreement"]
    assert [reward.value for reward in given if isinstance(reward, Reward)] == [0.5, 0.0, 0.5]
    assert given[1] == Reward(0.0, "blue is said by others")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "raises failed 2 times; the last time: LookupError('nothing known of 0/0/0')"),
        ("dies", "dies failed 2 times; the last time: its process ended with status 3"),
        ("too_large", "too_large returned 7.0, not a number from 0 to 1"),
        ("not_finite", "not_finite returned nan, not a number from 0 to 1"),
        ("says_nothing", "says_nothing gave none"),
    ],
)
async def test_what_a_function_cannot_give_is_missing(opened: Opened, name: str, reason: str):
    functions = await opened(name, "brevity")
    given = await functions.of_rollout(ANSWER, [])
    assert given[name] == MissingReward(f"{HERE}:{reason}")
    assert given["brevity"] == Reward(0.9, "10 of 100 tokens"), "the others are given all the same"


@pytest.mark.parametrize("name", ["hangs", "hangs_waiting"])
async def test_a_function_that_does_not_end_is_missing_after_its_time(name: str):
    config = RewardFunctionConfig(function=f"{HERE}:{name}", timeout_s=0.2, attempts=2)
    functions = RewardFunctions({name: config}, processes=1, images=NOWHERE)
    started = time.monotonic()
    given = await functions.of_rollout(ANSWER, [])
    assert given[name] == MissingReward(f"{HERE}:{name} failed 2 times; the last time: took longer than 0.2 s")
    assert time.monotonic() - started < 60
    await functions.close()


async def test_a_function_sees_the_images_where_it_asks_for_them(opened: Opened, redis_config: Config):
    redis = await connect(redis_config.streams)
    blobs = Blobs(redis, Keys("r"), 60)
    image = await blobs.put(b"\x89PNG and more")
    blind = await opened("looks", blobs=blobs)
    seeing = await opened("looks", blobs=blobs, images=True)
    of_groups = await opened("looks_at_group", blobs=blobs, images=True, per="group")
    assert await blind.of_rollout(ANSWER, [image]) == {"looks": Reward(0.0, "[]")}
    assert await seeing.of_rollout(ANSWER, [image]) == {"looks": Reward(1.0, "[b'\\x89PNG']")}
    assert (await of_groups.of_group([ANSWER, ANSWER], [image]))["looks_at_group"] == [Reward(1.0), Reward(1.0)]
    gone = pb.ImageRef(sha256="0" * 64)
    missing = (await seeing.of_rollout(ANSWER, [gone]))["looks"]
    assert isinstance(missing, MissingReward)
    assert "is not in the blob store" in missing.reason
    await redis.aclose()


async def test_a_function_that_fails_once_is_tried_again(opened: Opened, tmp_path: Path):
    functions = await opened("fails_once")
    given = await functions.of_rollout(answered(b"", question=str(tmp_path / "mark")), [])
    assert given == {"fails_once": Reward(1.0)}


async def test_a_group_function_that_does_not_answer_for_all_is_missing_for_all(opened: Opened):
    functions = await opened("of_one_only", per="group")
    given = await functions.of_group([ANSWER, ANSWER], [])
    assert given["of_one_only"] == [MissingReward(f"{HERE}:of_one_only returned 1 rewards for a group of 2")] * 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (None, "no installed package has an entry point of this name in the group vision_sr1.rewards"),
        ("no_such_module:f", "no_such_module:f cannot be loaded: ModuleNotFoundError"),
        (f"{HERE}:no_such", "cannot be loaded: AttributeError"),
        ("math:pi", "math:pi is not a function"),
        ("fails:f", r"fails:f cannot be loaded: RuntimeError\('no license'\)"),
    ],
)
def test_a_function_that_cannot_be_found_is_a_mistake_that_is_told_at_once(
    function: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "fails.py").write_text("raise RuntimeError('no license')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=rf"reward\.functions\.mine.*{message}"):
        RewardFunctions({"mine": RewardFunctionConfig(function=function)}, processes=1, images=NOWHERE)


async def test_an_installed_package_can_bring_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As pip leaves it: a module and its metadata on the path."""
    metadata = tmp_path / "brief-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: brief\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[vision_sr1.rewards]\nbrief = brief_rewards:brief\n")
    (tmp_path / "brief_rewards.py").write_text("def brief(answered):\n    return 0.125\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    functions = RewardFunctions({"brief": RewardFunctionConfig()}, processes=1, images=NOWHERE)
    assert await functions.of_rollout(ANSWER, []) == {"brief": Reward(0.125)}
    await functions.close()


def test_a_component_may_use_a_function_by_its_name():
    config = load_config(
        None,
        [
            f"reward.functions={{brevity: {{function: '{HERE}:brevity', range: [0, 1]}}}}",
            "learner.components=[{name: all, reward: {accuracy: 1.0, brevity: 0.1}, tokens: [response]}]",
        ],
        environment={},
    ).config
    assert config.reward.names[-1] == "brevity"


def test_names_of_what_is_stored_beside_rewards_are_taken():
    row = QuestionRow("?", "1", [], "source", "a red circle")
    fields = {*answer_record("held_out@1/0", row, pb.ScoredRollout()), *unanswered(0, row)}
    assert fields - {"accuracy", "format", "visual"} <= BESIDE_REWARDS
    assert set(NO_REWARDS) <= BESIDE_REWARDS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.functions={visual: {}}", "a built-in reward has this name"),
        ("reward.functions={visual_own: {}}", "a built-in reward has this name"),
        ("reward.functions={outcome: {}}", "something that is stored beside rewards has this name; choose another"),
        ("reward.functions={'a,b': {}}", "^reward.functions.a,b: a name of letters, digits and _ is needed"),
        ("reward.functions={mine: {function: 'no colon'}}", "functions.mine.function"),
        ("reward.functions={mine: {range: [1, 1]}}", "the first number must be less than the second"),
        ("reward.functions={mine: {timeout: 3}}", "unknown key reward.functions.mine.timeout: did you mean"),
        ("reward.graders={shapes: mathrule}", "graders.shapes"),
    ],
)
def test_a_mistake_in_a_functions_configuration_is_named(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override], environment={})
