from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel
from minmax_jax.methods import PAPER_METHODS, group_methods
from minmax_jax.pullback import LABEL_CHUNK
from tests import reference, toys

GRADIENT = ("grad_cam", "grad_cam_plus_plus", "minmax_grad_cam", "d_minmax_grad_cam")
KERNEL = ("cam", "minmax_cam", "d_minmax_cam")
ALL = KERNEL + GRADIENT + ("score_cam",)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def network():
    return toys.toy_network(apply=toys.CountingApply())


@pytest.fixture(scope="module")
def twins(variables, images):
    """What the network computes of each image, in float64."""
    twins = [toys.Toy64(variables, image) for image in images]
    assert [int((twin.logits > 0).sum()) for twin in twins] == [0, 3, 1, 0]
    assert np.abs([twin.logits for twin in twins]).min() > 0.01
    return twins


@pytest.fixture(scope="module")
def all_maps(network, variables, images):
    maps, logits = mj.make_explain_fn(network, ALL, mask_chunk=5)(variables, images)
    return jax.tree.map(np.asarray, maps), np.asarray(logits)


@pytest.mark.parametrize("method", ALL)
def test_maps_of_a_users_network(method, all_maps, twins):
    """All labels of all images: with none, one and three detected labels, and dead channels."""
    maps, logits = all_maps
    assert set(ALL) == set(PAPER_METHODS)
    assert maps[method].shape == (4, toys.NUM_LABELS, 4, 6)
    assert maps[method].dtype == logits.dtype == np.float32
    np.testing.assert_allclose(logits, [twin.logits for twin in twins], **CLOSE)
    live = 0
    for b, twin in enumerate(twins):
        for label in range(toys.NUM_LABELS):
            expected = twin.map(method, twin.logits > 0, label)
            np.testing.assert_allclose(maps[method][b, label], expected, **CLOSE)
            live += expected.max() > 0
    assert live >= 5


@pytest.mark.parametrize("tap", ["early", "late"])
def test_maps_at_any_tap_of_any_head(tap, variables, images):
    """A head that is not linear; gradients that differ from cell to cell; labels given."""
    network = toys.bent_network()
    present = np.array([[0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]], bool)
    methods = (*GRADIENT, "score_cam")
    explain_fn = mj.make_explain_fn(network, methods, tap=tap)
    maps, _ = explain_fn(variables, images, present)
    for b, image in enumerate(images):
        twin = toys.Toy64(variables, image, bent=True)
        for label in range(toys.NUM_LABELS):
            for method in methods:
                expected = twin.map(method, present[b], label, tap=tap)
                np.testing.assert_allclose(maps[method][b, label], expected, **CLOSE)
    assert np.ptp(toys.Toy64(variables, images[1], bent=True).gradients[tap], axis=(1, 2)).max() > 0


def test_explain_is_one_method_of_the_function(network, variables, images, all_maps, twins):
    default, logits = mj.explain(network, variables, images)
    np.testing.assert_allclose(default, all_maps[0]["minmax_cam"], **CLOSE)
    np.testing.assert_allclose(logits, all_maps[1], **CLOSE)
    present = np.ones((4, toys.NUM_LABELS), bool)
    overridden, _ = mj.explain(network, variables, images, present=present)
    np.testing.assert_allclose(overridden[2, 1], twins[2].map("minmax_cam", present[2], 1), **CLOSE)
    assert np.abs(overridden[2, 1] - default[2, 1]).max() > 0.01


