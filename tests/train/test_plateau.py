"""The rules that an epoch's validation loss sets off."""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from minmax_jax.train.plateau import Plateau
from minmax_jax.train.stages import frozen_layers


def follow(losses, patience, factor):
    """The rules as sentences: scale, restores and epochs since the best, after each epoch."""
    rows, best, scale, waited, since = [], None, 1.0, 0, 0
    for loss in losses:
        restore = False
        if best is None or loss < best:
            best, waited, since = loss, 0, 0
        else:
            waited, since = waited + 1, since + 1
            if waited == patience:
                scale, waited, restore = scale * factor, 0, True
        rows.append((best, scale, since, restore))
    return rows


@hypothesis.settings(deadline=None)
@hypothesis.given(
    losses=st.lists(st.floats(0, 1), min_size=1, max_size=20), patience=st.integers(1, 4)
)
def test_plateau_follows_the_rules(losses, patience):
    plateau = Plateau()
    for loss, expected in zip(losses, follow(losses, patience, 0.5), strict=True):
        plateau, improved, restore = plateau.update(loss, patience=patience, factor=0.5)
        assert (plateau.best_loss, plateau.scale, plateau.since_best, restore) == expected
        assert improved == (plateau.since_best == 0)
        # What a checkpoint holds of it comes back as it was.
        assert Plateau(**json.loads(json.dumps(vars(plateau)))) == plateau


def test_next_stage_keeps_only_the_best_loss():
    plateau = Plateau(best_loss=0.3, since_best=7, since_drop=2, scale=0.25)
    assert plateau.next_stage() == Plateau(best_loss=0.3)


@pytest.mark.parametrize(
    ("unfrozen", "frozen"), [(0.0, "abcd"), (0.2, "abcd"), (0.6, "ab"), (1.0, "")]
)
def test_frozen_layers_are_the_lower_ones(unfrozen, frozen):
    assert frozen_layers(tuple("abcde"), unfrozen) == set(frozen)


@pytest.mark.parametrize("unfrozen", [-0.1, 1.5])
def test_frozen_layers_rejects_what_is_no_fraction(unfrozen):
    with pytest.raises(ValueError, match="fraction"):
        frozen_layers(("a",), unfrozen)
