import re
from pathlib import Path
from typing import Any

import pytest

from vision_sr1.config import ConfigError, load_config, save_config
from vision_sr1.config.loading import ENVIRONMENT, RENAMED

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_examples_are_found_wherever_a_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("examples/shapes/gdpo.yaml"), environment={}).config.learner.preset == "gdpo"
    with pytest.raises(ConfigError, match="no configuration file examples/shapes/none.yaml"):
        load_config(Path("examples/shapes/none.yaml"), environment={})
    extending = tmp_path / "mine.yaml"
    extending.write_text("extends: examples/shapes/gdpo.yaml")
    assert load_config(extending, environment={}).config.learner.preset == "gdpo"
    own = tmp_path / "examples" / "shapes" / "gdpo.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("run: {name: mine}")
    for file in (Path("examples/shapes/gdpo.yaml"), extending):
        assert load_config(file, environment={}).config.run.name == "mine"


def test_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"unknown key learner\.prompts_per_bach: did you mean learner\.prompts_per_batch\?"
    ):
        load_config(None, ["learner.prompts_per_bach=4"], environment={})


def test_unknown_key_inside_a_component_is_refused(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("learner: {components: [{name: a, reward: {accuracy: 1}, tokens: [response], wieght: 2}]}")
    with pytest.raises(ConfigError, match=r"learner\.components\[0\]\.wieght.*weight"):
        load_config(file, environment={})


def test_command_line_beats_environment_beats_file_and_origins_say_so(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("streams: {url: 'redis://file:1'}\nlearner: {batches: 7}\n")
    loaded = load_config(file, ["learner.batches=9"], environment={"VISION_SR1_REDIS_URL": "redis://environment:2"})
    assert loaded.config.streams.url == "redis://environment:2"
    assert loaded.config.learner.batches == 9
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert origins["learner.batches"] == "command line"
    assert origins["streams.url"] == "environment VISION_SR1_REDIS_URL"
    assert origins["learner.components[0].reward.accuracy"] == "preset vision_sr1"
    assert origins["sampling.top_p"] == "default"


def test_an_empty_variable_of_the_environment_is_as_if_it_were_not_set():
    empty = dict.fromkeys(ENVIRONMENT, "")
    assert load_config(None, environment=empty) == load_config(None, environment={})
    given = load_config(None, ["streams.url=redis://a:1"], environment=empty)
    assert given.config.streams.url == "redis://a:1"


def test_what_replaces_a_list_or_a_mapping_is_its_origin(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {train: [{path: a}, {path: b}], evaluation: {a: x}, sft: [{path: c}]}")
    replaced = ["data.train=[{path: d}]", "data.evaluation={b: y}", "data.evaluation.c=z"]
    origins = {key: origin for key, _, origin in load_config(file, replaced, environment={}).rows()}
    assert origins["data.train[0].path"] == "command line"
    assert origins["data.evaluation.b"] == origins["data.evaluation.c"] == "command line"
    assert origins["data.sft[0].path"] == str(file)
    given = load_config(None, ["learner.preset=observer_solver", "reward.requery={when: always}"], environment={})
    assert given.origin("reward.requery.samples") == "preset observer_solver"
    assert given.origin("reward.requery.when") == "command line"


@pytest.mark.parametrize("text", ["learner:\ndata:\n  evaluation:\n", "learner: {weights: }\ndata: {evaluation: {}}\n"])
def test_an_empty_section_of_a_file_changes_nothing(tmp_path: Path, text: str):
    (tmp_path / "base.yaml").write_text("learner: {batches: 5}\n")
    (tmp_path / "run.yaml").write_text("extends: base.yaml\n" + text)
    loaded = load_config(tmp_path / "run.yaml", ["learner.processes=2", "data.evaluation.a=x"], environment={})
    assert (loaded.config.learner.batches, loaded.config.learner.processes) == (5, 2)
    assert loaded.config.data.evaluation == {"a": "x"}
    assert loaded.origin("learner.weights.backend") == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run: {name: {{NAME}}}",
            "at line 1, column 14: found unhashable key; write text that begins with {",
        ),
        ("? [a]: b", "at line 1, column 3: found unhashable key"),
        ("run: &a {name: *a}", "at line 1, column 6: found unconstructable recursive node; an anchor cannot be within"),
        ("data: {train: &a [*a]}", "at line 1, column 15: found unconstructable recursive node"),
        pytest.param("run: " + "[" * 500, "nested too deeply, or has an anchor within its own value", id="deep"),
    ],
)
def test_yaml_that_makes_no_tree_is_refused_with_its_place(tmp_path: Path, text: str, message: str):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yaml is .*{re.escape(message)}"):
        load_config(tmp_path / "run.yaml", environment={})


