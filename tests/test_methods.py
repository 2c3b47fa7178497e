"""The wider family of methods, each against its equation in float64 on the toy networks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import methods as methods_lib
from minmax_jax import parallel
from minmax_jax.cams import saliency
from tests import toys

PIXELS = (
    "gradients",
    "minmax_gradients",
    "smooth_grad",
    "minmax_smooth_grad",
    "integrated_gradients",
    "minmax_integrated_gradients",
    "guided_backpropagation",
    "full_grad",
)
AT_TAPS = (
    "hires_cam",
    "minmax_hires_cam",
    "xgrad_cam",
    "minmax_xgrad_cam",
    "layer_cam",
    "relevance_cam",
    "minmax_relevance_cam",
    "ablation_cam",
    "minmax_ablation_cam",
    "eigen_cam",
    "minmax_score_cam",
    "softmax_score_cam",
)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def maps(variables, images):
    made, _ = mj.make_explain_fn(toys.toy_network(), (*AT_TAPS, *PIXELS))(variables, images)
    return jax.tree.map(np.asarray, made)


def row(method, present, label):
    """Weights of the logits in the score of a label."""
    own = np.eye(len(present))[label]
    others = np.ones(len(present)) if method == "relevance_cam" else present.astype(float)
    others = others * (1 - own)
    contrasted = method.startswith("minmax") or method == "relevance_cam"
    return own - contrasted * others / max(others.sum(), 1)


def of_the_image(twin, gradients):
    """Gradients of the image `(H W 3)` from those of the pooled image, a quarter to each pixel."""
    return gradients.repeat(2, axis=0).repeat(2, axis=1) / 4


def pixel_gradient(twin, weights):
    cells = np.tensordot(weights, twin.gradients["early"], axes=1) * (twin.taps["early"] > 0)
    return of_the_image(twin, cells @ twin.variables["first"].T)


def guided_gradient(twin, weights):
    h, w, _ = twin.taps["late"].shape
    late = np.broadcast_to(twin.variables["kernel"] @ weights / (h * w), twin.taps["late"].shape)
    early = np.maximum(late, 0) * (twin.taps["late"] > 0) @ twin.variables["second"].T
    cells = np.maximum(early, 0) * (twin.taps["early"] > 0) @ twin.variables["first"].T
    return of_the_image(twin, cells)


def relevance(twin, weights, tap):
    """Layer-wise relevance propagation with the z+ rule (Lee et al. 2021), loop by loop."""
    late, kernel = twin.taps["late"], np.maximum(twin.variables["kernel"], 0)
    pooled = late.mean(axis=(0, 1))
    at_pooled = np.zeros(len(pooled))
    for label, start in enumerate(weights):
        z = pooled @ kernel[:, label]
        if z > 0:
            at_pooled += pooled * kernel[:, label] * start / z
    total = late.sum(axis=(0, 1))
    at_late = late * np.divide(at_pooled, total, out=np.zeros_like(total), where=total != 0)
    if tap == "late":
        return at_late
    early, second = twin.taps["early"], np.maximum(twin.variables["second"], 0)
    at_early = np.zeros(early.shape)
    for place in np.ndindex(early.shape[:2]):
        for k in range(late.shape[-1]):
            z = early[place] @ second[:, k]
            if z > 0:
                at_early[place] += early[place] * second[:, k] * at_late[place][k] / z
    return at_early


def without_channel(twin, tap, channel):
    """Logits when a channel of a tap is taken away."""
    taps = {name: values.copy() for name, values in twin.taps.items()}
    taps[tap][..., channel] = 0
    late = taps["late"]
    if tap == "early":
        late = np.maximum(taps["early"] @ twin.variables["second"], 0)
    bent = np.tanh(late) if twin.bent else late
    return bent.mean(axis=(0, 1)) @ twin.variables["kernel"] + twin.variables["bias"]


def expected(method, twin, present, label, tap="late"):
    """The raw map of a method by its equation."""
    weights, image = row(method, present, label), twin.image
    activations = twin.taps[tap]
    name = method.removeprefix("minmax_")
    if name == "gradients":
        return np.abs(pixel_gradient(twin, weights)).max(axis=-1)
    if name in ("smooth_grad", "integrated_gradients"):
        points = mj.METHODS[method].inputs
        at = [np.asarray(points.at(jnp.float32(image), i)) for i in range(points.number)]
        twins = [toys.Toy64(twin.variables, point) for point in at]
        mean = np.mean([pixel_gradient(one, weights) for one in twins], axis=0)
        if name == "smooth_grad":
            return np.abs(mean).max(axis=-1)
        return np.maximum((image * mean).sum(axis=-1), 0)
    if name == "guided_backpropagation":
        return np.abs(guided_gradient(twin, weights)).max(axis=-1)
    if name == "full_grad":  # the toy has no bias with pixels
        contribution = np.abs(image * pixel_gradient(twin, weights))
        low, high = contribution.min(axis=(0, 1)), contribution.max(axis=(0, 1))
        return ((contribution - low) / np.where(high > low, high - low, 1)).sum(axis=-1)
    if name == "eigen_cam":
        flat = activations.reshape(-1, activations.shape[-1])
        projection = (flat @ np.linalg.svd(flat)[2][0]).reshape(activations.shape[:2])
        return np.maximum(projection * np.sign(projection.sum()), 0)
    gradients = np.tensordot(weights, twin.gradients[tap], axes=1)
    if name == "hires_cam":
        return np.maximum((activations * gradients).sum(axis=-1), 0)
    if name == "layer_cam":
        return np.maximum((activations * np.maximum(gradients, 0)).sum(axis=-1), 0)
    total = activations.sum(axis=(0, 1))
    if name == "xgrad_cam":
        share = (activations * gradients).sum(axis=(0, 1))
        channel_weights = np.divide(share, total, out=np.zeros_like(total), where=total != 0)
    if name == "relevance_cam":
        channel_weights = relevance(twin, weights, tap).sum(axis=(0, 1))
    if name == "ablation_cam":
        channel_weights = [
            weights @ (twin.logits - without_channel(twin, tap, channel))
            for channel in range(activations.shape[-1])
        ]
    if name == "softmax_score_cam":
        logits = [masked_logits(twin, activations[..., k]) for k in range(activations.shape[-1])]
        powers = [0 if values is None else np.exp(values[label]) for values in logits]
        channel_weights = np.array(powers) / max(np.sum(powers), 1e-300)
    if name == "score_cam":
        logits = [masked_logits(twin, activations[..., k]) for k in range(activations.shape[-1])]
        channel_weights = [
            0 if values is None else weights @ (1 / (1 + np.exp(-values))) for values in logits
        ]
    return np.maximum(activations @ np.array(channel_weights), 0)


def masked_logits(twin, channel):
    """Logits of the image seen through a channel; None of flat ones."""
    if np.ptp(channel) == 0:
        return None
    size = twin.image.shape[:2]
    fine = np.asarray(jax.image.resize(channel, size, "linear", antialias=False))
    mask = (fine - fine.min()) / np.ptp(fine)
    return toys.Toy64(twin.variables, twin.image * mask[..., None], bent=twin.bent).logits


@pytest.mark.parametrize("method", (*AT_TAPS, *PIXELS))
def test_maps_follow_the_equation(method, maps, variables, images):
    """All labels of images with none, one and three detected labels; dead channels."""
    live = 0
    for b, image in enumerate(images):
        twin = toys.Toy64(variables, image)
        for label in range(toys.NUM_LABELS):
            truth = expected(method, twin, twin.logits > 0, label)
            np.testing.assert_allclose(maps[method][b, label], truth, **CLOSE)
            live += truth.max() > 0
    assert live >= 5


@pytest.mark.parametrize("method", ["hires_cam", "xgrad_cam", "layer_cam", "minmax_ablation_cam"])
def test_at_any_tap_of_any_head(method, variables, images):
    """A head that is not linear, where a channel is taken away by forward passes."""
    present = np.array([[0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]], bool)
    explain_fn = mj.make_explain_fn(
        toys.bent_network(), method, tap=("early", "late"), mask_chunk=5
    )
    made, _ = explain_fn(variables, images, present)
    for b, image in enumerate(images):
        twin = toys.Toy64(variables, image, bent=True)
        for label in range(toys.NUM_LABELS):
            for tap in ("early", "late"):
                truth = expected(method, twin, present[b], label, tap)
                np.testing.assert_allclose(made[tap][b, label], truth, **CLOSE)


def test_relevance_at_an_early_tap(variables, images):
    made, _ = mj.explain(toys.toy_network(), variables, images, method="relevance_cam", tap="early")
    twin = toys.Toy64(variables, images[1])
    for label in range(toys.NUM_LABELS):
        truth = expected("relevance_cam", twin, twin.logits > 0, label, "early")
        np.testing.assert_allclose(made[1, label], truth, **CLOSE)


def test_labels_of_each_image(maps, variables, images):
    """Given as an array, by any family, with the same maps as among all labels."""
    labels = np.array([[2, 0], [3, 3], [1, 2], [0, 3]])
    chosen = ("cam", "layer_cam", "eigen_cam", "score_cam", "ablation_cam", "gradients")
    explain_fn = mj.make_explain_fn(toys.toy_network(), chosen)
    everything, _ = explain_fn(variables, images)
    some, logits = explain_fn(variables, images, labels=labels)
    assert logits.shape == (4, toys.NUM_LABELS)
    for name in chosen:
        truth = np.take_along_axis(np.asarray(everything[name]), labels[..., None, None], axis=1)
        np.testing.assert_allclose(some[name], truth, **CLOSE)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.zeros((3, 1), int), {}, r"labels have shape \(3, 1\), needed is \(4, n\)"),
        (np.zeros((4, 1)), {}, "labels must be integers, not float"),
        (np.zeros((4, 1), int), {"select": mj.TopLabels(1)}, "select or labels, not both"),
        (np.array([[0]] * 3 + [[-1]]), {}, f"lie in 0 to {toys.NUM_LABELS - 1}; there is -1"),
        (np.full((4, 1), toys.NUM_LABELS), {}, f"there is {toys.NUM_LABELS}"),
    ],
)
def test_wrong_labels(labels, options, message, variables, images):
    with pytest.raises(ValueError, match=message):
        mj.explain(toys.toy_network(), variables, images, labels=labels, **options)


def test_probabilities_are_not_present(variables, images):
    with pytest.raises(ValueError, match="present must be true or false .* there is 0.3"):
        mj.explain(
            toys.toy_network(), variables, images, present=np.full((4, toys.NUM_LABELS), 0.3)
        )
    with pytest.raises(ValueError, match=r"images are empty: they have shape \(0, "):
        mj.explain(toys.toy_network(), variables, images[:0])


def test_images_that_fill_up_a_batch_cost_nothing_and_change_nothing(variables, images):
    """By forward passes that only images taking part are given."""
    seen = []

    def counted(variables, images, perturbations=None):
        jax.debug.callback(lambda images: seen.append(len(images)), images)
        return toys.toy_apply(variables, images, perturbations, bend=jnp.tanh)

    network = mj.Network(apply=counted, taps=("early", "late"))
    explain_fn = mj.make_explain_fn(network, "ablation_cam", mask_chunk=2)
    made, _ = explain_fn(variables, images, None, np.array([False, True, False, False]))
    jax.effects_barrier()
    alive = (toys.Toy64(variables, images[1], bent=True).taps["late"] != 0).any(axis=(0, 1)).sum()
    assert seen == [4] + [2] * -(-alive // 2)
    truth = mj.explain(toys.bent_network(), variables, images[1:2], method="ablation_cam")[0]
    np.testing.assert_allclose(made[1], truth[0], **CLOSE)


def test_devices_change_nothing(maps, variables, images):
    """Sharded over two devices and not."""
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    mesh = parallel.make_mesh(jax.devices()[:2])
    names = ("relevance_cam", "smooth_grad", "full_grad", "ablation_cam", "eigen_cam")
    made, _ = mj.make_explain_fn(toys.toy_network(), names, mesh=mesh)(variables, images)
    for name in names:
        np.testing.assert_allclose(made[name], maps[name], **CLOSE)


def test_other_numbers_of_points(variables, images):
    """A method of one's own: fewer noisy images than `smooth_grad` has."""
    method = mj.Method(
        "saliency",
        mj.METHODS["gradients"].score,
        saliency.largest_gradient,
        inputs=saliency.noisy(3, level=0),
    )
    made, _ = mj.explain(toys.toy_network(), variables, images, method=method)
    plain, _ = mj.explain(toys.toy_network(), variables, images, method="gradients")
    np.testing.assert_allclose(made, plain, **CLOSE)


