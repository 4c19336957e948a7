"""TabM: an ensemble of perceptrons that share their weights.

Y. Gorishniy, A. Kotelnikov, A. Babenko, TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling,
ICLR 2025. Each layer has one weight matrix, and each member scales its inputs and outputs by vectors of its own (the
rank-one adapters of BatchEnsemble, Wen et al., 2020).
"""

from __future__ import annotations

import torch
from torch import nn

from training.models.head import prediction_of


class TabM(nn.Module):
    """Members over the flattened window.

    In training the output has one prediction per member, (B, M), and the loss is the mean of their losses. In
    evaluation it is their mean, (B,). With several outputs per member each has one more axis, the last.
    """

    def __init__(
        self,
        window_bars: int,
        n_features: int,
        *,
        members: int = 16,
        hidden: int = 32,
        dropout: float = 0.25,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.members = members
        # Members differ from the first step on only by the signs of their inputs.
        self.first = AdaptedLinear(window_bars * n_features * 2, hidden, members, has_random_signs=True)
        self.second = AdaptedLinear(hidden, hidden, members)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Parameter(torch.zeros(members, hidden, outputs))
        self.head_bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        return self.forward_whole(torch.cat((x_BTF, mask_BTF), dim=-1))

    def forward_whole(self, both_BTG: torch.Tensor) -> torch.Tensor:
        """Return the predictions for features and masks that are joined along the last axis, (B, T, 2F)."""
        state_BMH = self.dropout(torch.relu(self.first.shared_input(both_BTG.flatten(1))))
        state_BMH = self.dropout(torch.relu(self.second(state_BMH)))
        output_BMQ = torch.einsum("bmh,mhq->bmq", state_BMH, self.head) + self.head_bias
        return prediction_of(output_BMQ if self.training else output_BMQ.mean(1))


class AdaptedLinear(nn.Module):
    """One linear layer for all members, between two scales and a bias of each member."""

    def __init__(
        self, width_in: int, width_out: int, members: int, *, has_random_signs: bool = False
    ) -> None:
        super().__init__()
        self.shared = nn.Linear(width_in, width_out, bias=False)
        ones = torch.ones(members, width_in)
        signs = torch.randint(0, 2, ones.shape).to(ones) * 2 - 1
        self.scale_in = nn.Parameter(signs if has_random_signs else ones)
        self.scale_out = nn.Parameter(torch.ones(members, width_out))
        bound = width_in**-0.5
        self.bias = nn.Parameter(torch.empty(members, width_out).uniform_(-bound, bound))

    def shared_input(self, state_BI: torch.Tensor) -> torch.Tensor:
        """Return the outputs of all members for one input of all, (B, M, O).

        It scales a copy of the weights for each member, which is smaller than a copy of a batch of windows.
        """
        weight_MOI = self.shared.weight * self.scale_in[:, None]
        output_BMO = (state_BI @ weight_MOI.flatten(0, 1).T).reshape(-1, *self.scale_out.shape)
        return output_BMO * self.scale_out + self.bias

    def forward(self, state_BMI: torch.Tensor) -> torch.Tensor:
        """Return the outputs of all members, (B, M, O)."""
        output_BMO: torch.Tensor = self.shared(state_BMI * self.scale_in) * self.scale_out + self.bias
        return output_BMO