def test_a_password_is_neither_shown_nor_saved(tmp_path: Path):
    loaded = load_config(None, environment={"VISION_SR1_REDIS_PASSWORD": "hunter2"})
    assert "hunter2" not in str(loaded.rows())
    save_config(loaded.config, tmp_path / "saved.yaml")
    assert "hunter2" not in (tmp_path / "saved.yaml").read_text()


def test_saved_configuration_loads_to_the_same_tree(tmp_path: Path):
    config = load_config(None, ["learner.batches=3", "run.name=x"], environment={}).config
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml", environment={}).config == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "learner.prompts_per_step=100",
            r"^learner\.prompts_per_step: 100 does not divide learner\.prompts_per_batch \(512\); possible: 32, 64,",
        ),
        ("learner.preset=visoin_sr1", "unknown preset 'visoin_sr1'; known: external_judge, gdpo, .*vision_sr1"),
        ("learner.preset=null", "give learner.preset or learner.components"),
        ("learner.preset=external_judge", r"uses the reward 'judge': set reward\.judge\.url"),
        ("reward.judge.url=http://127.0.0.1:1", r"^reward\.judge\.url: set reward\.judge\.model too"),
        ("sampling.temperature=-1", "sampling.temperature"),
        (
            "actors.engine_args.kv_cache_dtyp=fp8",
            r"^actors\.engine_args: vLLM has no .*: did you mean kv_cache_dtype\?$",
        ),
        ("actors.engine_args.max_num_seqs=8", r"max_num_seqs cannot be given here: set actors\.max_num_seqs"),
        ("actors.engine_args.data_parallel_size=2", r"set actors\.count"),
        ("actors.engine_args={speculative_config: {method: ngram}}", "no logit_bias, by which vision tokens"),
        ("actors.engine_args.quantization=awq", "'awq' is a format of checkpoints.*fp8_per_block"),
        ("actors.engine_args.load_format=dummy", "random weights"),
        ("actors.engine_args.pipeline_parallel_size=0", "must be a positive integer, not 0"),
        ("nonsense", "section.key=value"),
        ("run.name={{NAME}}", r"override 'run.name=\{\{NAME\}\}' is not valid YAML .* in quotes"),
        ("data.train=&a [*a]", "override .* an anchor cannot be within its own value: leave the \\* out"),
        (
            "learner.components[0].weight=0.5",
            r"^learner\.components\[0\]: a list is given whole, such as learner\.components='\[\{\"weight\": 0\.5",
        ),
        (
            "metrics.trackers[0]=wandb",
            r"such as metrics\.trackers='\[wandb, \.\.\.\]'; `vision-sr1 config",
        ),
        (
            "learner.off_policy.correction=icepop",
            r"^learner\.off_policy\.correction: icepop needs .* set learner\.off_policy\.recompute_proximal=true",
        ),
        ("learner.schedule.name=cosin", r"learner\.schedule\.name: Input should be 'constant', 'linear' or 'cosine'"),
    ],
)
def test_bad_value_is_named(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override], environment={})


def test_a_limit_of_a_kl_that_is_not_computed_is_refused():
    limit = "learner.stop_when.kl.above=0.5"
    component = "{name: a, reward: {accuracy: 1}, tokens: [response], kl_coef: 0}"
    with pytest.raises(
        ConfigError, match=r"kl_coef is 0 in every component: set learner\.stop_when\.approx_kl instead"
    ):
        load_config(None, [limit, f"learner.components=[{component}]"], environment={})
    assert load_config(None, [limit], environment={}).config.learner.stop_when.kl.above == 0.5


def test_changed_elements_are_not_sent_to_quantized_weights():
    quantized = ["actors.engine_args.quantization=fp8_per_block"]
    with pytest.raises(ConfigError, match=r"set learner\.weights\.send=full"):
        load_config(None, [*quantized, "learner.weights.send=delta"], environment={})
    load_config(None, quantized, environment={})
    load_config(None, [*quantized, "learner.weights.send=delta", "learner.weights.backend=gloo"], environment={})


RESPONSE = ["response"]
ANSWER = {"accuracy": 0.9, "format": 0.1}


