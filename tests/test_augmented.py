from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel
from minmax_jax.augmented import augmented_cam, make_augmented_fn
from tests import reference, toys

PRESENT = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]], bool)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
BOTH = ("horizontal", "vertical")


def ramp(height, width):
    """What makes left and right, above and below different."""
    y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    return np.float32(1.5 * x[None, :, None] + y[:, None, None])


def tilted_apply(variables, images, perturbations=None):
    return toys.toy_apply(variables, images + ramp(*images.shape[1:3])[None], perturbations)


@pytest.fixture(scope="module")
def variables():
    return toys.toy_variables()


@pytest.fixture(scope="module")
def images():
    return toys.toy_images(5)[1:]


@pytest.fixture(scope="module")
def network():
    return toys.toy_network(apply=tilted_apply)


def shrunk_or_stretched(array, size):
    """Bilinear in float64, output by output; what shrinks is averaged over as many more pixels."""
    for axis, length in enumerate(size):
        before, rows = array.shape[axis], []
        reach = max(1, before / length)
        for i in range(length):
            centre = (i + 0.5) * before / length - 0.5
            weights = [max(0, 1 - abs(j - centre) / reach) for j in range(before)]
            parts = [w * np.take(array, j, axis) for j, w in enumerate(weights)]
            rows.append(sum(parts) / sum(weights))
        array = np.stack(rows, axis)
    return array


def twins_of(variables, image, scales, flips):
    """Of each view how it is mirrored, and what the tilted network computes of it in float64."""
    mirrored = [()]
    for flip in flips:
        axis = {"vertical": 0, "horizontal": 1}[flip]
        mirrored += [(*axes, axis) for axes in mirrored]
    for scale in scales:
        height, width = (round(scale * side) for side in toys.SIZE)
        small = shrunk_or_stretched(np.asarray(image, float), (height, width))
        for axes in mirrored:
            view = np.flip(small, axes) + ramp(height, width)
            yield axes, toys.Toy64(variables, view)


def loop_map(variables, image, method, present, label, scales, flips):
    total = 0
    for axes, twin in twins_of(variables, image, scales, flips):
        raw = np.flip(twin.map(method, present, label), axes)
        total = total + shrunk_or_stretched(reference.normalize(raw), toys.SIZE)
    return reference.normalize(total)


@pytest.mark.parametrize(
    ("method", "scales", "flips"),
    [
        ("minmax_cam", (0.5, 1.0, 1.5), ()),
        ("d_minmax_grad_cam", (2.0,), ("vertical",)),
        ("cam", (1.5,), BOTH),
    ],
)
def test_maps_are_those_of_a_loop(method, scales, flips, network, variables, images):
    augmented_fn = make_augmented_fn(network, method, scales=scales, flips=flips)
    maps, logits = augmented_fn(variables, images, PRESENT)
    assert maps.shape == (4, toys.NUM_LABELS, *toys.SIZE) and maps.dtype == np.float32
    live = 0
    for b, image in enumerate(images):
        twin = toys.Toy64(variables, image + ramp(*toys.SIZE))
        np.testing.assert_allclose(logits[b], twin.logits, rtol=2e-5, atol=2e-5)
        for label in range(toys.NUM_LABELS):
            expected = loop_map(variables, image, method, PRESENT[b], label, scales, flips)
            np.testing.assert_allclose(maps[b, label], expected, **CLOSE)
            live += expected.max() > 0
    assert live >= 8


@pytest.mark.parametrize("method", ["minmax_cam", "score_cam", "eigen_cam"])
def test_one_view_is_the_plain_map(method, network, variables, images):
    maps, logits = augmented_cam(
        network, variables, images, method=method, scales=(1.0,), flips=(), present=PRESENT
    )
    raw, plain_logits = mj.explain(network, variables, images, method=method, present=PRESENT)
    expected = mj.normalize_maps(mj.resize_maps(mj.normalize_maps(raw), toys.SIZE))
    assert np.asarray(expected).max() == 1
    np.testing.assert_array_equal(maps, expected)
    np.testing.assert_array_equal(logits, plain_logits)


@pytest.mark.parametrize("method", ["gradients", "minmax_smooth_grad"])
def test_saliency_of_one_view_is_the_plain_map(method, network, variables, images):
    maps, _ = augmented_cam(network, variables, images, method=method, scales=(1.0,), flips=())
    expected = mj.normalize_maps(mj.explain(network, variables, images, method=method)[0])
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert np.asarray(expected).max() == 1 and expected.shape[2:] == toys.SIZE


