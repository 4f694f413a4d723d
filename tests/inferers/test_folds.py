"""Each image by the network of its fold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.folds import OutOfFoldInferer, PrepareFold
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.baselines import Baseline
from icmoe_monai.networks.folds import FoldEnsemble


def ensemble() -> FoldEnsemble:
    torch.manual_seed(0)
    return FoldEnsemble([Baseline(network=nn.Conv2d(3, 1, 1), out_channels=1) for _ in range(3)]).requires_grad_(False)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_an_image_is_segmented_by_the_network_of_its_fold_alone(fold):
    network, image = ensemble(), torch.randn(1, 3, 40, 30)
    batch = {"image": image, "label": torch.zeros(1, 1, 40, 30), "fold": torch.tensor([fold]), "name": ["a"]}
    inputs, _, further, named = PrepareFold()(batch, device="cpu")
    arguments = {"roi_size": 32, "with_experts": True}
    found = OutOfFoldInferer(**arguments)(inputs, network, *further, **named)
    alone = SlidingWindowVotingInferer(**arguments)(image, network.folds[fold - 1])
    assert torch.equal(found, alone)


@pytest.mark.parametrize("fold", [[0], [4], [1, 2], []])
def test_a_fold_that_is_not_there_is_refused(fold):
    with pytest.raises(InputError, match="The images of a batch are of one fold, 1 to 3"):
        OutOfFoldInferer(roi_size=32)(torch.zeros(1, 3, 32, 32), ensemble(), fold=torch.tensor(fold))


def test_one_network_has_no_folds():
    with pytest.raises(InputError, match="Only an ensemble of folds"):
        OutOfFoldInferer(roi_size=32)(torch.zeros(1, 3, 32, 32), ensemble().folds[0], fold=torch.tensor([1]))
