"""The policy loss on the same tensors as TRL's GRPO trainer, as an implementation that is not ours."""

import warnings
from collections import defaultdict
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from learner.objective.loss import ComponentTokens, PackTokens, component_loss
from vision_sr1.config import ComponentConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of a newer vLLM, which its loss has nothing to do with
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")

BATCH, LENGTH = 6, 40


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    lengths = torch.randint(5, LENGTH + 1, (BATCH,))
    values = {name: torch.randn(BATCH, LENGTH) * 0.5 - 2.0 for name in ("policy", "old", "reference")}
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return {**values, "mask": mask, "advantages": torch.randn(BATCH), "weights": torch.rand(BATCH, LENGTH) * 2}


def trl_loss(tensors: dict[str, torch.Tensor], logprobs: torch.Tensor, *, kl: float, dual: float | None, ratio: str):
    """TRL's own method; what it asks of a trainer is its settings and the model's log-probabilities."""
    accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, **_: x, num_processes=1)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=accelerator,
        args=SimpleNamespace(delta=dual, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        beta=kl,
        current_gradient_accumulation_steps=1,
        epsilon_high=0.3,
        epsilon_low=0.2,
        importance_sampling_level=ratio,
        loss_type="bnpo",
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=True,
        vllm_importance_sampling_correction=True,
    )
    inputs = {
        **{name: torch.zeros(BATCH, 1, dtype=torch.long) for name in ("prompt_ids", "prompt_mask")},
        "completion_ids": torch.zeros(BATCH, LENGTH, dtype=torch.long),
        "completion_mask": tensors["mask"],
        "advantages": tensors["advantages"],
        "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"],
        "importance_sampling_ratio": tensors["weights"],
    }
    return grpo_trainer.GRPOTrainer._compute_loss(trainer, Mock(), inputs)


@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("dual", [None, 1.5])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_loss_and_gradient_equal_those_of_trl(tensors: dict[str, torch.Tensor], kl: float, dual: float | None, ratio):
    component = ComponentConfig(
        name="c",
        reward={"accuracy": 1.0},
        tokens=["response"],
        ratio=ratio,
        clip_ratio_dual=dual,
        kl_coef=kl,
        kl_estimator="k3",
    )
    inside = tensors["mask"].bool()
    theirs = tensors["policy"].clone().requires_grad_()
    expected = trl_loss(tensors, theirs, kl=kl, dual=dual, ratio=ratio)
    expected.backward()

    ours = tensors["policy"][inside].clone().requires_grad_()
    sequences = torch.arange(BATCH).repeat_interleave(tensors["mask"].sum(dim=1))
    tokens = ComponentTokens(
        torch.ones(len(ours), dtype=torch.bool), tensors["advantages"][sequences], normalizer=float(len(ours))
    )
    others = PackTokens(sequences, tensors["old"][inside], tensors["reference"][inside], tensors["weights"][inside])
    loss, _ = component_loss(component, tokens, ours, others)
    loss.backward()
    assert theirs.grad is not None
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad[inside], rtol=1e-5, atol=1e-8)