@pytest.mark.parametrize(
    ("preset", "components"),
    [
        ("vision_sr1", [(ANSWER, ["reasoning"]), ({"visual": 1.0}, ["description"]), ({"visual": 1.0}, ["requery"])]),
        ("vision_sr1_sum", [({**ANSWER, "visual": 1.0}, RESPONSE)]),
        (
            "vision_sr1_eq7",
            [({"accuracy": 1.0, "format": 0.1}, RESPONSE), ({"visual": 1.0, "requery_format": 0.1}, ["requery"])],
        ),
        ("vision_sr1_channels", [({"accuracy": 1.0}, RESPONSE), ({"visual": 1.0}, RESPONSE)]),
        ("see_think", [(ANSWER, RESPONSE)]),
        ("vision_r1", [(ANSWER, RESPONSE)]),
        ("external_judge", [({**ANSWER, "judge": 1.0}, RESPONSE)]),
        ("gdpo", [({**ANSWER, "visual": 1.0}, RESPONSE)]),
        (
            "observer_solver",
            [({"visual": 1.0}, ["description"]), ({"visual": 0.9, "requery_format": 0.1}, ["requery"])],
        ),
    ],
)
def test_presets_are_the_readings_of_the_paper(preset: str, components: list[Any]):
    judge = ["reward.judge.url=http://127.0.0.1:1", "reward.judge.model=j"]
    config = load_config(None, [f"learner.preset={preset}", *judge], environment={}).config
    assert [(c.reward, c.tokens) for c in config.learner.components] == components
    for c in config.learner.components:
        assert (c.clip_ratio_low, c.clip_ratio_high, c.clip_ratio_dual, c.kl_estimator) == (0.2, 0.3, 3.0, "low_var_kl")
        assert c.weight == (0.5 if preset == "vision_sr1_eq7" else 1.0)
        assert c.advantage == ("gdpo" if preset == "gdpo" else "group")
        assert c.group == ("description" if (preset, c.name) == ("observer_solver", "solver") else "prompt")
        assert c.kl_coef == (0.0 if (preset, c.name) == ("vision_sr1_channels", "visual") else 0.01)
    assert config.reward.requery.samples == (4 if preset == "observer_solver" else 1)
    assert config.reward.requery.questions == 1
    described = preset != "vision_r1"
    assert config.data.prompt_template == ("answer" if described else "think_answer")
    assert config.reward.response_format == ("description_think_answer" if described else "think_answer")


