"""k-means of many tasks at once."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans

from graphfsl.functional.kmeans import kmeans


def blobs(clusters: int, each: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples (1, n, 5) around far means, in random order, and the mean of each."""
    g = torch.Generator().manual_seed(seed)
    means = 6 * torch.randn(clusters, 5, generator=g, dtype=torch.float64)
    of = torch.arange(clusters).repeat_interleave(each)[
        torch.randperm(clusters * each, generator=g)
    ]
    x = means[of] + 0.3 * torch.randn(len(of), 5, generator=g, dtype=torch.float64)
    return x[None], of


def test_it_finds_what_scikit_learn_finds() -> None:
    x, of = blobs(4)
    found = kmeans(x, torch.ones(1, 40, dtype=torch.bool), torch.tensor([4]), 4)[0]
    reference = torch.from_numpy(KMeans(4, n_init=10, random_state=0).fit_predict(x[0].numpy()))
    same = found[:, None] == found
    assert torch.equal(same, reference[:, None] == reference) and torch.equal(
        same, of[:, None] == of
    )


def test_inertia_is_not_above_that_of_random_starts() -> None:
    """Where clusters overlap, too."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(1, 80, 4, generator=g, dtype=torch.float64)
    found = kmeans(x, torch.ones(1, 80, dtype=torch.bool), torch.tensor([9]), 9, 100)[0]
    means = torch.stack([x[0, found == c].mean(0) for c in range(9)])
    own = (x[0] - means[found]).square().sum()
    runs = [KMeans(9, n_init=1, random_state=s).fit(x[0].numpy()).inertia_ for s in range(20)]
    assert own <= sorted(runs)[15]


def test_each_task_has_clusters_of_its_own_and_padding_no_part() -> None:
    x, _ = blobs(3)
    y, _ = blobs(5, 6, seed=1)
    both = torch.cat([x, y])
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, 25:] = False
    found = kmeans(both.masked_fill(~mask[..., None], 99.0), mask, torch.tensor([3, 5]), 5)
    alone = kmeans(x[:, :25], mask[:1, :25], torch.tensor([3]), 3)
    assert torch.equal(found[0, :25], alone[0]) and found[0, :25].max() == 2
    assert len(found[1].unique()) == 5