@pytest.mark.parametrize("count", [0, 1])
def test_with_at_most_one_present_label_minmax_is_cam(count, network, variables):
    """In both forms, for the present label (and for all labels where there is none).

    Exactly: with weights and pixels of few bits no sum rounds, in whatever order XLA makes it.
    """

    def few_bits(x):
        return np.round(4 * x).astype(np.float32) / 4

    variables = jax.tree.map(few_bits, variables)
    images = few_bits(toys.toy_images(4)[1:, :, :8])  # 16 cells: their mean is exact
    present = np.zeros((3, toys.NUM_LABELS), bool)
    present[np.arange(3), np.arange(3)] = bool(count)
    methods = [name for name in ALL if name != "score_cam"]
    maps, _ = mj.make_explain_fn(network, methods)(variables, images, present)
    for b in range(3):
        labels = [b] if count else range(toys.NUM_LABELS)
        for label in labels:
            for form in ("cam", "grad_cam"):
                plain = np.asarray(maps[form])[b, label]
                np.testing.assert_array_equal(maps[f"minmax_{form}"][b, label], plain)
                if count:
                    np.testing.assert_array_equal(maps[f"d_minmax_{form}"][b, label], plain)
    assert np.asarray(maps["cam"]).max(axis=(2, 3)).all(axis=1).any()


@pytest.mark.parametrize("form", ["cam", "minmax_cam", "d_minmax_cam"])
def test_gradient_form_is_the_cam_form_of_a_linear_head(form, all_maps):
    """After normalisation; D-MinMax too, as the gradient is the same in every cell."""
    gradient_form = all_maps[0][form.replace("cam", "grad_cam")]
    np.testing.assert_allclose(
        mj.normalize_maps(gradient_form), mj.normalize_maps(all_maps[0][form]), atol=1e-5
    )


def test_no_label_no_signal_no_nan(network, variables):
    """Blank images, one label only, probabilities that underflow."""
    blank = np.zeros((4, *toys.SIZE, 3), np.float32)
    explain_fn = mj.make_explain_fn(network, ALL, mask_chunk=5)
    maps, _ = explain_fn(variables, blank)
    for name in ALL:
        np.testing.assert_array_equal(maps[name], np.zeros((4, toys.NUM_LABELS, 4, 6)))
        assert np.isfinite(mj.normalize_maps(maps[name])).all()
    single = toys.toy_variables(num_labels=1)
    single |= {"bias": np.full(1, -200, np.float32), "kernel": np.abs(single["kernel"])}
    images = toys.toy_images(2)
    maps, logits = explain_fn(single, images)
    assert jax.nn.sigmoid(logits).max() == 0
    for name in ALL:
        assert maps[name].shape == (2, 1, 4, 6) and np.isfinite(maps[name]).all()
    assert maps["cam"][1].max() > 0
    np.testing.assert_array_equal(maps["score_cam"], np.zeros((2, 1, 4, 6)))  # weights of 0
    np.testing.assert_array_equal(maps["minmax_cam"], maps["cam"])


def test_more_labels_than_are_differentiated_at_once(network, images):
    """The last chunk of labels is not full."""
    number = LABEL_CHUNK + 2
    variables = toys.toy_variables(num_labels=number)
    methods = ("d_minmax_grad_cam", "minmax_grad_cam")
    maps, _ = mj.make_explain_fn(network, methods, tap="early")(variables, images[1:3])
    for b, image in enumerate(images[1:3]):
        twin = toys.Toy64(variables, image)
        for label in range(number):
            for method in methods:
                expected = twin.map(method, twin.logits > 0, label, tap="early")
                np.testing.assert_allclose(maps[method][b, label], expected, **CLOSE)


def test_the_backbone_is_not_differentiated(variables, images):
    @jax.custom_vjp
    def backbone(images):
        return images

    def refuse(*args):
        raise AssertionError("the backbone is differentiated")

    backbone.defvjp(refuse, refuse)
    with pytest.raises(AssertionError):  # the trap works
        jax.grad(lambda x: backbone(x).sum())(images)

    def apply(variables, images, perturbations=None):
        return toys.toy_apply(variables, backbone(images), perturbations)

    maps, _ = mj.make_explain_fn(toys.toy_network(apply=apply), GRADIENT)(variables, images)
    assert all(np.asarray(maps[name]).max() > 0 for name in GRADIENT)


