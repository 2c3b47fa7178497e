from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from minmax_jax import create_network, parallel
from minmax_jax.pairs.files import read_pair, write_pair
from minmax_jax.pairs.maps import PairMaps
from tests import toys
from tests.pairs import toy

PHOTOS = toy.photos(4)
LABEL, OTHERS = 2, [0, 3, 1]  # of the first and the last the class is the second unit
START = toy.variables(2, seed=1)
TRAINED = {
    "all": None,
    "some": ("second", "head"),
    "head": ("head",),
}


@functools.cache
def pair_maps(kind, *, multi=True, layers=True, mesh=None):
    trained = TRAINED[kind]
    read = toy.read() if trained is None else toy.read(trained)
    return PairMaps(
        toy.network(), START, read, trained=trained, multi=multi, layers=layers, mesh=mesh
    )


def expected(kind, label, other):
    """Maps of all photos: `(b t H W)`, `(b H W)` and the logits `(b,)`."""
    trained = TRAINED[kind] or ("first", "second", "head")
    variables = toy.pair_variables(label, other, trained=trained, start=START)
    unit = 0 if label < other else 1
    found = [toy.expected_maps(variables, photo, unit) for photo in PHOTOS]
    layers, multi, logits = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return layers, multi, logits[:, unit]


@pytest.mark.parametrize("kind", TRAINED)
def test_maps_of_every_pair(kind):
    maps = pair_maps(kind)(LABEL, OTHERS)(PHOTOS)
    assert maps.last.shape == maps.multi.shape == (3, 4, *toys.SIZE)
    assert maps.layers.shape == (3, 4, 2, *toys.SIZE)
    for index, other in enumerate(OTHERS):
        layers, multi, logits = expected(kind, LABEL, other)
        assert multi[1:].max() == 1  # otherwise nothing is compared
        np.testing.assert_allclose(maps.layers[index], layers, atol=2e-5)
        np.testing.assert_allclose(maps.last[index], layers[:, -1], atol=2e-5)
        np.testing.assert_allclose(maps.multi[index], multi, atol=1e-4)
        np.testing.assert_allclose(maps.logits[index], logits, rtol=1e-4, atol=1e-5)


def test_classifiers_of_files(tmp_path):
    own = toy.read()
    for other in OTHERS:
        write_pair(tmp_path, LABEL, other, own(LABEL, other))
    explainer = PairMaps(toy.network(), START, functools.partial(read_pair, tmp_path), layers=True)
    found, wanted = explainer(LABEL, OTHERS)(PHOTOS), pair_maps("all")(LABEL, OTHERS)(PHOTOS)
    for first, second in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["all", "head"])
def test_the_last_layer_alone(kind):
    maps = pair_maps(kind, multi=False, layers=False)(LABEL, OTHERS)(PHOTOS)
    assert maps.multi is maps.layers is None
    for index, other in enumerate(OTHERS):
        np.testing.assert_allclose(
            maps.last[index], expected(kind, LABEL, other)[0][:, -1], atol=2e-5
        )


@pytest.mark.parametrize("kind", ["all", "head"])
def test_a_class_named_twice(kind):
    maps = pair_maps(kind)(LABEL, [3, 0, 0])(PHOTOS)
    np.testing.assert_allclose(maps.multi[1], maps.multi[2], atol=1e-6)
    np.testing.assert_allclose(maps.multi[2], expected(kind, LABEL, 0)[1], atol=1e-4)


@pytest.mark.parametrize("kind", ["all", "head"])
def test_all_classes_run_in_one_program(kind):
    explainer = pair_maps(kind)
    jax.block_until_ready(explainer(0, [1, 2, 3])(PHOTOS))
    with toys.count_compilations() as compiled:
        jax.block_until_ready(explainer(3, [2, 0, 1])(PHOTOS))
    assert compiled == []


@pytest.mark.parametrize("kind", ["all", "head"])
def test_eight_devices_equal_one(kind):
    photos = toy.photos(8)
    one, eight = (
        pair_maps(kind, multi=False, layers=False, mesh=mesh)(LABEL, OTHERS)(photos)
        for mesh in (None, parallel.make_mesh())
    )
    assert len(eight.last.sharding.device_set) == 8
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_shared_backbone_costs_about_one_forward_pass():
    """By XLA's count of operations: four heads, without multi-layer maps."""
    network = create_network("scenes_resnet", num_labels=2)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    photos = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
    explainer = PairMaps(network, {}, None, trained=("head",), multi=False)
    heads = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((4, *x.shape), x.dtype), variables["params"]["head"]
    )
    units = jax.ShapeDtypeStruct((4,), np.int32)
    shapes = {"network": variables, "heads": heads, "units": units}

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    images = jax.ShapeDtypeStruct(photos.shape, np.float32)
    forward = flops(
        lambda variables, images: network.apply(variables, images)[0], variables, images
    )
    assert 1 <= flops(explainer._maps_fn, shapes, photos) / forward < 1.2


def test_the_class_itself_and_no_class():
    for others in ([], [1, 2]):
        with pytest.raises(ValueError, match=r"class 2 must be compared with other classes"):
            pair_maps("all")(2, others)


def test_networks_that_do_not_do():
    with pytest.raises(ValueError, match="no preprocess, which photos need"):
        PairMaps(toy.network(preprocess=None), START, toy.read())
    with pytest.raises(ValueError, match="cannot share a backbone"):
        PairMaps(toy.network(head_apply=None), START, toy.read(), trained=("head",))
