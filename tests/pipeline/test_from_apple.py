"""The page for people who come from APPLE's code: every key of its configuration, and only fields we have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from assets.identity_pulid import PulidConfig
from assets.release import ReleaseConfig
from assets.swap_base import BaseConfig
from models.faces.condition import ConditionRecipe
from models.swap.config import ConditionBranchConfig, LoraConfig, SwapModelConfig, TransformerConfig
from models.swap.training_recipe import TrainingRecipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-apple.md"

KEYS = """
flux_path dtype debug
model.independent_condition model.max_sequence_length
train.batch_size train.accumulate_grad_batches train.dataloader_workers train.save_interval
train.sample_interval train.max_steps train.max_epochs train.gradient_checkpointing train.gradient_clip_val
train.print_every_n_steps train.save_path train.run_name train.resume_step train.resume_global_step
train.use_netarc train.netarc_path train.use_irse50 train.id_loss_thres train.train_lpips_loss
train.lpips_weight train.lpips_loss_thres train.train_omini train.train_pulid_enc train.train_pulid_ca
train.train_gaze train.gaze_type train.train_gaze_type train.train_gaze_loss train.train_gaze_loss_type
train.train_gaze_backbone_path train.use_target_clip train.lora_path train.lora_config train.optimizer.type
train.optimizer.params train.wandb.project train.condition_type
dataset.name dataset.dataset_path dataset.condition_type dataset.condition_size dataset.target_size
dataset.drop_text_prob dataset.drop_image_prob dataset.drop_id_prob dataset.drop_gaze_prob
dataset.position_scale dataset.num_validation dataset.aes_thres dataset.id_from
dataset.get_random_id_embed_every_step dataset.validation_with_other_src_id_embed dataset.cache_vgg
dataset.pseudo dataset.swapped_path dataset.swapped_condition_type dataset.train_size
dataset.pseudo_aes_thres dataset.pseudo_pick_thres dataset.do_proxy_recon_task
dataset.do_proxy_recon_task_prob dataset.type dataset.urls dataset.cache_name
"""
"""Every key that the published training code reads, or its configurations carry."""

CONFIGS: dict[str, type[BaseModel]] = {
    config.__name__: config
    for config in (
        BaseConfig,
        ConditionBranchConfig,
        ConditionRecipe,
        LoraConfig,
        PulidConfig,
        ReleaseConfig,
        SwapModelConfig,
        TransformerConfig,
    )
}
NO_FIELDS = {
    *("TrainingRecipe", "smoke", "lora", "everything", "adamw", "prodigy", "sgd", "student"),
    *("simswap_arcface", "ir_se50", "triplets_release", "rank", "alpha", "targets"),
    *("orchard ingest", "losses.jsonl", "models/swap/training_recipe.py"),
}
"""What stands as code in the section on settings and is no field of a recipe."""


@pytest.fixture(scope="module")
def section() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text.partition("## Every setting")[2].partition("\n## ")[0]


def test_every_key_is_told_and_no_other(section: str) -> None:
    told = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    assert sorted(told) == sorted(KEYS.split())


def test_every_field_that_is_named_exists(section: str) -> None:
    ours = re.sub(r"^\| `[\w.]+` \|", "|", section, flags=re.MULTILINE)
    spans = set(re.findall(r"`([^`]+)`", ours)) - NO_FIELDS
    assert "gradient_clip" in spans
    for span in spans:
        config, _, field = span.partition(".")
        if config in CONFIGS:
            known = {*CONFIGS[config].model_fields, *dir(CONFIGS[config])}
            assert not field or field in known, span
        else:
            assert span in TrainingRecipe.model_fields, span


def test_every_field_of_the_recipe_is_told(section: str) -> None:
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert not set(TrainingRecipe.model_fields) - named
