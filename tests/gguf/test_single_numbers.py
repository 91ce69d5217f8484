"""Tensors of one number that become metadata."""

from collections.abc import Callable

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.tiny_repositories.repository import Weights
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import edited_weights

ALPHA = "model.layers.1.mlp.act_fn.alpha_p"


def _two_numbers(weights: Weights) -> None:
    weights.tensors[ALPHA] = np.ones(2, np.float32)


def _infinite(weights: Weights) -> None:
    weights.tensors[ALPHA] = np.full(1, np.inf, np.float32)


def _in_another_layer(weights: Weights) -> None:
    weights.tensors["model.layers.2.mlp.act_fn.alpha_p"] = weights.tensors[ALPHA]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda weights: weights.tensors.pop(ALPHA), f"the weights have no {ALPHA}"),
        (_two_numbers, rf"{ALPHA} is of the type BF16 and the shape \[2\]: not one number"),
        (_infinite, f"{ALPHA} is inf"),
        (_in_another_layer, r"'model\.layers\.2\.mlp\.act_fn\.alpha_p' is unknown"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(edit: Callable[[Weights], None], problem: str) -> None:
    with pytest.raises(CannotConvert, match=problem):
        plan(edited_weights("apertus", edit))
