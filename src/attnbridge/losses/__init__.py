"""Losses: tensors in, one scalar out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbridge.lazy import exporter

if TYPE_CHECKING:
    from attnbridge.losses.adversarial import adversarial_loss as adversarial_loss
    from attnbridge.losses.adversarial import discriminator_loss as discriminator_loss
    from attnbridge.losses.alignment import ChannelAttention as ChannelAttention
    from attnbridge.losses.alignment import SpatialAttention as SpatialAttention
    from attnbridge.losses.alignment import channel_alignment_loss as channel_alignment_loss
    from attnbridge.losses.alignment import delta_alignment_loss as delta_alignment_loss
    from attnbridge.losses.alignment import entropy as entropy
    from attnbridge.losses.alignment import l2_sp_loss as l2_sp_loss
    from attnbridge.losses.alignment import spatial_alignment_loss as spatial_alignment_loss
    from attnbridge.losses.alignment import spectral_shrinkage_loss as spectral_shrinkage_loss
    from attnbridge.losses.angular import angular_margin as angular_margin
    from attnbridge.losses.attention import AttentionLoss as AttentionLoss
    from attnbridge.losses.attention import attention_distance as attention_distance
    from attnbridge.losses.attention import attention_loss as attention_loss
    from attnbridge.losses.classification import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
    from attnbridge.losses.classification import multi_label_soft_margin_loss as multi_label_soft_margin_loss
    from attnbridge.losses.mining import attention_mining_loss as attention_mining_loss
    from attnbridge.losses.mining import erase as erase
    from attnbridge.losses.mining import mean_by_image as mean_by_image
    from attnbridge.losses.mining import soft_mask as soft_mask
    from attnbridge.losses.transfer import attention_transfer_loss as attention_transfer_loss
    from attnbridge.losses.transfer import gradient_transfer_loss as gradient_transfer_loss
    from attnbridge.losses.transfer import hint_loss as hint_loss
    from attnbridge.losses.transfer import kd_loss as kd_loss
    from attnbridge.losses.transfer import mean_activation_map as mean_activation_map
    from attnbridge.losses.transfer import per_sample_input_gradient as per_sample_input_gradient
    from attnbridge.losses.transfer import symmetry_loss as symmetry_loss
    from attnbridge.losses.weak_supervision import boundary_loss as boundary_loss
    from attnbridge.losses.weak_supervision import expansion_loss as expansion_loss
    from attnbridge.losses.weak_supervision import seed_loss as seed_loss

_NAMES = {
    "AttentionLoss": "attnbridge.losses.attention",
    "ChannelAttention": "attnbridge.losses.alignment",
    "MultiLabelSoftMarginLoss": "attnbridge.losses.classification",
    "SpatialAttention": "attnbridge.losses.alignment",
    "adversarial_loss": "attnbridge.losses.adversarial",
    "angular_margin": "attnbridge.losses.angular",
    "attention_distance": "attnbridge.losses.attention",
    "attention_loss": "attnbridge.losses.attention",
    "attention_mining_loss": "attnbridge.losses.mining",
    "attention_transfer_loss": "attnbridge.losses.transfer",
    "boundary_loss": "attnbridge.losses.weak_supervision",
    "channel_alignment_loss": "attnbridge.losses.alignment",
    "delta_alignment_loss": "attnbridge.losses.alignment",
    "discriminator_loss": "attnbridge.losses.adversarial",
    "entropy": "attnbridge.losses.alignment",
    "erase": "attnbridge.losses.mining",
    "expansion_loss": "attnbridge.losses.weak_supervision",
    "gradient_transfer_loss": "attnbridge.losses.transfer",
    "hint_loss": "attnbridge.losses.transfer",
    "kd_loss": "attnbridge.losses.transfer",
    "l2_sp_loss": "attnbridge.losses.alignment",
    "mean_activation_map": "attnbridge.losses.transfer",
    "mean_by_image": "attnbridge.losses.mining",
    "multi_label_soft_margin_loss": "attnbridge.losses.classification",
    "per_sample_input_gradient": "attnbridge.losses.transfer",
    "seed_loss": "attnbridge.losses.weak_supervision",
    "soft_mask": "attnbridge.losses.mining",
    "spatial_alignment_loss": "attnbridge.losses.alignment",
    "spectral_shrinkage_loss": "attnbridge.losses.alignment",
    "symmetry_loss": "attnbridge.losses.transfer",
}
__all__ = [
    "AttentionLoss",
    "ChannelAttention",
    "MultiLabelSoftMarginLoss",
    "SpatialAttention",
    "adversarial_loss",
    "angular_margin",
    "attention_distance",
    "attention_loss",
    "attention_mining_loss",
    "attention_transfer_loss",
    "boundary_loss",
    "channel_alignment_loss",
    "delta_alignment_loss",
    "discriminator_loss",
    "entropy",
    "erase",
    "expansion_loss",
    "gradient_transfer_loss",
    "hint_loss",
    "kd_loss",
    "l2_sp_loss",
    "mean_activation_map",
    "mean_by_image",
    "multi_label_soft_margin_loss",
    "per_sample_input_gradient",
    "seed_loss",
    "soft_mask",
    "spatial_alignment_loss",
    "spectral_shrinkage_loss",
    "symmetry_loss",
]
__getattr__ = exporter(__name__, _NAMES)
