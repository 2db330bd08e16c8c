"""Parts of a model that do not belong together are found at the start."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import close_session
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from vision_sr1.config import ConfigError, ModelConfig, load_config
from vision_sr1.models.check import check_cpu_actors, check_length, check_model
from vision_sr1.models.load import load_model


def changed(model: Path, folder: Path, file: str, **values: object) -> str:
    shutil.copytree(model, folder / "model")
    path = folder / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder / "model")


def test_a_whole_model_passes(tiny_model: Path, untied_model: Path):
    check_model(ModelConfig(path=str(tiny_model)))
    check_model(ModelConfig(path=str(untied_model)))


def test_a_pipeline_is_refused_on_cpus(tiny_model: Path):
    config = load_config(None, [f"model.path={tiny_model}"], environment={}).config
    check_cpu_actors(config)
    config.actors.engine_args["pipeline_parallel_size"] = 2
    with pytest.raises(ConfigError, match=r"pipeline_parallel_size is 2, .*: set actors\.tensor_parallel_size"):
        check_cpu_actors(config)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{folder}/nothing", "there is no folder .*/nothing$"),
        ("{folder}/süß name", "there is no folder .*/süß name$"),
        ("~/model", r"there is no folder ~/model; write \$HOME instead of ~"),
        ("docs/model", "there is no folder docs/model$"),  # `docs` is one: no name of a hub's
        ("models/a/b", "there is no folder models/a/b$"),
        ("", "is not a model: it has no config.json"),
        ("{folder}", "is not a model: it has no config.json"),
        ("{folder}/file", "is a file: name its folder"),
    ],
)
def test_what_is_no_model_is_named_without_asking_a_hub(tmp_path: Path, path: str, message: str):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message):
        check_model(ModelConfig(path=path.format(folder=tmp_path)))


@pytest.fixture
def direct_hub_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub's client is made anew, without a proxy: it keeps those that the environment named when it was made."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("NO_PROXY", raising=False)
    close_session()
    yield
    close_session()


@pytest.mark.usefixtures("direct_hub_client")
def test_a_hub_that_is_not_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):  # the end of the server
                while True:
                    connection, _ = server.accept()
                    asked.append(connection.recv(4096).partition(b"\r\n")[0])
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        hub = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
        template = f"{hub}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(ConfigError, match="'no/model' is no folder here and no model in the hub's cache, and"):
            check_model(ModelConfig(path="no/model"))
    # The client asks for other things too, once a process.
    assert [line for line in asked if b"no/model" in line] == [b"GET /api/models/no/model HTTP/1.1"]


def without(model: Path, name: str) -> None:
    (model / name).unlink()


def cut(model: Path, name: str) -> None:
    data = (model / name).read_bytes()
    (model / name).write_bytes(data[: len(data) // 2])


def index(model: Path, name: str) -> None:
    (model / f"{name}.index.json").write_text(json.dumps({"weight_map": {"a": name, "b": "second.safetensors"}}))


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (without, "model.safetensors", r"has no weights \(\*\.safetensors\)"),
        (cut, "model.safetensors", r"model\.safetensors is missing or incomplete .*: copy it again"),
        (index, "model.safetensors", r"second\.safetensors is missing or incomplete .*: copy it again"),
        (cut, "config.json", "config.json.*; it is to be a folder in Hugging Face format"),
        (without, "tokenizer.json", "cannot be read|vocabulary|image token"),
    ],
)
def test_a_model_of_which_something_is_missing_is_refused_in_one_line(
    tmp_path: Path, tiny_model: Path, damage: Callable[[Path, str], None], file: str, message: str
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    damage(model, file)
    with pytest.raises(ConfigError, match=message) as refused:
        check_model(ModelConfig(path=str(model)))
    assert "\n" not in str(refused.value)


def first_shard(model: Path, name: str) -> None:
    (model / name).rename(model / "model-00001-of-00002.safetensors")


def merged_badly(model: Path, name: str) -> None:
    weights = load_file(model / name)
    save_file({f"base_model.model.{key}": weight for key, weight in weights.items()}, model / name)


def only_arguments(model: Path, name: str) -> None:
    (model / name).rename(model / "training_args.bin")


def adapter(model: Path, name: str) -> None:
    (model / name).rename(model / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (first_shard, "model.safetensors", "is one of 2 parts, and their index .* is missing"),
        (merged_badly, "model.safetensors", r"begin with base_model\.model\., as PEFT writes them: .*merge_and_unload"),
        (only_arguments, "model.safetensors", "has no weights"),
        (adapter, "config.json", r"has no config\.json \(it is an adapter: merge it into its model"),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused(
    tmp_path: Path, tiny_model: Path, damage: Callable[[Path, str], None], file: str, message: str
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    damage(model, file)
    with pytest.raises(ConfigError, match=message):
        check_model(ModelConfig(path=str(model)))


def test_weights_that_a_checkpoint_lacks_are_not_made_up(tmp_path: Path, tiny_model: Path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    renamed = {key.replace("layers.0.mlp", "layers.0.expert"): weight for key, weight in weights.items()}
    save_file(renamed, model / "model.safetensors", metadata={"format": "pt"})
    check_model(ModelConfig(path=str(model)))  # names are compared when weights are loaded
    with pytest.raises(ConfigError, match=r"lacks 3 weights of the model \(.*mlp.*it has 3 others, as .*expert"):
        load_model(str(model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "qwen2"}, "models of type 'qwen2' cannot be trained; known here: "),
        ({"model_type": "internvl_chat", "auto_map": {"AutoConfig": "a.B"}}, "whose name ends in -hf"),
        ({"model_type": None}, "names no model_type"),
        ({"text_config": {"model_type": "qwen3_moe"}}, r"its language model \(qwen3_moe\) is a mixture of experts"),
        ({"text_config": {"model_type": "gpt", "num_local_experts": 32}}, "is a mixture of experts"),
        ({"quantization_config": {"quant_method": "awq"}}, r"its weights are quantized \(awq\)"),
        ({"text_config": {"final_logit_softcapping": 30.0}}, "final_logit_softcapping"),
        ({"image_token_id": "abc"}, "has no configuration that can be read: .*image_token_id"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_by_its_configuration_alone(
    tmp_path: Path, tiny_model: Path, values: dict[str, object], message: str
):
    path = changed(tiny_model, tmp_path, "config.json", **values)
    for file in Path(path).glob("*processor*"):  # as models of text have none
        file.unlink()
    with pytest.raises(ConfigError, match=message) as refused:
        check_model(ModelConfig(path=path))
    assert "\n" not in str(refused.value)


def test_sequences_are_no_longer_than_the_model_s_positions(tmp_path: Path, tiny_model: Path):
    check_length(ModelConfig(path=str(tiny_model), max_model_len=512))
    with pytest.raises(ConfigError, match=r"has positions for 512 tokens: set model\.max_model_len=512 or less"):
        check_length(ModelConfig(path=str(tiny_model), max_model_len=513))


def test_another_kind_of_model_is_refused(tmp_path: Path, tiny_model: Path):
    with pytest.raises(ConfigError, match="'qwen3' cannot be trained; known here: |cannot be read"):
        check_model(ModelConfig(path=changed(tiny_model, tmp_path, "config.json", model_type="qwen3")))


def test_a_processor_of_another_model_is_refused_with_both_values(tmp_path: Path, tiny_model: Path):
    files = [path.name for path in tiny_model.glob("*processor*.json")]
    file = "preprocessor_config.json" if "preprocessor_config.json" in files else files[0]
    tree = json.loads((tiny_model / file).read_text())
    values = (
        {"image_processor": tree["image_processor"] | {"patch_size": 16}}
        if "image_processor" in tree
        else {"patch_size": 16}
    )
    with pytest.raises(ConfigError, match="patch size: the model has 14, the image processor 16"):
        check_model(ModelConfig(path=changed(tiny_model, tmp_path, file, **values)))


def test_an_image_token_that_the_tokenizer_has_elsewhere_is_found(tmp_path: Path, tiny_model: Path):
    with pytest.raises(ConfigError, match="image token: the model has 3, the tokenizer"):
        check_model(ModelConfig(path=changed(tiny_model, tmp_path, "config.json", image_token_id=3)))


def with_template(model: Path, folder: Path, template: str) -> ModelConfig:
    shutil.copytree(model, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(template)
    return ModelConfig(path=str(folder / "model"))


IMAGE = "{% if messages[-1].content[0].type == 'image' %}<|image_pad|>{% endif %}"


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        ("", {}, "has no chat template, as base models have none: take its Instruct version"),
        ("text alone", {}, r"writes 0 <\|image_pad\|> for a question with one image"),
        ("{{ raise_exception('no images here') }}", {}, "refuses a question with an image: no images here$"),
        ("{{ 'user ' + messages[0].content }}", {}, "cannot be used for a question with an image .*str"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + IMAGE,
            {"system_prompt": "Be brief."},
            "refuses a question with an image: no system; leave model.system_prompt empty",
        ),
        (
            IMAGE + "assistant\n{% if enable_thinking %}<think>\n{% endif %}",
            {"chat_template_kwargs": {"enable_thinking": True}},
            "begins every reply with <think>, where this method asks for a description",
        ),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_named(
    tiny_model: Path, tmp_path: Path, template: str, settings: dict[str, object], message: str
):
    model = with_template(tiny_model, tmp_path, template)
    with pytest.raises(ConfigError, match=message):
        check_model(model.model_copy(update=settings))


def test_thinking_is_switched_off_where_the_template_has_a_switch(tiny_model: Path, tmp_path: Path):
    template = IMAGE + "assistant\n<think>\n{% if enable_thinking is false %}\n</think>\n\n{% endif %}"
    check_model(with_template(tiny_model, tmp_path, template))


def test_a_template_that_is_with_the_processor_is_used(tiny_model: Path, tmp_path: Path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    settings = ModelConfig(path=str(model))
    check_model(settings)
    assert settings.chat(AutoTokenizer.from_pretrained(model)).user_turn("?", 1) == ModelConfig(
        path=str(tiny_model)
    ).chat(AutoTokenizer.from_pretrained(tiny_model)).user_turn("?", 1)


def test_a_reply_ends_where_the_template_ends_it(tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = "<|endoftext|>"  # as base models have it
    chat = ModelConfig(path=str(tiny_model)).chat(tokenizer)
    assert chat.stop_token_ids == tokenizer.convert_tokens_to_ids(["<|im_end|>"])


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "chat_template"])
def test_arguments_of_tokenizers_are_no_variables_of_a_template(name: str):
    with pytest.raises(ConfigError, match=rf"{name} is an argument of tokenizers"):
        load_config(None, [f"model.chat_template_kwargs={{{name}: true}}"], environment={})


def test_pixels_are_a_range(tiny_model: Path):
    with pytest.raises(ConfigError, match=r"model\.min_pixels is 2000, more than model\.max_pixels, 1000: set both"):
        check_model(ModelConfig(path=str(tiny_model), min_pixels=2000, max_pixels=1000))


def test_a_processor_of_another_kind_is_named(tmp_path: Path, tiny_model: Path):
    file = next(file.name for file in tiny_model.glob("*processor*.json"))
    with pytest.raises(ConfigError, match=r"is no processor of Qwen2\.5-VL|no tokenizer or image processor"):
        check_model(ModelConfig(path=changed(tiny_model, tmp_path, file, processor_class="Gemma3Processor")))


def test_a_template_s_file_that_cannot_be_read_is_named(tmp_path: Path, tiny_model: Path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.json").write_text("{")
    with pytest.raises(ConfigError, match=r"chat_template\.json cannot be read|no tokenizer or image processor"):
        check_model(ModelConfig(path=str(model)))


def test_files_beside_whole_weights_are_no_obstacle(tmp_path: Path, tiny_model: Path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    save_file(weights, model / "model-00001-of-00002.safetensors")
    save_file(
        {f"base_model.model.{key}": weight for key, weight in weights.items()}, model / "adapter_model.safetensors"
    )
    check_model(ModelConfig(path=str(model)))
