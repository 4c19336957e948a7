"""A transformer encoder over patches of the window."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from training.models.head import prediction_of, zero_head


class WindowTransformer(nn.Module):
    """Patches of some bars, attention among patches that have data, and a linear head on the newest patch.

    Patches as tokens are those of Nie et al., A Time Series is Worth 64 Words, 2023; normalisation comes before each
    sub-layer (Xiong et al., On Layer Normalization in the Transformer Architecture, 2020). A patch without any valid
    feature is not attended to, except the newest. Axes: B rows, P patches, D channels.
    """

    def __init__(
        self,
        window_bars: int,
        n_features: int,
        *,
        patch_bars: int = 4,
        width: int = 32,
        heads: int = 4,
        blocks: int = 2,
        dropout: float = 0.1,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        patch_bars = min(patch_bars, window_bars)
        self.patches = -(-window_bars // patch_bars)
        # The window is padded before its oldest bar, so the newest patch is always whole.
        self.padding = self.patches * patch_bars - window_bars
        self.embed = nn.Linear(patch_bars * n_features * 2, width)
        self.position = nn.Parameter(torch.randn(self.patches, width) * 0.02)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = zero_head(width, outputs)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        return self.forward_whole(torch.cat((x_BTF, mask_BTF), dim=-1))

    def forward_whole(self, both_BTG: torch.Tensor) -> torch.Tensor:
        """Return the prediction for features and masks that are joined along the last axis, (B, T, 2F)."""
        rows, _, both = both_BTG.shape
        patched_BPSG = pad(both_BTG, (0, 0, self.padding, 0)).reshape(rows, self.patches, -1, both)
        valid_BP = (patched_BPSG[..., both // 2 :] > 0).flatten(2).any(-1)
        newest = torch.arange(self.patches, device=both_BTG.device) == self.patches - 1
        attended_BP = valid_BP | newest
        state_BPD = self.embed(patched_BPSG.flatten(2)) + self.position
        for block in self.blocks:
            state_BPD = block(state_BPD, attended_BP)
        return prediction_of(self.head(self.norm(state_BPD[:, -1])))


class EncoderBlock(nn.Module):
    """Attention and a feed-forward layer, each with its residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, state_BPD: torch.Tensor, attended_BP: torch.Tensor) -> torch.Tensor:
        """Return the next states; `attended_BP` is bool, the patches that all others may read."""
        rows, patches, width = state_BPD.shape
        split = (rows, patches, self.heads, width // self.heads)
        parts = self.project_in(self.attention_norm(state_BPD)).chunk(3, dim=-1)
        query, key, value = (part.reshape(split).transpose(1, 2) for part in parts)
        found = masked_attention(query, key, value, attended_BP)
        state_BPD = state_BPD + self.dropout(self.project_out(found.transpose(1, 2).flatten(2)))
        added: torch.Tensor = self.dropout(self.feed(self.feed_norm(state_BPD)))
        return state_BPD + added


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attended_BP: torch.Tensor
) -> torch.Tensor:
    """Return scaled dot-product attention over patches (Vaswani et al., Attention Is All You Need, 2017).

    It is written out since torch's own has no batched form for stacked fits on a CPU. With a few patches it is faster:
    33 ms instead of 40 for a step of the window 24 with 18 features, batch 512, one core.

    Args:
        query, key, value: (B, heads, P, D).
        attended_BP: (B, P) bool, patches that may be read; at least one in each row.
    """
    score = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    weight = score.masked_fill(~attended_BP[:, None, None], -torch.inf).softmax(dim=-1)
    found: torch.Tensor = weight @ value
    return found