def test_saliency_at_several_sizes(network, variables, images):
    """Maps larger than the image, too, come back to its size."""
    maps, _ = augmented_cam(
        network, variables, images, method="gradients", scales=(0.5, 2.0), flips=()
    )
    total = np.zeros((4, toys.NUM_LABELS, *toys.SIZE))
    for scale in (0.5, 2.0):
        size = [round(scale * side) for side in toys.SIZE]
        views = np.float32([shrunk_or_stretched(image, size) for image in images])
        raw, _ = mj.explain(network, variables, views, method="gradients")
        for b, n in np.ndindex(total.shape[:2]):
            map_ = reference.normalize(np.asarray(raw[b, n], float))
            total[b, n] += shrunk_or_stretched(map_, toys.SIZE)
    expected = [[reference.normalize(map_) for map_ in of_image] for of_image in total]
    np.testing.assert_allclose(maps, expected, **CLOSE)


@pytest.mark.parametrize(
    ("method", "flips"), [("minmax_cam", ("horizontal",)), ("grad_cam_plus_plus", BOTH)]
)
def test_flips_change_nothing_where_the_network_sees_no_sides(method, flips, variables, images):
    """1x1 convolutions of a mirrored image give the mirrored map."""
    explain = functools.partial(
        augmented_cam, toys.toy_network(), variables, images, method=method, scales=(1,)
    )
    plain, _ = explain(flips=())
    maps, _ = explain(flips=flips)
    np.testing.assert_allclose(maps, plain, atol=1e-5)
    assert np.asarray(plain).max() == 1


def test_labels_and_presence_come_from_the_image_as_it_is(network, variables, images):
    """Although its mirror image shows the network others."""
    scales, flips, select = (1.0,), ("horizontal",), mj.TopLabels(2)
    options = {"method": "minmax_cam", "scales": scales, "flips": flips}
    every, logits = augmented_cam(network, variables, images, **options)
    maps, _, selection = augmented_cam(network, variables, images, select=select, **options)
    np.testing.assert_array_equal(selection.labels, select(logits).labels)
    elsewhere, elsewhere_ranked = 0, 0
    for b, image in enumerate(images):
        views = [twin for _, twin in twins_of(variables, image, scales, flips)]
        present, top = views[0].logits > 0, np.argsort(-views[0].logits)[:2]
        elsewhere += any((view.logits > 0).tolist() != present.tolist() for view in views)
        elsewhere_ranked += any(set(np.argsort(-v.logits)[:2]) != set(top) for v in views)
        np.testing.assert_array_equal(selection.labels[b], top)
        for label in range(toys.NUM_LABELS):
            expected = loop_map(variables, image, "minmax_cam", present, label, scales, flips)
            np.testing.assert_allclose(every[b, label], expected, **CLOSE)
        members = np.isin(np.arange(toys.NUM_LABELS), top)
        for n, label in enumerate(top):
            expected = loop_map(variables, image, "minmax_cam", members, label, scales, flips)
            np.testing.assert_allclose(maps[b, n], expected, **CLOSE)
    assert elsewhere and elsewhere_ranked


@pytest.mark.parametrize("method", ["minmax_cam", "score_cam"])
def test_labels_that_are_given(method, network, variables, images):
    labels = np.array([[1, 3], [0, 2], [3, 1], [2, 2]])
    options = {"method": method, "scales": (1.5,), "flips": (), "present": PRESENT}
    every, _ = augmented_cam(network, variables, images, **options)
    maps, _ = augmented_cam(network, variables, images, labels=labels, **options)
    expected = np.take_along_axis(np.asarray(every), labels[..., None, None], axis=1)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert np.abs(maps[:, 0] - maps[:, 1]).max() > 0.01


def test_a_method_and_a_tap_of_ones_own(network, variables, images):
    method = mj.Method("gradient", mj.METHODS["minmax_cam"].score, mj.METHODS["grad_cam"].map)
    explain = functools.partial(augmented_cam, network, variables, images, scales=(0.5,), flips=())
    maps, _ = explain(method=method, tap="early")
    named, _ = explain(method="minmax_grad_cam", tap="early")
    last, _ = explain(method=method)
    np.testing.assert_array_equal(maps, named)
    assert np.abs(maps - last).max() > 0.1


@pytest.mark.parametrize("number", [3, 8])
def test_sharded_maps_are_the_unsharded_ones(number, network, variables):
    """Images that eight devices can share, and images that they cannot."""
    images, mesh = toys.toy_images(number), parallel.make_mesh()
    make = functools.partial(make_augmented_fn, network, scales=(1.5,), flips=())
    alone, spread = make()(variables, images), make(mesh=mesh)(variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, spread)
    assert len(spread[0].sharding.device_set) == 8


