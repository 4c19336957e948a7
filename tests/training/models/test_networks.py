"""Networks: their outputs, members, attention and constructors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from storage.errors import SettingsError
from training.models import networks as registry
from training.models.networks import NETWORKS, make_network
from training.models.tabm import AdaptedLinear, TabM
from training.models.transformer import WindowTransformer, masked_attention

B, T, F = 5, 10, 3


def batch_of(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.rand((B, T, F), generator=draw) < 0.8).float()
    return torch.randn((B, T, F), generator=draw) * mask, mask


def drawn(network: nn.Module) -> nn.Module:
    """Return a network in evaluation mode whose weights, heads included, are random."""
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return network.eval()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_predict_zero_until_trained_and_differ_by_bar(name: str) -> None:
    network = make_network(name, window_bars=T, n_features=F, seed=1).eval()
    x, mask = batch_of()
    assert network(x, mask).tolist() == [0.0] * B
    before = drawn(network)(x, mask)
    for bar in (0, T - 1):
        changed = x.clone()
        changed[:, bar] += 1.0
        assert not torch.equal(network(changed, mask), before), bar
    assert torch.isfinite(network(torch.zeros(1, T, F), torch.zeros(1, T, F))).all()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_joined_input_gives_the_same_bits(name: str) -> None:
    network = drawn(make_network(name, window_bars=T, n_features=F, seed=1))
    x, mask = batch_of()
    assert torch.equal(network.forward_whole(torch.cat((x, mask), dim=-1)), network(x, mask))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_give_three_quantiles_where_asked(name: str) -> None:
    network = drawn(make_network(name, window_bars=T, n_features=F, seed=1, outputs=3))
    assert network(*batch_of()).shape == (B, 3)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "mlp",
            {
                "body.0.weight": (32, 2 * T * F),
                "body.0.bias": (32,),
                "body.3.weight": (16, 32),
                "body.3.bias": (16,),
                "head.weight": (1, 16),
                "head.bias": (1,),
            },
        ),
        (
            "lstm",
            {
                "cell.weight_ih_l0": (128, 2 * F),
                "cell.weight_hh_l0": (128, 32),
                "cell.bias_ih_l0": (128,),
                "cell.bias_hh_l0": (128,),
                "head.weight": (1, 32),
                "head.bias": (1,),
            },
        ),
    ],
)
def test_weights_of_older_releases_fit(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    stored = make_network(name, window_bars=T, n_features=F, seed=1).state_dict()
    assert {key: tuple(value.shape) for key, value in stored.items()} == shapes


def test_members_are_their_own_in_training_and_their_mean_in_evaluation() -> None:
    torch.manual_seed(3)
    network = drawn(TabM(T, F, members=4, dropout=0.0))
    x, mask = batch_of()
    mean = network(x, mask)
    members = network.train()(x, mask)
    assert members.shape == (B, 4)
    assert members.std(dim=1).min() > 0
    torch.testing.assert_close(members.mean(dim=1), mean)
    shared = sum(value.numel() for name, value in network.named_parameters() if "shared" in name)
    single = sum(value.numel() for value in TabM(T, F, members=1).parameters())
    assert sum(value.numel() for value in network.parameters()) == shared + 4 * (single - shared)


def test_layer_of_members_is_the_same_for_one_input_and_for_copies_of_it() -> None:
    layer = drawn(AdaptedLinear(6, 4, 3, has_random_signs=True))
    assert isinstance(layer, AdaptedLinear)
    state = torch.randn((5, 6), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.shared_input(state), layer(state[:, None].expand(-1, 3, -1)))


def test_attention_equals_that_of_torch() -> None:
    """torch.nn.functional.scaled_dot_product_attention, to rounding of float32."""
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn((B, 2, 6, 8), generator=draw) for _ in range(3))
    attended = torch.rand((B, 6), generator=draw) < 0.5
    attended[:, -1] = True
    expected = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attended[:, None, None]
    )
    torch.testing.assert_close(masked_attention(query, key, value, attended), expected, rtol=0, atol=1e-6)


def test_patches_without_data_are_not_attended_to() -> None:
    """Whatever the oldest patches would say, a window that lacks them predicts the same."""
    network = drawn(WindowTransformer(T, F, patch_bars=4))
    assert isinstance(network, WindowTransformer)
    x, mask = batch_of()
    x[:, :6], mask[:, :6] = 0.0, 0.0  # the window of 10 is padded to 12: the first two patches of three
    before = network(x, mask)
    garbage = 10 * torch.randn(network.position[:2].shape, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        network.position[:2] += garbage
    assert torch.equal(network(x, mask), before)
    whole_x, whole_mask = batch_of()
    moved = network(whole_x, whole_mask)
    with torch.no_grad():
        network.position[:2] -= garbage
    assert not torch.allclose(network(whole_x, whole_mask), moved)


def test_network_with_one_output_refuses_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(nn.Module):
        def __init__(self, window_bars: int, n_features: int) -> None:
            super().__init__()
            self.head = nn.Linear(window_bars * n_features, 1)

    monkeypatch.setattr(registry, "networks", lambda: {"bare": Bare})
    assert isinstance(make_network("bare", window_bars=T, n_features=F, seed=1), Bare)
    with pytest.raises(SettingsError, match=r"'bare' has one output, and the loss needs 3.*outputs"):
        make_network("bare", window_bars=T, n_features=F, seed=1, outputs=3)
