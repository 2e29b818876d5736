"""Networks of the literature that timm does not have, entered among timm's: ``timm/swin_pico_patch4_window7_224``."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn

default_cfgs = generate_default_cfgs(
    {
        "swin_pico_patch4_window7_224.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
    }
)


@register_model
def swin_pico_patch4_window7_224(pretrained: bool = False, **words: Any) -> SwinTransformer:
    """Swin-P of OFA-KD (Hao et al., NeurIPS 2023): four stages of two blocks, 48 channels in the first.

    >>> net = swin_pico_patch4_window7_224(num_classes=10, depths=(1, 1, 1, 1))
    >>> [info["num_chs"] for info in net.feature_info], net.num_classes
    ([48, 96, 192, 384], 10)
    """
    shape: dict[str, Any] = {
        "patch_size": 4,
        "window_size": 7,
        "embed_dim": 48,
        "depths": (2, 2, 2, 2),
        "num_heads": (2, 4, 8, 16),
    }
    net: SwinTransformer = build_model_with_cfg(
        SwinTransformer,
        "swin_pico_patch4_window7_224",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **(shape | words),
    )
    return net
