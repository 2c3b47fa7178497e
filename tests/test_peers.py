"""Maps against those of pytorch-grad-cam and captum, where they are installed, of one network.

Two convolutions, the same weights in PyTorch and in plain jnp. Masks are compared: maps normalised,
resized to the image and normalised again, as pytorch-grad-cam gives them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax.cams import gradients, saliency, scores

torch = pytest.importorskip("torch")

# Of other people's code.
pytestmark = pytest.mark.filterwarnings("ignore:::torch", "ignore:Setting backward hooks")

SIZE, NUM_LABELS = (8, 12), 3
ATOL = 1e-4


def make_variables():
    """Large enough that what peers add to their divisors does not show."""
    rng = np.random.default_rng(3)
    shapes = {"first": (3, 3, 3, 5), "second": (3, 3, 5, 6)}
    variables = {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
    variables |= {"bias1": 0.2 * rng.normal(size=5), "bias2": 0.2 * rng.normal(size=6)}
    variables["kernel"] = 20 * rng.normal(size=(6, NUM_LABELS))
    # Positive logits: Ablation-CAM's weights are divided by them.
    variables["bias"] = np.full(NUM_LABELS, 100.0)
    return {name: value.astype(np.float32) for name, value in variables.items()}


VARIABLES = make_variables()
IMAGES = np.random.default_rng(4).normal(size=(2, *SIZE, 3)).astype(np.float32)
PAIRS = [(image, label) for image in range(len(IMAGES)) for label in range(NUM_LABELS)]


def convolve(x, kernel, bias):
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    return x + bias[None, None, None]


def apply(variables, images, perturbations=None):
    perturbations = perturbations or {}
    b, h, w, _ = images.shape
    early = jax.nn.relu(convolve(images, variables["first"], variables["bias1"]))
    early = early + perturbations.get("early", 0)
    pooled = early.reshape(b, h // 2, 2, w // 2, 2, 5).mean(axis=(2, 4))
    late = jax.nn.relu(convolve(pooled, variables["second"], variables["bias2"]))
    late = late + perturbations.get("late", 0)
    logits = jnp.dot(late.mean(axis=(1, 2)), variables["kernel"], precision="highest")
    return logits + variables["bias"][None], {"early": early, "late": late}


NETWORK = mj.Network(
    apply=apply,
    taps=("early", "late"),
    head_kernel=lambda variables: variables["kernel"],
)


class Twin(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.early = torch.nn.ReLU()
        self.pool = torch.nn.AvgPool2d(2)
        self.second = torch.nn.Conv2d(5, 6, 3, padding=1)
        self.late = torch.nn.ReLU()
        self.means = torch.nn.AdaptiveAvgPool2d(1)
        self.head = torch.nn.Linear(6, NUM_LABELS)
        tensors = {name: torch.from_numpy(value.copy()) for name, value in VARIABLES.items()}
        self.load_state_dict(
            {
                "first.weight": tensors["first"].permute(3, 2, 0, 1),
                "first.bias": tensors["bias1"],
                "second.weight": tensors["second"].permute(3, 2, 0, 1),
                "second.bias": tensors["bias2"],
                "head.weight": tensors["kernel"].T,
                "head.bias": tensors["bias"],
            }
        )
        self.eval()

    def forward(self, images):
        early = self.early(self.first(images))
        late = self.late(self.second(self.pool(early)))
        return self.head(self.means(late)[:, :, 0, 0])


def to_torch(images):
    return torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2).contiguous()


def from_torch(tensor):
    """`(b c H W)` to `(b H W c)`."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def masks_of(raw):
    resized = mj.resize_maps(mj.normalize_maps(jnp.asarray(raw)), SIZE)
    return np.asarray(mj.normalize_maps(resized))


def explain(method, **options):
    maps, logits = mj.explain(NETWORK, VARIABLES, IMAGES, method=method, **options)
    with torch.no_grad():
        np.testing.assert_allclose(logits, Twin()(to_torch(IMAGES)).numpy(), rtol=1e-5)
    return np.asarray(maps)


