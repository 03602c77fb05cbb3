"""Equal scores come out of a heap as they come out of a `std::priority_queue` of the GNU C++ library."""

import pytest
import torch

from maskgraft.ops.ties import popped

# scores, and the places that a C++ program printed as it took them from the queue that it had put them into
QUEUED = [
    ([4, 1, 1, 4, 2], [0, 3, 4, 1, 2]),
    ([1, 2, 1, 1, 4, 1, 4, 2], [4, 6, 1, 7, 2, 5, 0, 3]),
    ([2, 1, 4, 4, 1, 2, 1, 1, 2, 2, 1, 4], [2, 11, 3, 0, 5, 9, 8, 6, 10, 1, 4, 7]),
    (
        [4, 1, 4, 1, 2, 1, 4, 1, 4, 4, 1, 4, 2, 4, 2, 2, 1, 1, 2],
        [0, 2, 6, 13, 11, 8, 9, 14, 12, 4, 18, 15, 17, 16, 5, 7, 1, 10, 3],
    ),
    ([1] * 10, [0, 2, 6, 9, 8, 5, 7, 4, 1, 3]),
    ([], []),
]


@pytest.mark.parametrize(("scores", "taken"), QUEUED, ids=len)
def test_it_is_taken_out_as_in_c(scores: list[float], taken: list[int]) -> None:
    assert popped(torch.tensor(scores, dtype=torch.float32)).tolist() == taken


def test_scores_that_differ_come_in_order() -> None:
    scores = torch.rand(500, generator=torch.Generator().manual_seed(1))
    assert popped(scores).tolist() == scores.argsort(descending=True).tolist()


def test_the_first_of_them_are_the_first_of_all() -> None:
    scores = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(2)).float()
    every = popped(scores).tolist()
    assert every != scores.sort(descending=True, stable=True).indices.tolist()
    for most in (0, 1, 3, 50, 499, 900):
        assert popped(scores, most).tolist() == every[:most]
