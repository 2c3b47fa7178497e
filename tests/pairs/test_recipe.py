"""The second paper's experiments as configs."""

from __future__ import annotations

import pytest

from minmax_jax.config import resolve_variant
from minmax_jax.pairs import recipe


def test_the_settings_of_the_paper():
    config = recipe.paper_config("voc12")
    assert set(config.variants) == {"vgg19", "resnet101"}
    assert (config.train.batch_size, config.train.plateau_factor) == (24, 0.5)
    assert config.train.plateau_patience == 5 and not config.train.restore
    assert [dict(stage) for stage in config.train.stages] == [
        {"epochs": 200, "learning_rate": 1e-4, "unfrozen": 1.0}
    ]
    pairs = config.pairs
    assert (pairs.learning_rate, pairs.accuracy, pairs.max_epochs) == (1e-4, 0.95, 10)
    assert (pairs.num_clusters, pairs.min_size, config.evaluate.threshold) == (4, 4, 0.15)
    # Rows of Table 2, but for the baseline.
    assert len(pairs.modes) == 7


@pytest.mark.parametrize("data_set", ["voc12", "coco17"])
@pytest.mark.parametrize("variant", recipe.VARIANTS)
def test_every_variant_has_its_weights_and_a_similarity(data_set, variant):
    config = recipe.paper_config(data_set, variant)
    own = resolve_variant(config, variant)
    assert own.network.weights == f"weights/{recipe.WEIGHTS[own.network.name]}"
    assert variant.startswith(own.network.name)
    if own.pairs.modes:
        assert own.pairs.similarity_from == "vgg19" and "vgg19" in config.variants
    else:
        assert list(config.variants) == [variant]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("voc07",), "unknown data set 'voc07'; data sets: voc12, coco17"),
        (("voc12", "vgg16"), "unknown variant 'vgg16'; variants: vgg19, resnet18"),
    ],
)
def test_unknown_names_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe.paper_config(*arguments)