def test_every_method_has_a_group_and_the_papers_are_the_default():
    network = mj.create_network("scenes_resnet", num_labels=3)
    assert methods_lib.default_methods(network) == methods_lib.PAPER_METHODS
    assert set(mj.METHODS) >= {*methods_lib.PAPER_METHODS, "acol_cam", *AT_TAPS, *PIXELS}
    groups = methods_lib.group_methods(tuple(mj.METHODS))
    assert sorted(name for group in groups for name in group) == sorted(mj.METHODS)
    shared = max(groups, key=len)
    assert {"cam", "layer_cam", "relevance_cam", "eigen_cam"} <= set(shared)
    assert ("smooth_grad",) in groups and ("ablation_cam",) in groups


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "backwards"}, "unknown rule 'backwards'; rules: gradient, guided"),
        ({"inputs": saliency.path(2)}, "inputs are for saliency, not for the family gradient"),
        ({"rule": "biases"}, "the rule biases is for saliency of the image alone"),
        ({"seen_as": jax.nn.sigmoid}, "seen_as is for masking, not for the family gradient"),
        (
            {"family": "saliency", "rule": "biases", "inputs": saliency.path(2)},
            "the rule biases is for saliency of the image alone, without inputs",
        ),
    ],
)
def test_methods_that_cannot_be(fields, message, variables, images):
    with pytest.raises(ValueError, match=message):
        method = dataclasses.replace(mj.METHODS["grad_cam"], **fields)
        mj.explain(toys.toy_network(), variables, images, method=method)