def test_a_file_beats_its_preset(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("learner: {preset: vision_r1}\ndata: {prompt_template: plain_answer}\n")
    loaded = load_config(file, environment={})
    assert loaded.config.data.prompt_template == "plain_answer"
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert origins["data.prompt_template"] == str(file)
    assert origins["reward.response_format"] == "preset vision_r1"


def test_a_file_extends_another_and_beats_it(tmp_path: Path):
    (tmp_path / "more").mkdir()
    base, middle, top = tmp_path / "base.yaml", tmp_path / "more" / "middle.yaml", tmp_path / "more" / "top.yaml"
    base.write_text("learner: {batches: 5, prompts_per_batch: 8, prompts_per_step: 4}\nrun: {name: base}\n")
    middle.write_text("extends: ../base.yaml\nlearner: {batches: 6}\n")
    top.write_text("extends: middle.yaml\nrun: {name: top}\n")
    loaded = load_config(top, environment={})
    learner = loaded.config.learner
    assert (loaded.config.run.name, learner.batches, learner.prompts_per_batch) == ("top", 6, 8)
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert Path(origins["learner.batches"]) == middle
    base.write_text("extends: more/top.yaml\n")
    with pytest.raises(ConfigError, match="extends .*top.yaml, which extends it in turn"):
        load_config(top, environment={})
    base.unlink()
    with pytest.raises(ConfigError, match=r"middle\.yaml extends .*base\.yaml, and there is no such file"):
        load_config(top, environment={})


def test_a_split_of_an_extended_file_can_be_left_out(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("data: {evaluation: {normal: a.parquet, counter_prior: b.parquet}}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\ndata: {evaluation: {counter_prior: null}}\n")
    assert load_config(tmp_path / "top.yaml", environment={}).config.data.evaluation == {"normal": "a.parquet"}


@pytest.mark.parametrize("name", sorted(str(f.relative_to(EXAMPLES)) for f in EXAMPLES.rglob("*.yaml")))
def test_every_example_loads(name: str):
    load_config(EXAMPLES / name, environment={})


def test_an_unknown_reward_is_refused_with_those_there_are(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("learner: {components: [{name: a, reward: {acuracy: 1}, tokens: [response]}]}")
    with pytest.raises(ConfigError, match="component 'a': unknown reward 'acuracy'; known: format, accuracy, visual"):
        load_config(file, environment={})


def test_folders_may_be_in_the_users_home():
    given = ["run.dir=~/runs", "data.image_root=~/images", "learner.sft.output=~/out"]
    config = load_config(None, given, environment={}).config
    found = config.run.dir, config.data.image_root, config.learner.sft.output
    assert found == (Path.home() / "runs", Path.home() / "images", Path.home() / "out")
    assert load_config(None, ["run.dir=~no.such.user/x"], environment={}).config.run.dir == Path("~no.such.user/x")


def test_a_former_name_is_read_with_a_warning_and_not_beside_the_present_one(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("sampling: {seeded: false}\nlearner: {groups: {drop_without_signal: true}}\n")
    loaded = load_config(file, ["streams.outage_s=7"], environment={})
    assert not loaded.config.sampling.deterministic_sampling
    assert loaded.config.learner.groups.dynamic_sampling
    assert loaded.config.streams.retry_for_s == 7
    assert [text.partition(": the")[0] for text in loaded.renamed] == [
        f"sampling.seeded ({file}) is called sampling.deterministic_sampling now",
        f"learner.groups.drop_without_signal ({file}) is called learner.groups.dynamic_sampling now",
        "streams.outage_s (command line) is called streams.retry_for_s now",
    ]
    assert loaded.origins["sampling.deterministic_sampling"] == str(file)
    assert not load_config(None, ["streams.retry_for_s=7"], environment={}).renamed
    file.write_text("sampling: {seeded: false, deterministic_sampling: true}\n")
    with pytest.raises(ConfigError, match="seeded is the former name of sampling.deterministic_sampling: give one"):
        load_config(file)


@pytest.mark.parametrize(("former", "present"), [("false", "policy"), ("true", "cpu"), ("sharded", "sharded")])
def test_values_of_a_former_name_are_read_as_they_are_called_now(tmp_path: Path, former: str, present: str):
    file = tmp_path / "run.yaml"
    file.write_text(f"learner: {{reference: {{offload: {former}}}}}\n")
    for loaded in (load_config(file), load_config(None, [f"learner.reference.offload={former}"])):
        assert loaded.config.learner.reference.placement == present
        assert "(false is policy, true is cpu)" in loaded.renamed[0]
    with pytest.raises(ConfigError, match=r"learner.reference.placement: Input should be 'policy', 'sharded' or 'cpu'"):
        load_config(None, ["learner.reference.offload=[true]"])


def test_every_former_name_has_a_setting_in_the_same_section():
    keys = {key for key, _, _ in load_config(None, environment={}).rows()}
    for former, present in RENAMED.items():
        assert present in keys
        assert former not in keys
        assert former.rpartition(".")[0] == present.rpartition(".")[0]


@pytest.mark.parametrize(
    ("when", "preset", "training", "evaluation"),
    [
        ("always", "see_think", True, True),
        ("needed", "see_think", False, True),
        ("needed", "external_judge", False, True),
        ("needed", "vision_sr1", True, True),
        ("needed", "vision_sr1_channels", True, True),
        ("never", "see_think", False, False),
    ],
)
def test_which_rollouts_get_a_requery(when: str, preset: str, training: bool, evaluation: bool):
    judge = ["reward.judge.url=http://127.0.0.1:1/v1", "reward.judge.model=m"]
    settings = [f"reward.requery.when={when}", f"learner.preset={preset}", *judge]
    config = load_config(None, settings, environment={}).config
    assert config.has_requery(evaluation=False) is training
    assert config.has_requery(evaluation=True) is evaluation


def test_a_component_that_learns_from_re_queries_needs_them():
    with pytest.raises(ConfigError, match="uses the re-query: set reward.requery.when=needed or always"):
        load_config(None, ["reward.requery.when=never"], environment={})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["reward.requery.questions=2", "reward.requery.when=never"],
            "and reward.requery.when: never makes none: set reward.requery.when to needed",
        ),
        (
            ["learner.preset=observer_solver", "reward.requery.samples=1"],
            "and there is one of each: set it to 2 or more",
        ),
        (
            ["learner.preset=observer_solver", "reward.requery.temperature=0"],
            "greedy ones are all alike: set it to null",
        ),
        (
            ["learner.components=[{name: a, reward: {visual: 1}, tokens: [description], group: description}]"],
            "this component trains description: set tokens to [requery], or group to prompt",
        ),
        (
            ["learner.components=[{name: a, reward: {visual_own: 1}, tokens: [description]}]"],
            "uses the reward 'visual_own': set reward.requery.questions to 2 or more",
        ),
    ],
)
def test_questions_and_groups_that_cannot_be_are_refused(settings: list[str], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(None, settings, environment={})


def test_the_own_questions_share_is_a_reward_where_there_are_further_ones():
    component = "learner.components=[{name: a, reward: {visual_own: 1}, tokens: [description]}]"
    loaded = load_config(None, [component, "reward.requery.questions=2"], environment={}).config
    assert loaded.reward.ranges["visual_own"] == (0.0, 1.0)
    assert loaded.learner.components[0].uses_requery
