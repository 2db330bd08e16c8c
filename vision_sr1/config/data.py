"""The section `data`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from vision_sr1.config.section import HomePath, Positive, Section


class SourceConfig(Section):
    """One of several sets that are mixed."""

    path: str = Field(description="File, glob pattern, folder, or hub name; append @split to choose a split.")
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="How often each row occurs in an epoch: 2 is twice, 0.5 every other epoch.",
    )


def _sources(value: Any) -> Any:
    """One set, or a list of sets, each by its path or with its weight."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    return [{"path": source} if isinstance(source, str) else source for source in found]


def _without_null(splits: Any) -> Any:
    return {name: of for name, of in splits.items() if of is not None} if isinstance(splits, dict) else splits


Sources = Annotated[list[SourceConfig], BeforeValidator(_sources)]


class DataConfig(Section):
    """The data sets, which the `datasets` library reads from files, folders and hubs (docs/data.md)."""

    train: Sources = Field([], description="RL prompts: one set, or a list of them.")
    evaluation: Annotated[dict[str, str], BeforeValidator(_without_null)] = Field(
        {}, description="Held-out splits by name, each one set; null removes one of an extended file."
    )
    sft: Sources = Field([], description="Conversations for supervised fine-tuning: one set, or a list of sets.")
    sft_evaluation: Sources = Field([], description="Held-out conversations to evaluate supervised fine-tuning on.")
    prompt_key: str = Field("problem", description="Column of the question; `a.b` is the field b of a column a.")
    answer_key: str = Field("answer", description="Column of the reference answer.")
    image_key: str = Field("images", description="Column of the images: one, or a list, of bytes/path structs.")
    source_key: str = Field("data_source", description="Column with the name of the data source; may be absent.")
    scene_key: str = Field(
        "scene", description="Column with the true description, for description fidelity; may be absent."
    )
    further_questions_key: str = Field(
        "further_questions",
        description="Column with further questions about the same images, a list of {question, answer}; may be absent: "
        "then they are those of other rows with the same images. Used where reward.requery.questions is more than 1.",
    )
    prompt_template: str = Field(
        "answer", description="Jinja file, or name of a built-in template, that renders a question as a prompt."
    )
    max_image_bytes: Positive = Field(20_000_000, description="Larger encoded images are rejected.")
    max_image_pixels: Positive = Field(
        89_478_485, description="Images with more pixels are rejected before they are decoded."
    )
    image_root: HomePath | None = Field(
        None,
        description="Folder that image paths are relative to and must stay in; default: the folder of the data file.",
    )