@pytest.fixture(scope="module")
def grad_cam():
    """The package; it draws progress bars and prints, both of no concern here."""
    return pytest.importorskip("pytorch_grad_cam")


@pytest.fixture(scope="module")
def attr():
    pytest.importorskip("captum")
    import captum.attr

    return captum.attr


def masks_of_peer(grad_cam, name, layers, model=None):
    """`(b n H W)`, every label of every image by itself."""
    target_of = grad_cam.utils.model_targets.ClassifierOutputTarget
    model = model or Twin()
    # Its instances are of one model each: Ablation-CAM puts layers in and out.
    peer = getattr(grad_cam, name)(model, [getattr(model, layer) for layer in layers])
    found = [
        peer(to_torch(IMAGES[image : image + 1]), [target_of(label)])[0] for image, label in PAIRS
    ]
    peer.activations_and_grads.release()
    return np.reshape(found, (len(IMAGES), NUM_LABELS, *SIZE))


@pytest.mark.parametrize(
    ("method", "name", "tap"),
    [
        ("grad_cam", "GradCAM", "early"),
        ("hires_cam", "HiResCAM", "early"),
        ("hires_cam", "HiResCAM", "late"),
        ("xgrad_cam", "XGradCAM", "early"),
        ("xgrad_cam", "XGradCAM", "late"),
        ("layer_cam", "LayerCAM", "early"),
        ("layer_cam", "LayerCAM", "late"),
        ("ablation_cam", "AblationCAM", "early"),
        ("ablation_cam", "AblationCAM", "late"),  # here a product with the kernel
        # Score-CAM there resizes masks with aligned corners: of an early tap nothing is resized.
        ("softmax_score_cam", "ScoreCAM", "early"),
    ],
)
def test_pytorch_grad_cam(grad_cam, method, name, tap):
    found = masks_of(explain(method, tap=tap))
    expected = masks_of_peer(grad_cam, name, [tap])
    assert expected.max(axis=(2, 3)).min() > 0.99  # nothing is compared with an empty map
    np.testing.assert_allclose(found, expected, atol=ATOL)


def test_full_grad_of_pytorch_grad_cam(grad_cam):
    found = np.asarray(mj.normalize_maps(explain("full_grad")))
    np.testing.assert_allclose(found, masks_of_peer(grad_cam, "FullGrad", []), atol=ATOL)


def test_full_grad_of_normalisation(grad_cam):
    """Its mean and its shift are one bias."""
    norm = torch.nn.BatchNorm2d(3)
    rng = np.random.default_rng(5)
    mean, shift = rng.normal(size=(2, 3)).astype(np.float32)
    norm.load_state_dict(
        norm.state_dict()
        | {"running_mean": torch.from_numpy(mean), "bias": torch.from_numpy(shift)}
        | {"running_var": torch.full((3,), 4.0), "weight": torch.full((3,), 3.0)}
    )

    def normalised(variables, images, perturbations=None):
        images = (images - mean[None, None, None]) / 2 * 3 + shift[None, None, None]
        return apply(variables, images, perturbations)

    network = dataclasses.replace(NETWORK, apply=normalised)
    maps, _ = mj.explain(network, VARIABLES, IMAGES, method="full_grad")
    model = torch.nn.Sequential(norm, Twin()).eval()
    expected = masks_of_peer(grad_cam, "FullGrad", [], model)
    np.testing.assert_allclose(mj.normalize_maps(maps), expected, atol=ATOL)


