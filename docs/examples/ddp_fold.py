"""Train one network on one fold by several processes: DistributedDataParallel, started by torchrun.

    python docs/examples/ddp_fold.py HOME NIGHT
    torchrun --standalone --nproc-per-node 2 docs/examples/ddp_fold.py HOME NIGHT

Each process trains its share of the night's own batches: rows rank, rank + world, ... of each. Gradients are averaged,
so weights and losses are those of one process, but for rounding.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tickwalk


class Recurrent(nn.Module):
    """A GRU over the window, and a linear head."""

    def __init__(self, features: int, width: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * features, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, window: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(torch.cat((window, mask.to(window.dtype)), dim=-1))
        return self.head(states[:, -1]).squeeze(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("night")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()

    is_cuda = torch.cuda.is_available()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if is_cuda else torch.device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)  # equal first weights in all processes
    with tickwalk.open(options.home) as home:
        fold = home.night(options.night).fold(options.fold)
        train, valid = fold.dataset("train"), fold.dataset("valid")
    model: nn.Module = Recurrent(train[0][0].shape[1]).to(device)
    if world > 1:
        dist.init_process_group("nccl" if is_cuda else "gloo")
        model = DistributedDataParallel(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_of(window, mask, label, weight):
        values = nn.functional.huber_loss(model(window, mask), label, reduction="none")
        return (weight * values).sum()

    batches = train.batches(seed=0, batch=options.batch)
    for epoch in range(options.epochs):
        began_s, total, count = time.perf_counter(), torch.zeros((), device=device), 0
        for places in batches:
            own = torch.as_tensor(places)[rank::world]
            loss = loss_of(*(part.to(device) for part in train.batch(own)))
            optimiser.zero_grad()
            # DDP divides by the number of processes; the loss is the mean over the whole batch.
            (loss * world / len(places)).backward()
            optimiser.step()
            total, count = total + loss.detach(), count + len(places)
        if world > 1:
            dist.all_reduce(total)
        seconds = time.perf_counter() - began_s
        with torch.no_grad():
            of_valid = loss_of(*(part.to(device) for part in valid.batch(torch.arange(len(valid)))))
        if rank == 0:
            print(
                f"{world} process(es), epoch {epoch}: train loss {float(total) / count:.6f}, "
                f"valid loss {float(of_valid) / len(valid):.6f}, {count / seconds:,.0f} samples/s, {seconds:.1f} s"
            )
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
