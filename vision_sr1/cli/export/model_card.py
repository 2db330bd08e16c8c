"""The model card of an exported policy, in the Hub's format."""

import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from vision_sr1 import __version__
from vision_sr1.config import Config
from vision_sr1.data.sources import kind_of, name_and_split
from vision_sr1.prompting.prompt_template import PromptTemplate, template_text

TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
METRICS = {
    "accuracy": "answer right",
    "visual": "right by description",
    "format": "valid format",
    "shortcut": "language shortcut rate",
    "answer_leak": "description states the answer",
    "fidelity": "description fidelity",
}


def model_card(
    config: Config, version: int, evaluation: dict[str, dict[str, float]], adapter: bool, license_id: str | None
) -> str:
    """The card's text, its metadata in front.

    Args:
        config: of the run.
        version: of the policy.
        evaluation: metrics by held-out split; empty where the version was not evaluated.
    """
    results = [
        {
            "task": {"type": "image-text-to-text"},
            "dataset": {"name": split, "type": _hub_name(config.data.evaluation.get(split, "")) or split},
            "metrics": [
                {"type": name, "name": METRICS[name], "value": round(found[name], 4)}
                for name in METRICS
                if name in found
            ],
        }
        for split, found in evaluation.items()
    ]
    metadata: dict[str, Any] = {
        "base_model": _hub_name(config.model.path),
        "license": license_id,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["vision-sr1", "grpo", "reinforcement-learning"],
        "datasets": [name for source in config.data.train if (name := _hub_name(source.path))],
        "model-index": [{"name": f"{config.run.name} version {version}", "results": results}] if results else None,
    }
    metadata = {key: value for key, value in metadata.items() if value}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["repr"] = repr
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        config=config,
        version=version,
        evaluation=evaluation,
        metrics={name: title for name, title in METRICS.items() if any(name in found for found in evaluation.values())},
        adapter=adapter,
        release=__version__,
        prompt=template_text(config.data.prompt_template),
        turn=PromptTemplate(config.data.prompt_template).answer("QUESTION", images=1),
    )
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n{text}"


def _hub_name(source: str) -> str | None:
    """The name of a model or data set on the Hub; None for a file or folder here."""
    name, _ = name_and_split(source)
    is_local = Path(name).exists() or kind_of(name) is not None
    return name if _HUB_NAME.fullmatch(name) and not is_local else None
