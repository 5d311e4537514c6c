"""The orders of batches: what is drawn, by whom, and how often."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler

from vitlit.data.batch import Order
from vitlit.data.sampler import EvalOrder, LateLoader, TrainOrder
from vitlit.errors import InputError


def train(
    size: int, batch_size: int = 4, *, seed: int = 0, rank: int = 0, world: int = 1, epoch: int = 0
) -> TrainOrder:
    order = TrainOrder(size, batch_size=batch_size, seed=seed, rank=rank, world=world)
    order.set_epoch(epoch)
    return order


def drawn(order: TrainOrder) -> list[list[int]]:
    """Indices, batch by batch."""
    return [batch.indices.tolist() for batch in order]


def flat(order: TrainOrder) -> list[int]:
    return [index for batch in drawn(order) for index in batch]


class Orders(Dataset[Order]):
    """Gives the orders themselves."""

    def __getitem__(self, order: Order) -> Order:
        return order


# -- training ---------------------------------------------------------------------------------


def test_an_epoch_draws_each_sample_once_when_batches_come_out_even() -> None:
    assert sorted(flat(train(24))) == list(range(24))


@pytest.mark.parametrize(("size", "world", "batches"), [(27, 1, 6), (27, 2, 3), (31, 3, 2)])
def test_the_incomplete_last_global_batch_is_left_out(size: int, world: int, batches: int) -> None:
    orders = [drawn(train(size, rank=rank, world=world)) for rank in range(world)]
    indices = [index for order in orders for batch in order for index in batch]
    assert [len(order) for order in orders] == [batches] * world
    assert len(set(indices)) == len(indices) == batches * world * 4


@pytest.mark.parametrize("world", [1, 2])
def test_shards_are_mixed_a_few_at_a_time(world: int) -> None:
    """Each window of an epoch is whole before the next begins, in an order of its own."""
    shards = torch.arange(12).repeat_interleave(5)
    how = {"batch_size": 60 // world, "seed": 0, "world": world}
    epochs = []
    for epoch in range(2):
        orders = [TrainOrder(60, **how, rank=r, shards=shards, window=4) for r in range(world)]
        for order in orders:
            order.set_epoch(epoch)
        epochs.append([index for order in orders for index in flat(order)])
    for order in epochs:
        assert sorted(order) == list(range(60))
        windows = [{index // 5 for index in order[i : i + 20]} for i in (0, 20, 40)]
        assert [len(window) for window in windows] == [4, 4, 4]
        within = [index // 5 for index in order[:20]]
        assert max(len({*within[i : i + 5]}) for i in range(15)) > 2  # mixed, not one by one
    assert {index // 5 for index in epochs[0][:20]} != {index // 5 for index in epochs[1][:20]}


def test_a_window_of_all_shards_is_the_order_of_any_set() -> None:
    shards = torch.arange(12).repeat_interleave(5)
    how = {"batch_size": 4, "seed": 3, "rank": 0, "world": 1}
    assert drawn(TrainOrder(60, **how, shards=shards, window=12)) == drawn(TrainOrder(60, **how))


def test_length_is_the_number_of_batches() -> None:
    assert len(train(27, world=2)) == len(list(train(27, world=2))) == 3


def test_two_processes_together_draw_the_batches_of_one() -> None:
    ranks = zip(*(drawn(train(61, 4, rank=rank, world=2)) for rank in range(2)), strict=True)
    assert [first + second for first, second in ranks] == drawn(train(61, 8))


def test_the_order_is_the_same_for_the_same_seed_and_epoch() -> None:
    assert drawn(train(61, seed=3, epoch=2)) == drawn(train(61, seed=3, epoch=2))


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_is_another_order(change: dict[str, int]) -> None:
    assert drawn(train(61, **change)) != drawn(train(61))


def test_an_order_is_shuffled_evenly() -> None:
    first = torch.tensor([flat(train(4, epoch=epoch))[0] for epoch in range(2000)])
    shares = first.bincount(minlength=4) / 2000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.04)


def test_a_set_smaller_than_a_global_batch_is_drawn_again_from_the_start() -> None:
    (batch,) = drawn(train(3, 8))
    assert sorted(batch[:3]) == [0, 1, 2]
    assert batch == (batch[:3] * 3)[:8]


def test_a_set_smaller_than_a_global_batch_gives_every_process_a_batch() -> None:
    assert [len(*drawn(train(3, rank=rank, world=2))) for rank in range(2)] == [4, 4]


def test_every_row_of_a_training_batch_counts() -> None:
    assert all(batch.valid.tolist() == [True] * 4 for batch in train(3))


def test_batches_know_their_epoch() -> None:
    assert {batch.epoch for batch in train(24, epoch=5)} == {5}


def test_no_two_batches_share_a_key() -> None:
    addresses = [(rank, epoch) for rank in range(2) for epoch in range(3)]
    orders = [train(24, rank=rank, world=2, epoch=epoch) for rank, epoch in addresses]
    keys = [batch.key for order in orders for batch in order]
    assert len(set(keys)) == len(keys) == 2 * 3 * 3


# -- evaluation -------------------------------------------------------------------------------

SIZES = pytest.mark.parametrize("size", [1, 5, 61, 62, 63])
WORLDS = pytest.mark.parametrize("world", [1, 2, 3])


def evaluation(size: int, world: int, *, mixed: bool = False) -> list[EvalOrder]:
    how: dict[str, Any] = {"batch_size": 4, "world": world, "mixed": mixed}
    return [EvalOrder(size, rank=rank, **how) for rank in range(world)]


@SIZES
@WORLDS
@pytest.mark.parametrize("mixed", [False, True])
def test_evaluation_counts_every_sample_once(size: int, world: int, mixed: bool) -> None:
    batches = [batch for order in evaluation(size, world, mixed=mixed) for batch in order]
    counted = torch.cat([batch.indices[batch.valid] for batch in batches])
    assert sorted(counted.tolist()) == list(range(size))


@SIZES
@WORLDS
def test_all_processes_evaluate_batches_of_equal_sizes(size: int, world: int) -> None:
    sizes = [[len(batch.indices) for batch in order] for order in evaluation(size, world)]
    assert sizes == [sizes[0]] * world


@SIZES
@WORLDS
def test_the_length_of_an_evaluation_is_its_number_of_batches(size: int, world: int) -> None:
    orders = evaluation(size, world)
    assert [len(order) for order in orders] == [len(list(order)) for order in orders]


@SIZES
@WORLDS
def test_rows_that_do_not_count_still_name_a_sample(size: int, world: int) -> None:
    batches = [batch for order in evaluation(size, world) for batch in order]
    assert all(0 <= index < size for batch in batches for index in batch.indices.tolist())


def test_one_process_evaluates_in_order() -> None:
    (order,) = evaluation(10, 1)
    assert [batch.indices.tolist() for batch in order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("batches", [1, 3, 10])
def test_the_first_mixed_batches_are_a_fair_sample(batches: int) -> None:
    """Sorted by class, 100 images each; one process and two take the same ones."""
    labels = torch.arange(1000) // 100
    taken = []
    for world, each in ((1, 2 * batches), (2, batches)):
        orders = evaluation(1000, world, mixed=True)
        firsts = [batch.indices for order in orders for batch in list(order)[:each]]
        taken.append(sorted(torch.cat(firsts).tolist()))
    assert taken[0] == taken[1]
    classes = labels[taken[0]].unique()
    # Drawn n times at random from ten classes: 10 (1 - 0.9^n) classes are expected.
    expected = 10 * (1 - 0.9 ** len(taken[0]))
    assert len(classes) >= 0.7 * expected


@pytest.mark.parametrize("order", [train(8), EvalOrder(8, batch_size=4, rank=0, world=1)])
def test_lightning_leaves_the_orders_alone(order: TrainOrder | EvalOrder) -> None:
    assert isinstance(order, DistributedSampler)  # the kind that Lightning never replaces


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_takes_the_first_order_when_the_first_batch_is_asked_for(workers: int) -> None:
    order = train(24)
    loader = LateLoader(Orders(), sampler=order, batch_size=None, num_workers=workers)
    made_before = iter(loader)
    order.resume(epoch=3, batch=4)
    found = [(batch.epoch, batch.indices.tolist()) for batch in made_before]
    assert found == [(3, indices) for indices in drawn(train(24, epoch=3))[4:]]


# -- repeated augmentation --------------------------------------------------------------------


def repeated(
    size: int, batch_size: int, repeats: int, *, rank: int = 0, world: int = 1
) -> TrainOrder:
    return TrainOrder(size, batch_size=batch_size, seed=0, rank=rank, world=world, repeats=repeats)


def test_a_batch_holds_copies_of_fewer_images_and_an_epoch_as_many_batches() -> None:
    order = repeated(25, 6, 3)
    batches = list(order)
    assert len(batches) == len(order) == len(train(25, 6))
    for batch in batches:
        first, *others = batch.indices.view(3, 2).tolist()
        assert others == [first, first]
        assert batch.copies is not None
        assert batch.copies.tolist() == [0, 0, 1, 1, 2, 2]
    seen = [index for batch in batches for index in batch.indices[:2].tolist()]
    assert len(set(seen)) == len(seen) == 8


def test_the_copies_of_an_image_are_drawn_apart_and_the_first_as_without_copies() -> None:
    (batch, *_) = repeated(25, 6, 3)
    assert len(batch.drawn.unique()) == 6
    assert torch.equal(batch.drawn[:2], batch.indices[:2])
    (plain, *_) = repeated(25, 6, 1)
    assert plain.copies is None
    assert plain.drawn is plain.indices


def test_two_processes_together_draw_the_copies_of_one() -> None:
    ranks = [list(repeated(40, 4, 2, rank=rank, world=2)) for rank in range(2)]
    for whole, *parts in zip(repeated(40, 8, 2), *ranks, strict=True):
        together = torch.cat([part.drawn for part in parts])
        assert sorted(together.tolist()) == sorted(whole.drawn.tolist())


def test_a_resumed_epoch_goes_on_with_the_same_copies() -> None:
    whole, order = list(repeated(40, 4, 2)), repeated(40, 4, 2)
    order.resume(epoch=0, batch=3)
    assert [batch.drawn.tolist() for batch in order] == [b.drawn.tolist() for b in whole[3:]]


def test_copies_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(InputError, match="repeated_augment 4 does not divide batch_size 6; give 4"):
        repeated(40, 6, 4)