def test_everything_is_compiled_once_a_shape(network, variables, images, all_maps):
    """Another call with the same arguments traces and compiles nothing, another shape does."""
    traces = network.apply.traces
    explain_fn = mj.make_explain_fn(network, ALL, mask_chunk=5)
    with toys.count_compilations() as compiled:
        for shift in (1, 2):
            jax.block_until_ready(explain_fn(toys.toy_variables(seed=shift), images + shift))
    assert compiled == [] and network.apply.traces == traces

    assert mj.make_explain_fn(network, "cam") is mj.make_explain_fn(network, "cam")
    sizes = (2, 3, 2, 3)
    with toys.count_compilations() as compiled:
        for size in sizes:
            jax.block_until_ready(mj.explain(network, variables, images[:size], method="cam"))
    assert len(compiled) == len(set(sizes))
    assert mj.make_explain_fn(network, "cam")._cache_size() == len(set(sizes))


@pytest.fixture(scope="module")
def scenes():
    """Our network with random weights of every kind, statistics that are not 0 and 1 too."""
    network = mj.create_network("scenes_resnet", num_labels=4)
    rng = np.random.default_rng(1)

    def random(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return values * np.sqrt(2 / np.prod(leaf.shape[:-1])).astype(np.float32)
        return 0.1 * values + (path[-1].key in ("scale", "var"))

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(random, shapes)
    images = rng.normal(size=(2, 24, 32, 3)).astype(np.float32)
    return network, variables, images


@pytest.fixture(scope="module")
def scenes_maps(scenes):
    network, variables, images = scenes
    maps, logits = mj.make_explain_fn(network, ALL, mask_chunk=48)(variables, images)
    return jax.tree.map(np.asarray, maps), np.asarray(logits)


@pytest.fixture(scope="module")
def scenes_apply(scenes):
    return jax.jit(scenes[0].apply)


@pytest.mark.parametrize("tap", ["block2", "block4"])
def test_maps_of_our_network_are_those_of_one_label_at_a_time(
    scenes, scenes_maps, scenes_apply, tap
):
    network, variables, images = scenes
    maps, logits = scenes_maps
    if tap == "block2":
        maps, _ = mj.make_explain_fn(network, GRADIENT, tap=tap)(variables, images)
    plain, activations = jax.tree.map(np.asarray, scenes_apply(variables, images))
    np.testing.assert_allclose(logits, plain, **CLOSE)
    present = logits > 0
    assert present.sum() >= 2 and not present.all(axis=1).any()

    @jax.jit
    def logit_gradient(label):
        def logit(perturbation):
            return network.apply(variables, images, {tap: perturbation})[0][:, label].sum()

        return jax.grad(logit)(jnp.zeros_like(activations[tap]))

    gradients = np.stack([logit_gradient(label) for label in range(4)], axis=1).astype(float)
    kernel = variables["params"]["head"]["kernel"].astype(float)
    for b in range(2):
        tapped = activations[tap][b].astype(float)
        for label in range(4):
            weights = {
                name: make(gradients[b], present[b], label)
                for name, make in reference.GRADIENT_WEIGHTS.items()
            }
            weights["grad_cam_plus_plus"] = reference.grad_cam_plus_plus_weights(
                tapped, gradients[b], label, 0.0
            )
            if tap == "block4":
                for name, make in reference.KERNEL_WEIGHTS.items():
                    weights[name] = make(kernel, present[b], label)
            for name, channel_weights in weights.items():
                expected = reference.weighted_map(tapped, channel_weights)
                np.testing.assert_allclose(
                    maps[name][b, label], expected, rtol=1e-4, atol=1e-5 * expected.max() + 1e-7
                )


def test_score_cam_of_our_network(scenes, scenes_maps, scenes_apply):
    _, variables, images = scenes
    tapped = np.asarray(scenes_apply(variables, images)[1]["block4"][1], float)
    masks = reference.score_cam_masks(tapped, images.shape[1:3])
    masked = np.stack([images[1] * mask[..., None] for mask in masks.values()])
    logits = np.asarray(scenes_apply(variables, masked.astype(np.float32))[0])
    weights = np.zeros((tapped.shape[-1], 4))
    for k, row in zip(masks, logits, strict=True):
        weights[k] = reference.sigmoid(row)
    for label in range(4):
        expected = reference.weighted_map(tapped, weights[:, label])
        np.testing.assert_allclose(scenes_maps[0]["score_cam"][1, label], expected, rtol=1e-4)


def test_sharded_maps_are_the_unsharded_ones(network, variables, images, all_maps):
    mesh = parallel.make_mesh(jax.devices()[:4])
    maps, logits = mj.make_explain_fn(network, ALL, mask_chunk=8, mesh=mesh)(variables, images)
    np.testing.assert_allclose(logits, all_maps[1], atol=1e-6)
    for name in ALL:
        np.testing.assert_allclose(maps[name], all_maps[0][name], atol=1e-6, err_msg=name)


def test_groups_of_methods_share_passes():
    assert group_methods(("cam", "score_cam", "grad_cam")) == [
        ("cam", "grad_cam"),
        ("score_cam",),
    ]


NAMES = "cam, grad_cam, grad_cam_plus_plus, score_cam, minmax_cam, d_minmax_cam, minmax_grad_cam"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cma"}, f"unknown method 'cma'; methods: {NAMES}, d_minmax_grad_cam"),
        ({"tap": "middle", "method": "grad_cam"}, "unknown tap 'middle'; taps: early, late"),
        ({"tap": "early"}, "minmax_cam explains the last tap 'late' only, not 'early'"),
        ({"mask_chunk": 0}, "mask_chunk must be at least 1, not 0"),
        (
            {"method": "score_cam", "channels": 0},
            "channels must be an integer of at least 1, not 0",
        ),
        (
            {"method": "score_cam", "clusters": 0},
            "clusters must be an integer of at least 1, not 0",
        ),
        (
            {"method": "score_cam", "channels": 2, "clusters": 2},
            "channels=2 and clusters=2 exclude each other",
        ),
        (
            {"method": "cam", "channels": 2},
            "channels and clusters are for masking methods, and there is none among cam",
        ),
        ({"clusters": 2}, "for masking methods, and there is none among minmax_cam"),
        (
            {"present": np.ones((4, 3), bool)},
            r"present has shape \(4, 3\), the logits have \(4, 4\)",
        ),
        ({"images": np.zeros((4, 8, 12), np.float32)}, r"\(b H W 3\).*\(4, 8, 12\)"),
        ({"images": np.zeros((4, 8, 12, 1), np.float32)}, r"\(b H W 3\).*\(4, 8, 12, 1\)"),
        ({"images": np.zeros((4, 8, 12, 3), np.uint8)}, "floating .*uint8"),
    ],
)
def test_errors(options, message, network, variables, images):
    images = options.pop("images", images)
    with pytest.raises(ValueError, match=message) as error:
        mj.explain(network, variables, images, **options)
    assert "\n" not in str(error.value)


def test_no_methods_are_an_error(network):
    for make in (functools.partial(mj.make_explain_fn, network), group_methods):
        with pytest.raises(ValueError, match="no method given; methods: cam, "):
            make(())


@pytest.mark.parametrize("method", KERNEL)
def test_a_network_without_a_kernel_has_no_kernel_methods(method):
    with pytest.raises(ValueError, match=f"^{method} needs a head that is linear after pooling"):
        mj.make_explain_fn(toys.bent_network(), method)


def test_a_network_that_does_not_return_its_tap(variables, images):
    network = mj.Network(apply=toys.toy_apply, taps=("late", "conv5"))
    with pytest.raises(ValueError, match="no activations 'conv5'; .*early, late"):
        mj.explain(network, variables, images, method="grad_cam")