def test_everything_is_compiled_once(variables, images):
    network = toys.toy_network(apply=toys.CountingApply())
    jax.block_until_ready(augmented_cam(network, variables, images, scales=(1.0,)))
    traces = network.apply.traces
    with toys.count_compilations() as compiled:
        jax.block_until_ready(augmented_cam(network, variables, images + 1, scales=(1.0,)))
    assert compiled == [] and network.apply.traces == traces
    make = functools.partial(make_augmented_fn, network)
    assert make(scales=[1.0, 2.0], flips=["vertical"]) is make(
        scales=(1.0, 2.0), flips=("vertical",)
    )
    assert make(scales=(1.0,)) is not make(scales=(2.0,))
    assert make(flips="vertical") is make(flips=("vertical",))


def test_the_image_as_it_is_is_forwarded_once():
    """The forward pass that tells what is present is that of the view of scale 1."""

    def apply(variables, images, perturbations=None):
        late = jax.nn.relu(images @ variables["first"] @ variables["second"])
        late = late + (perturbations or {}).get("late", 0)
        return late.mean(axis=(1, 2)) @ variables["kernel"], {"late": late}

    network = mj.Network(apply=apply, taps=("late",), head_kernel=lambda v: v["kernel"])
    shapes = {"first": (3, 256), "second": (256, 256), "kernel": (256, 3)}
    variables = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    images = np.ones((2, 8, 8, 3), np.float32)

    def flops(function):
        return function.lower(variables, images).compile().cost_analysis()["flops"]

    plain = flops(mj.make_explain_fn(network, "minmax_cam"))
    assert flops(make_augmented_fn(network, scales=(1.0,), flips=())) < 1.1 * plain
    assert flops(make_augmented_fn(network, scales=(2.0,), flips=())) > 4.9 * plain


def test_memory_does_not_grow_with_the_number_of_views():
    """Beside the maps that are returned, those of a few labels are held at full size."""

    def apply(kernel, images, perturbations=None):
        b, h, w, _ = images.shape
        x = images.reshape(b, h // 8, 8, w // 8, 8, 3).mean(axis=(2, 4))
        return x.mean(axis=(1, 2)) @ kernel, {"last": x}

    network = mj.Network(apply=apply, taps=("last",), head_kernel=lambda kernel: kernel)
    kernel, images = np.ones((3, 128), np.float32), np.ones((1, 64, 64, 3), np.float32)
    augmented_fn = make_augmented_fn(network, scales=(0.5, 1.0, 1.5), flips=())
    compiled = augmented_fn.lower(kernel, images).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 128 * 64 * 64 * 4


def test_blank_images_have_maps_of_zero(variables):
    images = np.zeros((2, *toys.SIZE, 3), np.float32)
    maps, _ = augmented_cam(toys.toy_network(), variables, images, scales=(1.0, 1.5), flips=())
    np.testing.assert_array_equal(maps, np.zeros((2, toys.NUM_LABELS, *toys.SIZE)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"scales must be numbers above 0, at least one, not \(\)"),
        ({"scales": (1.0, 0)}, "scales must be numbers above 0"),
        ({"scales": (-1,)}, "scales must be numbers above 0"),
        ({"scales": (float("nan"),)}, "scales must be numbers above 0"),
        ({"scales": 1.5}, "scales must be numbers above 0, at least one, not 1.5"),
        ({"scales": ("large",)}, "scales must be numbers above 0"),
        ({"flips": ("diagonal",)}, "unknown flip 'diagonal'; flips: horizontal, vertical"),
        ({"method": ("cam", "grad_cam")}, r"must be one name or one Method, not \('cam', 'grad_"),
        ({"method": "cma"}, "unknown method 'cma'; methods: cam, "),
        ({"method": "grad_cam", "tap": ("early", "late")}, r"tap must be one name, not \('early'"),
        ({"method": "grad_cam", "tap": "middle"}, "unknown tap 'middle'; taps: early, late"),
        ({"activation": "tanh"}, "unknown activation 'tanh'; valid: sigmoid, softmax"),
        ({"present": np.ones((4, 3), bool)}, r"present has shape \(4, 3\), the logits .* \(4, 4\)"),
        (
            {"select": mj.TopLabels(1), "labels": np.zeros((4, 1), int)},
            "give select or labels, not both",
        ),
        ({"images": np.zeros((4, 8, 12), np.float32)}, r"\(b H W 3\).*\(4, 8, 12\)"),
    ],
)
def test_errors(options, message, network, variables, images):
    images = options.pop("images", images)
    with pytest.raises(ValueError, match=message) as error:
        augmented_cam(network, variables, images, **options)
    assert "\n" not in str(error.value)
