"""Pipeline schedules of torch run unchanged on a fake process group, whichever rank is looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.testing._internal.distributed.fake_pg import FakeStore

import fastfake
from fastfake import FakeTensorMode
from fastfake.memory import Category, Timeline, track

RANKS = 4
MICROBATCHES = 8
WIDTH = 256


def steps(schedule_class: type, rank: int) -> Timeline:
    """Take two steps of one rank and give what they allocated."""
    # Whether all ranks know their shapes is asked over the group: they do.
    with fastfake.pretend(count=RANKS), FakeTensorMode(known_values=True, unknown_items=1):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=RANKS)
        try:
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
            model = nn.Sequential(nn.Linear(WIDTH, WIDTH, device=device), nn.Sigmoid())
            stage = PipelineStage(
                model,
                rank,
                RANKS,
                device,
                input_args=(torch.empty(1, WIDTH, device=device, requires_grad=rank > 0),),
                output_args=(torch.empty(1, WIDTH, device=device, requires_grad=True),),
            )
            schedule = schedule_class(stage, MICROBATCHES, loss_fn=lambda out, target: (out - target).square().sum())
            optimizer = torch.optim.Adam(model.parameters())
            batch = torch.empty(MICROBATCHES, WIDTH, device=device)
            with track(model, optimizer, batch) as tracker:
                for _ in range(2):
                    if rank == 0:
                        schedule.step(batch)
                    elif rank == RANKS - 1:
                        schedule.step(target=batch, losses=[])
                    else:
                        schedule.step()
                    optimizer.step()
                    optimizer.zero_grad()
        finally:
            torch.distributed.destroy_process_group()
    return tracker.timeline


def most_alive(timeline: Timeline, operator: str) -> int:
    """Give how many results of an operator are alive at the same time."""
    made = [a for a in timeline.allocations if a.operator == operator]
    return max(sum(b.born <= a.born and (b.died is None or b.died > a.born) for b in made) for a in made)


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_keeps_as_many_microbatches_as_its_schedule_says(rank: int) -> None:
    all_at_once, one_by_one = steps(ScheduleGPipe, rank), steps(Schedule1F1B, rank)
    # One forward and one backward pass in turn, after as many forward ones as there are ranks to come.
    assert most_alive(all_at_once, "aten::sigmoid") == MICROBATCHES
    # The last one keeps what it gives, for who asked for it.
    assert most_alive(one_by_one, "aten::sigmoid") == (RANKS - rank if rank < RANKS - 1 else MICROBATCHES)
    for timeline in (all_at_once, one_by_one):
        assert timeline.main_device() == f"cuda:{rank}"
        parameters = 4 * (WIDTH * WIDTH + WIDTH)
        peak = timeline.peak().by("category")
        assert peak[Category.PARAMETER.value] == parameters
        assert peak[Category.GRADIENT.value] == parameters
