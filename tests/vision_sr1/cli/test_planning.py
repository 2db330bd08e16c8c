"""Plans: parameter counts are those of the real models, memory falls as it is divided, what does not fit is said."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig
from typer.testing import CliRunner

from bench.learner_gpu import TEXT_3B, VISION_3B, scaled
from tests.architectures import TEXT_7B, VISION_7B, qwen3_vl
from vision_sr1.cli.main import app
from vision_sr1.cli.planning import publication
from vision_sr1.cli.planning.division import make_plan
from vision_sr1.cli.planning.estimates import (
    GATHERED_PARAMETERS,
    GIB,
    ModelSize,
    actor_memory,
    all_memories,
    chosen_gpu,
    learner_host_gib,
    learner_memory,
    model_size,
    usable_gib,
)
from vision_sr1.config import Config, ConfigError, Placement, load_config
from vision_sr1.runtime.gpus import GPUS

EXAMPLE = Path(__file__).parents[3] / "examples" / "vision_sr1_3b.yaml"


@pytest.fixture
def folder_3b(tmp_path: Path, tiny_model: Path) -> Path:
    """A configuration with the sizes of Qwen2.5-VL 3B, and no weights."""
    scaled(AutoConfig.from_pretrained(tiny_model), TEXT_3B, VISION_3B).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def size(folder_3b: Path, config: Config) -> ModelSize:
    return model_size(str(folder_3b), config.learner)


@pytest.fixture
def config() -> Config:
    return load_config(EXAMPLE, environment={}).config


def test_parameters_are_counted_as_the_model_has_them(size: ModelSize):
    assert size.parameters == 3_754_622_976
    assert size.kv_bytes == 36 * 2 * 2 * 128 * 2  # layers, keys and values, heads, their size, bytes


def test_memory_falls_with_each_stage_and_with_ranks(size: ModelSize, config: Config):
    totals = [memory.total for memory in all_memories(size, config, ranks=4)]
    assert totals == sorted(totals, reverse=True)
    few, many = (learner_memory(size, config, ranks, zero_stage=3, placement="policy") for ranks in (2, 8))
    gathered, largest = 2 * GATHERED_PARAMETERS / GIB, 4 * 151_936 * 2048 / GIB
    assert few.optimizer == pytest.approx(4 * many.optimizer) == pytest.approx(12 * size.parameters / 2 / GIB)
    assert few.weights - gathered == pytest.approx(4 * (many.weights - gathered))
    assert few.gradients - largest == pytest.approx(4 * (many.gradients - largest))
    assert few.activations == many.activations


def test_the_whole_gradient_is_in_float32_before_ranks_divide_it(size: ModelSize, config: Config):
    whole, divided = (learner_memory(size, config, 4, zero_stage=stage, placement="policy") for stage in (1, 2))
    of_matrix = 151_936 * 2048 / GIB
    assert whole.gradients == pytest.approx(4 * size.parameters / GIB)
    assert divided.gradients == pytest.approx(size.parameters / GIB + 4 * of_matrix)


def test_the_reference_counts_where_it_is(size: ModelSize, config: Config, folder_3b: Path):
    weights = 2 * size.parameters / GIB
    places: tuple[Placement, ...] = ("policy", "sharded", "cpu")
    found = [learner_memory(size, config, 4, zero_stage=2, placement=place) for place in places]
    assert [memory.reference for memory in found] == pytest.approx([weights, weights / 4, 0])
    assert [memory.reference_host for memory in found] == pytest.approx([0, 0, weights / 4])
    assert [memory.given_back - found[2].given_back for memory in found] == pytest.approx([weights, 0, 0])
    assert [memory.kept - found[2].kept for memory in found] == pytest.approx([0, weights / 4, 0])
    sharded = learner_memory(size, config, 4, zero_stage=3, placement="policy")
    assert sharded.reference == pytest.approx(weights / 4)
    for options, is_copied in (
        (["learner.lora.rank=64"], False),
        (["learner.lora.rank=64", "learner.reference.refresh_every=1"], True),
        (["learner.components=[{name: a, reward: {accuracy: 1}, tokens: [response], kl_coef: 0}]"], False),
    ):
        other = load_config(EXAMPLE, options, environment={}).config
        memories = all_memories(model_size(str(folder_3b), other.learner), other, ranks=4)
        assert memories[0].reference == pytest.approx(weights if is_copied else 0), options
        assert {memory.placement for memory in memories} == (set(places) if is_copied else {"policy"}), options


def test_a_split_leaves_no_gpu_over_and_fits(size: ModelSize, config: Config):
    for gpus in (4, 8, 16):
        plan = make_plan(size, config, GPUS["H100"], gpus)
        assert plan.learner_gpus + plan.actors * plan.tensor_parallel == gpus
        assert plan.memory.total < GPUS["H100"].memory_gib
        assert plan.actor.tokens > config.model.max_model_len


@pytest.mark.parametrize(("gpu", "gpus"), [("RTX4090", 8), ("H100", 1)])
def test_what_does_not_fit_is_said_with_what_would(size: ModelSize, config: Config, gpu: str, gpus: int):
    with pytest.raises(ConfigError, match=r"learner and actors, not even in turn: .*take more or larger GPUs"):
        make_plan(size, config, GPUS[gpu], gpus)


def test_where_learner_and_actors_do_not_fit_beside_one_another_they_take_turns(size: ModelSize, config: Config):
    plan = make_plan(size, config, GPUS["H100"], 2)
    assert plan.shared
    assert (plan.learner_gpus, plan.actors, plan.tensor_parallel) == (2, 2, 1)
    settings = plan.settings("model")
    assert settings["actors"]["placement"] == "shared"
    load_config(EXAMPLE, [f"learner.max_staleness={settings['learner']['max_staleness']}", "actors.placement=shared"])
    taken = plan.gpu_memory_utilization * GPUS["H100"].memory_gib
    assert taken + plan.memory.weights <= usable_gib(GPUS["H100"])
    assert plan.batch_s > plan.generation_s + plan.training_s


def test_passes_with_masked_images_take_time(size: ModelSize, config: Config):
    def training_s(*overrides: str) -> float:
        changed = load_config(EXAMPLE, overrides, environment={}).config
        return make_plan(size, changed, GPUS["H100"], 2).training_s

    measured, bonus = training_s("learner.dependency.measure=true"), training_s("learner.dependency.kl_bonus=0.1")
    group = config.sampling.group_size
    share = (1500 + 500 * group) / (1500 + 1200 * group)  # of tokens that have images before them
    assert measured == pytest.approx(training_s() * (1 + 0.2 * share))
    assert bonus == pytest.approx(training_s() * (1 + share))


def test_re_queries_that_are_not_trained_take_the_learner_no_time(size: ModelSize, config: Config):
    trained, rewarded = (
        make_plan(size, load_config(EXAMPLE, [f"learner.preset={name}"], environment={}).config, GPUS["H100"], 2)
        for name in ("vision_sr1", "vision_sr1_channels")
    )
    group = config.sampling.group_size
    assert rewarded.training_s == pytest.approx(trained.training_s * (1500 + 500 * group) / (1500 + 1200 * group))
    assert rewarded.generation_s == trained.generation_s


def test_re_queries_that_are_not_made_take_the_actors_no_time(size: ModelSize):
    def generation_s(*overrides: str) -> float:
        changed = load_config(EXAMPLE, ["learner.preset=see_think", *overrides], environment={}).config
        return make_plan(size, changed, GPUS["H100"], 2).generation_s

    always = generation_s("reward.requery.when=always")
    for when in ("needed", "never"):
        assert generation_s(f"reward.requery.when={when}") == pytest.approx(always / 2)


def test_a_plan_counts_every_question_and_sample_of_the_re_query(size: ModelSize, config: Config):
    one = make_plan(size, config, GPUS["H100"], 8)
    config.reward.requery.questions, config.reward.requery.samples = 3, 2
    several = make_plan(size, config, GPUS["H100"], 8)
    group = config.sampling.group_size
    trained = (1500 + group * (500 + 3 * (700 + 500))) / (1500 + group * (500 + 700))
    ranks = several.learner_gpus / one.learner_gpus
    assert several.training_s == pytest.approx(one.training_s * trained / ranks)
    actors = several.actors / one.actors
    assert several.generation_s == pytest.approx(one.generation_s * (1 + 3 * 2) / 2 / actors)


@pytest.mark.parametrize(
    ("given", "weights", "tokens"),
    [("{kv_cache_dtype: fp8}", 1.0, 2.0), ("{kv_cache_dtype: nvfp4}", 1.0, 4.0), ("{quantization: mxfp8}", 0.5, 1.0)],
)
def test_a_plan_counts_what_vllm_is_told_to_quantize(size: ModelSize, given: str, weights: float, tokens: float):
    config = load_config(EXAMPLE, [f"actors.engine_args={given}"], environment={}).config
    plain = actor_memory(size, load_config(EXAMPLE, [], environment={}).config, GPUS["H100"], 1, 0.8)
    actor = actor_memory(size, config, GPUS["H100"], 1, 0.8)
    embeddings = 2 * size.vocabulary * size.hidden * (1 if size.tied else 2) / GIB
    assert actor.weights == pytest.approx(embeddings + weights * (plain.weights - embeddings))
    assert actor.tokens == pytest.approx(plain.tokens * tokens * actor.kv_cache / plain.kv_cache, abs=4)


def test_a_plan_divides_gpus_by_an_actor_s_stages(size: ModelSize):
    config = load_config(EXAMPLE, ["actors.engine_args={pipeline_parallel_size: 2}"], environment={}).config
    plan = make_plan(size, config, GPUS["H100"], 8)
    assert (plan.tensor_parallel, plan.actor_gpus) == (1, 2)
    assert plan.learner_gpus + 2 * plan.actors == 8
    assert plan.actor.weights == pytest.approx(size.parameters / GIB)  # half of them, 2 bytes each
    assert plan.settings("model")["actors"]["engine_args"] == {"pipeline_parallel_size": 2}


def test_adapters_of_3b_are_learned_on_one_gpu(folder_3b: Path):
    config = load_config(EXAMPLE, ["learner.lora.rank=64"], environment={}).config
    plan = make_plan(model_size(str(folder_3b), config.learner), config, GPUS["H100"], 1)
    assert plan.shared
    assert plan.actor.tokens > 20 * config.model.max_model_len


def test_adapters_need_less_and_send_less(folder_3b: Path):
    options = ["learner.lora.rank=64", "learner.lora.publish=adapter"]
    config = load_config(EXAMPLE, options, environment={}).config
    size = model_size(str(folder_3b), config.learner)
    of_layer = 2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11_008)  # q and o, k and v, the gated MLP
    assert size.trainable == 64 * 36 * of_layer
    assert size.published == 2 * size.trainable
    plan = make_plan(size, config, GPUS["H100"], 2)
    assert (plan.learner_gpus, plan.actors) == (1, 1)
    frozen = load_config(EXAMPLE, ["learner.freeze_vision=true"], environment={}).config
    assert 3.0e9 < model_size(str(folder_3b), frozen.learner).trainable < 3.2e9


@pytest.mark.parametrize(
    ("overlay", "text", "vision", "gpus"),
    [
        ("single-node-gpu", {}, {}, 8),
        ("multi-node", TEXT_7B, VISION_7B, 24),
    ],
)
def test_pods_of_the_overlays_have_the_memory_that_a_plan_says(
    tmp_path: Path, tiny_model: Path, overlay: str, text: dict[str, int], vision: dict[str, int], gpus: int
):
    architecture = scaled(AutoConfig.from_pretrained(tiny_model), {**TEXT_3B, **text}, {**VISION_3B, **vision})
    architecture.tie_word_embeddings = architecture.text_config.tie_word_embeddings = not text
    architecture.save_pretrained(tmp_path)
    config = load_config(EXAMPLE, environment={}).config
    size = model_size(str(tmp_path), config.learner)
    plan = make_plan(size, config, GPUS["H100"], gpus)
    assert plan.overlay == overlay
    folder = EXAMPLE.parents[1] / "deploy" / "kubernetes" / "overlays" / overlay
    resources = {
        name: next(
            patch["value"]
            for patch in yaml.safe_load((folder / f"{name}.yaml").read_text())
            if patch["path"].endswith("/resources")
        )
        for name in ("learner", "actor")
    }
    ranks = int(resources["learner"]["limits"]["nvidia.com/gpu"]) * (2 if overlay == "multi-node" else 1)
    assert _gib(resources["learner"]) >= learner_host_gib(size, ranks)
    assert _gib(resources["actor"]) >= plan.actor_host_gib


@pytest.mark.parametrize(("gpus", "kept_by_actor"), [(8, 0), (2, 1)])  # apart; in turn, where weights go by gloo
def test_hosts_keep_what_was_sent_where_changes_alone_are(
    size: ModelSize, config: Config, gpus: int, kept_by_actor: int
):
    full = make_plan(size, config, GPUS["H100"], gpus)
    config.learner.weights.send = "delta"
    delta = make_plan(size, config, GPUS["H100"], gpus)
    weights = 2 * size.parameters / GIB
    assert delta.learner_host_gib - full.learner_host_gib == pytest.approx(weights)
    assert delta.actor_host_gib - full.actor_host_gib == pytest.approx(kept_by_actor * weights)


@pytest.mark.parametrize(("name", "parameters"), [("4b", 4_437_815_808), ("8b", 8_767_123_696)])
def test_examples_for_qwen3_divide_eight_gpus_as_the_plan_says(tmp_path: Path, name: str, parameters: int):
    qwen3_vl(name).save_pretrained(tmp_path)
    config = load_config(EXAMPLE.with_name(f"vision_sr1_qwen3_{name}.yaml"), environment={}).config
    size = model_size(str(tmp_path), config.learner)
    assert size.parameters == parameters
    planned = make_plan(size, config, GPUS["H100"], 8).settings(config.model.path)
    given = {section: {key: getattr(getattr(config, section), key) for key in planned[section]} for section in planned}
    given["learner"]["reference"] = {"placement": config.learner.reference.placement}
    assert given == planned


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Configurations of Qwen2.5-VL 3B and 7B."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("3b", "7b")}
    for name, folder in made.items():
        more: tuple[dict[str, int], dict[str, int]] = ({}, {}) if name == "3b" else (TEXT_7B, VISION_7B)
        architecture = scaled(AutoConfig.from_pretrained(tiny_model), TEXT_3B | more[0], VISION_3B | more[1])
        architecture.tie_word_embeddings = architecture.text_config.tie_word_embeddings = name == "3b"
        architecture.save_pretrained(folder)
    return made


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["3b", "7b"])
def test_examples_divide_their_gpus_as_the_plan_says(folders: dict[str, Path], name: str, gpus: int):
    file = f"vision_sr1_{name}.yaml" if gpus == 8 else f"gpus/vision_sr1_{name}_{gpus}gpu.yaml"
    config = load_config(EXAMPLE.parent / file, environment={}).config
    plan = make_plan(model_size(str(folders[name]), config.learner), config, GPUS["H100"], gpus)
    planned = plan.settings(config.model.path)
    given = {section: {key: getattr(getattr(config, section), key) for key in planned[section]} for section in planned}
    given["learner"]["reference"] = {"placement": config.learner.reference.placement}
    if gpus == 8:  # synchronous, as the paper's
        planned["learner"]["max_staleness"] = 0
    assert given == planned
    said = (EXAMPLE.parent / file).read_text().partition("extends")[0].replace("\n# ", " ")
    assert f"{plan.memory.total:.0f} GiB" in said
    assert f" {plan.training_s if gpus == 8 else plan.batch_s:.0f} s" in said


def _gib(resources: dict[str, dict[str, str]]) -> int:
    return int(resources["requests"]["memory"].removesuffix("Gi"))


def test_an_unknown_kind_is_named_and_memory_will_do():
    with pytest.raises(ConfigError, match="--gpu 'P100': known are RTX4090"):
        chosen_gpu("P100")
    assert chosen_gpu("48").memory_gib == 48.0
    assert chosen_gpu("h100") == GPUS["H100"]
    for wrong in ("nan", "inf", "0", "-5"):
        with pytest.raises(ConfigError, match=f"--gpu '{wrong}': known are"):
            chosen_gpu(wrong)


def test_the_command_prints_a_configuration_that_loads(folder_3b: Path, tmp_path: Path):
    arguments = ["plan", str(folder_3b), "--gpus", "8", "--config", str(EXAMPLE)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "model.dtype is float32" not in result.output
    in_float32 = CliRunner().invoke(app, [*arguments, "model.dtype=float32"], env={"COLUMNS": "160"})
    assert "set model.dtype: bfloat16, for which this is computed" in in_float32.output
    assert "3.75 billion parameters" in result.output
    assert "a publication: 7.0 GiB to each actor" in result.output
    assert "learner.weights.send: delta pays over links slower than" in " ".join(result.output.split())
    assert "start from deploy/kubernetes/overlays/single-node-gpu" in result.output
    written = result.output.partition("\nmodel:")[2].partition("\nNot measured")[0]
    file = tmp_path / "run.yaml"
    file.write_text(f"model:{written}")
    planned = load_config(file, environment={}).config
    assert planned.learner.processes == yaml.safe_load(file.read_text())["learner"]["processes"]


def test_a_folder_without_a_model_is_said(tmp_path: Path):
    result = CliRunner().invoke(app, ["plan", str(tmp_path), "--gpus", "8"])
    assert result.exit_code == 2
    assert "is not a model: it has no config.json" in result.output
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    result = CliRunner().invoke(app, ["plan", str(tmp_path), "--gpus", "8"])
    assert "models of type 'llama' cannot be trained; known here: " in result.output


@pytest.mark.parametrize("kind", GPUS)
def test_changes_alone_pay_below_the_link_speed_that_is_named(kind: str):
    gpu, weights = GPUS[kind], 7_500_000_000
    speed = publication.break_even(gpu)
    assert publication.delta_s(weights, speed, gpu) == pytest.approx(publication.full_s(weights, speed))
    assert publication.delta_s(weights, 0.9 * speed, gpu) < publication.full_s(weights, 0.9 * speed)
    assert publication.delta_s(weights, 1.1 * speed, gpu) > publication.full_s(weights, 1.1 * speed)
    assert publication.LINKS["10 Gb/s Ethernet"] < speed < publication.LINKS["NVLink"]
