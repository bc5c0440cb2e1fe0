"""Attention maps. The table is plain, so that looking a name up imports nothing heavy."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "cam": "closed form for global average pooling and a linear head",
    "grad_cam": "channels weighed by their mean gradient",
    "grad_cam_pp": "channels weighed by their positive gradients",
    "layer_cam": "positions weighed by their own positive gradient; for early layers",
    "activation": "where the layer is active, whatever the class",
    "input_gradient": "how much each pixel moves the class's logit",
    "rollout": "attention through all blocks of a transformer, whatever the class",
    "gradient_rollout": "the same, of the attention that speaks for the class",
}
"""Name of each method to one line on it."""