def test_eigen_cam_of_centred_activations_is_that_of_pytorch_grad_cam(grad_cam):
    """Up to its sign, which is open there, and here too of what sums up to 0."""
    _, activations = apply(VARIABLES, IMAGES)
    centred = activations["late"] - activations["late"].mean(axis=(1, 2), keepdims=True)
    found = np.asarray(jax.vmap(mj.METHODS["eigen_cam"].map)(centred))
    project = grad_cam.utils.svd_on_activations.get_2d_projection
    expected = project(np.moveaxis(np.asarray(activations["late"]), -1, 1))
    for one, projection in zip(found, expected, strict=True):
        assert one.max() > 0
        either = [np.maximum(sign * projection, 0) for sign in (1, -1)]
        assert any(np.allclose(one, wanted, atol=ATOL) for wanted in either)


def attributions(attribute, images=IMAGES, **options):
    """`(b n H W 3)` of a function of captum."""
    found = [
        from_torch(attribute(to_torch(images).requires_grad_(), target=label, **options))
        for label in range(NUM_LABELS)
    ]
    return np.stack(found, axis=1)


def test_gradients_of_captum(attr):
    expected = attributions(attr.Saliency(Twin()).attribute).max(axis=-1)
    assert expected.min(axis=(2, 3)).max() > 0
    np.testing.assert_allclose(explain("gradients"), expected, rtol=1e-4, atol=1e-5)


def test_smooth_grad_of_captum(attr):
    """Gradients of captum at the same noisy images."""
    points = saliency.noisy(4)
    method = dataclasses.replace(mj.METHODS["smooth_grad"], inputs=points)
    at = jax.jit(jax.vmap(points.at, (0, None)))
    gradient = attr.Saliency(Twin()).attribute
    at_points = [
        attributions(gradient, at(IMAGES, index), abs=False) for index in range(points.number)
    ]
    expected = np.abs(np.mean(at_points, axis=0)).max(axis=-1)
    np.testing.assert_allclose(explain(method), expected, rtol=1e-3, atol=1e-4)


def test_integrated_gradients_of_captum(attr):
    points = mj.METHODS["integrated_gradients"].inputs
    found = attributions(
        attr.IntegratedGradients(Twin()).attribute,
        n_steps=points.number,
        method="riemann_middle",
    )
    expected = np.maximum(found.sum(axis=-1), 0)
    assert expected.max(axis=(2, 3)).min() > 0
    np.testing.assert_allclose(explain("integrated_gradients"), expected, rtol=1e-3, atol=1e-4)


def test_guided_backpropagation_of_captum(attr):
    expected = np.abs(attributions(attr.GuidedBackprop(Twin()).attribute)).max(axis=-1)
    assert not np.allclose(expected, explain("gradients"), rtol=1e-2)
    np.testing.assert_allclose(explain("guided_backpropagation"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tap", NETWORK.taps)
def test_relevance_of_captum(attr, tap):
    """Captum starts from the label's logit, which is positive, and none of the others."""
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule

    method = mj.Method("gradient", scores.one_label, gradients.relevance_cam, rule="relevance")
    _, activations = apply(VARIABLES, IMAGES)
    expected = []
    for label in range(NUM_LABELS):
        model = Twin()
        for layer in (model.first, model.second, model.head, model.pool, model.means):
            layer.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
        behind = {"early": model.pool, "late": model.means}[tap]
        relevance = attr.LayerLRP(model, behind).attribute(
            to_torch(IMAGES).requires_grad_(), target=label, attribute_to_layer_input=True
        )
        weights = from_torch(relevance).sum(axis=(1, 2))
        total = np.einsum("bhwk,bk->bhw", activations[tap], weights)
        expected.append(np.maximum(total, 0))
    np.testing.assert_allclose(
        masks_of(explain(method, tap=tap)), masks_of(np.stack(expected, axis=1)), atol=ATOL
    )


def test_points_shared_with_captum_are_not_the_image():
    """Or the tests above would compare plain gradients."""
    for name in ("smooth_grad", "integrated_gradients"):
        points = mj.METHODS[name].inputs
        assert isinstance(points, saliency.Inputs) and points.number > 20
        assert not np.allclose(points.at(IMAGES[0], 0), IMAGES[0], atol=0.1)
