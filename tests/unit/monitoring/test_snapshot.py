"""Copies lie in one block that is kept, whatever a few tensors do."""

from typing import Any

import pytest
import torch

from monitoring.checkpoints.copies.snapshot import Snapshot

WEIGHT = torch.randn(300, 300)


def taken(snapshot: Snapshot, state: dict[str, Any]) -> dict[str, Any]:
    tree = snapshot.take(state)
    snapshot.wait()
    assert tree.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(tree[name], tensor)
        assert tree[name].data_ptr() != tensor.data_ptr() or not tensor.numel()
    return tree


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each block was made for."""
    made: list[int] = []
    allocate = Snapshot._allocate

    def watched(self: Snapshot, sources: list[torch.Tensor]) -> None:
        made.append(len(sources))
        allocate(self, sources)

    monkeypatch.setattr(Snapshot, "_allocate", watched)
    return made


def test_a_tensor_that_grows_from_save_to_save_leaves_the_block_as_it_is(blocks: list[int]) -> None:
    snapshot = Snapshot()
    places = {
        taken(snapshot, {"queue": torch.arange(size), "weight": WEIGHT})["weight"].data_ptr()
        for size in range(0, 2000, 100)
    }
    assert len(places) == 1
    assert blocks == [2]


def test_tensors_that_come_and_go_leave_the_block_as_it_is(blocks: list[int]) -> None:
    snapshot = Snapshot()
    for number in (3, 1, 0, 2, 4):
        before = {f"batch {n}": torch.full((7,), float(n)) for n in range(number)}
        taken(snapshot, {**before, "weight": WEIGHT, "last": torch.ones(7)})
    assert len(blocks) <= 2


def test_a_new_tensor_that_stays_gets_a_place_in_the_block(blocks: list[int]) -> None:
    snapshot = Snapshot()
    state = {"weight": WEIGHT}
    for more in ({}, {"average": torch.randn(100)}):
        state |= more
        for _ in range(3):
            taken(snapshot, state)
    assert blocks == [1, 2]


def test_many_new_tensors_get_a_block_at_once(blocks: list[int]) -> None:
    snapshot = Snapshot()
    taken(snapshot, {"weight": WEIGHT})
    taken(snapshot, {"weight": WEIGHT, "first": WEIGHT + 1, "second": WEIGHT + 2})
    assert blocks == [1, 3]


def test_tensors_at_one_address_are_one_only_when_they_are_alike() -> None:
    snapshot = Snapshot()
    for state in (
        {"a": WEIGHT, "b": WEIGHT, "turned": WEIGHT.T, "part": WEIGHT[:2], "none": WEIGHT[:0]},
        {"a": WEIGHT, "b": WEIGHT + 1, "turned": WEIGHT.T, "part": WEIGHT[:2], "none": WEIGHT[:0]},
    ):
        for _ in range(2):
            tree = taken(snapshot, state)
            tied = tree["a"].data_ptr() == tree["b"].data_ptr()
            assert tied == (state["a"] is state["b"])
