from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel
from minmax_jax.cams import gradients, scores
from minmax_jax.pretrained import load_network
from tests import reference, toys

METHODS = ("grad_cam", "grad_cam_plus_plus", "minmax_grad_cam", "d_minmax_grad_cam", "score_cam")
TAPS = ("early", "late")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PRESENT = np.array([[0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def variables():
    return toys.toy_variables()


@pytest.fixture(scope="module")
def images():
    return toys.toy_images(4)


@pytest.fixture(scope="module")
def network():
    return toys.bent_network()


@pytest.fixture(scope="module")
def twins(variables, images):
    """What the network computes of each image, in float64."""
    return [toys.Toy64(variables, image, bent=True) for image in images]


@pytest.fixture(scope="module")
def grad_cam(network, variables, images):
    maps, _ = mj.multi_layer_cam(network, variables, images)
    return np.asarray(maps)


def combined(raw_maps, size=toys.SIZE):
    """The multi-layer map of raw maps, shallow to deep, in float64 loops."""
    layers = [reference.resize(reference.normalize(raw), size) for raw in raw_maps]
    return reference.normalize(sum(layers) * layers[-1]), layers


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_a_users_network(method, network, variables, images, twins):
    """Behind a head that is not linear, so that gradients differ from cell to cell."""
    multi_layer_fn = mj.make_multi_layer_fn(network, method, layers=True)
    maps, layers, logits = multi_layer_fn(variables, images, PRESENT)
    assert maps.shape == (4, toys.NUM_LABELS, *toys.SIZE) and maps.dtype == np.float32
    assert layers.shape == (4, toys.NUM_LABELS, 2, *toys.SIZE)
    np.testing.assert_allclose(logits, [twin.logits for twin in twins], rtol=2e-5, atol=2e-5)
    live = 0
    for b, twin in enumerate(twins):
        for label in range(toys.NUM_LABELS):
            raw = [twin.map(method, PRESENT[b], label, tap=tap) for tap in TAPS]
            expected, expected_layers = combined(raw)
            np.testing.assert_allclose(maps[b, label], expected, **CLOSE)
            np.testing.assert_allclose(layers[b, label], expected_layers, **CLOSE)
            live += expected.max() > 0
    assert live >= 5


@pytest.mark.parametrize("taps", [("late", "early"), ("early",), "late"])
def test_the_last_of_the_taps_multiplies(taps, network, variables, images, twins, grad_cam):
    maps, _ = mj.multi_layer_cam(network, variables, images, taps=taps)
    taps = (taps,) if isinstance(taps, str) else taps
    for b, label in ((1, 0), (2, 3), (3, 1)):
        raw = [twins[b].map("grad_cam", None, label, tap=tap) for tap in taps]
        np.testing.assert_allclose(maps[b, label], combined(raw)[0], **CLOSE)
    assert np.abs(np.asarray(maps) - grad_cam).max() > 0.1


def test_a_kernel_method_has_the_last_tap(variables, images):
    network = toys.toy_network()
    maps, _ = mj.multi_layer_cam(network, variables, images, method="cam", taps=("late",))
    twin = toys.Toy64(variables, images[1])
    expected = combined([twin.map("cam", None, 2)])[0]
    assert expected.max() == 1
    np.testing.assert_allclose(maps[1, 2], expected, **CLOSE)


def difference(present, labels):
    """What tells a label from label 2."""
    own = scores.one_label(present, labels)
    return own - scores.one_label(present, jnp.full_like(labels, 2))


def test_any_target(network, variables, images, twins):
    target = mj.Method("gradient", difference, gradients.grad_cam)
    select = mj.NamedLabels((3, 0))
    raw = {}
    for tap in TAPS:
        raw[tap], _, _ = mj.explain(
            network, variables, images, method=target, tap=tap, select=select
        )
    maps, _, _ = mj.multi_layer_cam(network, variables, images, method=target, select=select)
    for b, twin in enumerate(twins):
        for n, label in enumerate(select.indices):
            expected = {}
            for tap in TAPS:
                gradient = twin.gradients[tap][label] - twin.gradients[tap][2]
                weights = gradient.sum(axis=(0, 1))
                expected[tap] = reference.weighted_map(twin.taps[tap], weights)
                np.testing.assert_allclose(raw[tap][b, n], expected[tap], rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(maps[b, n], combined(expected.values())[0], **CLOSE)


def test_several_methods_at_several_taps(network, variables, images, twins):
    """The raw maps of all of them, from one function."""
    methods = ("grad_cam", "d_minmax_grad_cam")
    explain_fn = mj.make_explain_fn(network, methods, tap=("late", "early"))
    maps, _ = explain_fn(variables, images, PRESENT)
    for method in methods:
        for tap in TAPS:
            expected = twins[1].map(method, PRESENT[1], 3, tap=tap)
            np.testing.assert_allclose(maps[method][tap][1, 3], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "select",
    [mj.TopLabels(2), mj.DetectedLabels(3, threshold=0.4), mj.NamedLabels((3, 1))],
    ids=str,
)
def test_chosen_labels(select, network, variables, images, grad_cam):
    maps, logits, selection = mj.multi_layer_cam(network, variables, images, select=select)
    labels = np.asarray(select(logits).labels)
    np.testing.assert_array_equal(selection.labels, labels)
    assert maps.shape == (*labels.shape, *toys.SIZE)
    expected = np.take_along_axis(grad_cam, labels[..., None, None], axis=1)
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_score_cam_weighs_by_the_softmax_of_a_softmax_network(network, variables, images, twins):
    maps, _ = mj.multi_layer_cam(
        network, variables, images, method="score_cam", activation="softmax"
    )
    raw = []
    for tap in TAPS:
        activations = twins[1].taps[tap]
        weights = np.zeros((activations.shape[-1], toys.NUM_LABELS))
        for k, mask in reference.score_cam_masks(activations, toys.SIZE).items():
            masked = toys.Toy64(variables, images[1] * mask[..., None], bent=True)
            weights[k] = np.exp(masked.logits) / np.exp(masked.logits).sum()
        raw.append([reference.weighted_map(activations, weights[:, label]) for label in (0, 2)])
    for n, label in enumerate((0, 2)):
        expected = combined([maps_of_tap[n] for maps_of_tap in raw])[0]
        np.testing.assert_allclose(maps[1, label], expected, **CLOSE)


def test_reduced_precision_is_widened_before_maps_are_made(variables, images):
    """A network in bfloat16: activations and gradients at every tap."""
    seen = []

    def apply(variables, images, perturbations=None):
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (variables, images))
        return toys.toy_apply(*narrow, perturbations)

    def watched(activations, slopes):
        seen.extend([activations.dtype, slopes.dtype])
        return gradients.grad_cam(activations, slopes)

    multi_layer_fn = mj.make_multi_layer_fn(
        toys.toy_network(apply=apply), mj.Method("gradient", scores.minmax, watched)
    )
    maps, logits = jax.eval_shape(multi_layer_fn, variables, images)
    assert set(seen) == {np.dtype(np.float32)} and len(seen) >= 2 * len(TAPS)
    assert maps.dtype == logits.dtype == np.float32


@pytest.mark.parametrize("number", [3, 8])
def test_sharded_maps_are_the_unsharded_ones(number, network, variables):
    """Images that eight devices can share, and images that they cannot."""
    images, mesh = toys.toy_images(number), parallel.make_mesh()
    assert mesh.size == 8
    make = functools.partial(mj.make_multi_layer_fn, network, layers=True)
    alone, spread = make()(variables, images), make(mesh=mesh)(variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, spread)
    assert len(spread[0].sharding.device_set) == 8
    assert spread[0].sharding.shard_shape(spread[0].shape)[0] == (1 if number == 8 else 3)


@pytest.mark.parametrize("num_labels", [1, 6])
def test_one_forward_pass_and_one_pullback_a_label(num_labels, images):
    """Whatever the number of taps: what lies between them is pulled through once a label."""
    forwards, pullbacks = [], []

    @jax.custom_vjp
    def watched(x):
        return x

    def backward(_, cotangent):
        jax.debug.callback(lambda x: pullbacks.append(x.shape), cotangent)
        return (cotangent,)

    watched.defvjp(lambda x: (x, None), backward)

    def apply(variables, images, perturbations=None):
        jax.debug.callback(lambda x: forwards.append(x.shape), images)
        return toys.toy_apply(variables, images, perturbations, bend=lambda x: jnp.tanh(watched(x)))

    network = toys.toy_network(apply=apply, head_kernel=None)
    jax.block_until_ready(
        mj.multi_layer_cam(network, toys.toy_variables(num_labels=num_labels), images)
    )
    jax.effects_barrier()
    assert forwards == [images.shape]
    assert pullbacks == [(4, 4, 6, toys.CHANNELS["late"])] * num_labels


def test_everything_is_compiled_once(variables, images):
    network = toys.toy_network(apply=toys.CountingApply())
    jax.block_until_ready(mj.multi_layer_cam(network, variables, images))
    traces = network.apply.traces
    with toys.count_compilations() as compiled:
        jax.block_until_ready(mj.multi_layer_cam(network, variables, images + 1))
    assert compiled == [] and network.apply.traces == traces
    target = mj.Method("gradient", difference, gradients.grad_cam)
    same = mj.Method("gradient", difference, gradients.grad_cam)
    make = functools.partial(mj.make_multi_layer_fn, network)
    assert make(target) is make(same) and make("grad_cam") is make()


def test_gradients_in_memory_do_not_grow_with_the_labels():
    """What grows are the maps, not the gradients of hundreds of channels."""
    channels = 256

    def apply(variables, images, perturbations=None):
        perturbations = perturbations or {}
        early = images[..., :1] * variables["first"] + perturbations.get("early", 0)
        late = jnp.tanh(early) + perturbations.get("late", 0)
        logits = jnp.tanh(late).mean(axis=(1, 2)) @ variables["kernel"]
        return logits, {"early": early, "late": late}

    multi_layer_fn = mj.make_multi_layer_fn(mj.Network(apply=apply, taps=TAPS))

    def extra(num_labels):
        variables = {
            "first": np.ones((1, 1, 1, channels)),
            "kernel": np.ones((channels, num_labels)),
        }
        variables = jax.tree.map(np.float32, variables)
        lowered = multi_layer_fn.lower(variables, np.zeros((2, 16, 16, 3), np.float32))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    gradient = 2 * 16 * 16 * channels * 4  # bytes of one label at one tap
    assert extra(64) - extra(8) < 4 * gradient < 56 * gradient


def test_blank_images_have_maps_of_zero(network, variables, images):
    for method in METHODS:
        multi_layer_fn = mj.make_multi_layer_fn(network, method, layers=True)
        for array in multi_layer_fn(variables, 0 * images, PRESENT)[:2]:
            np.testing.assert_array_equal(array, np.zeros(array.shape))


def test_maps_can_be_differentiated_where_they_are_flat(network, variables):
    multi_layer_fn = mj.make_multi_layer_fn(network)

    @jax.jit
    @jax.grad
    def slope(images):
        return (multi_layer_fn(variables, images)[0] ** 2).sum()

    images = toys.toy_images(2)  # the first is all zero
    found = np.asarray(slope(images))
    assert np.isfinite(found).all() and np.abs(found[1]).max() > 0


FAMILIES = {
    "vgg16": ("block1", "block2", "block3", "block4", "block5"),
    "resnet18": ("stage1", "stage2", "stage3", "stage4"),
    "resnet50v2": ("stage1", "stage2", "stage3", "stage4"),
    "efficientnet_b0": ("stride2", "stride4", "stride8", "stride16", "stride32"),
    "mobilenet_v2": ("stride2", "stride4", "stride8", "stride16", "stride32"),
    "scenes_resnet": ("block1", "block2", "block3", "block4"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_network_has_its_layers(name):
    network = mj.create_network(name, num_labels=3)
    multi_layer_fn = mj.make_multi_layer_fn(network, select=mj.TopLabels(1), layers=True)
    images = jax.ShapeDtypeStruct((2, 40, 32, 3), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    maps, layers, logits, _ = jax.eval_shape(multi_layer_fn, variables, images)
    assert network.taps == FAMILIES[name]
    assert layers.shape == (2, 1, len(FAMILIES[name]), 40, 32)
    assert maps.shape == (2, 1, 40, 32) and logits.shape == (2, 3)
    assert maps.dtype == layers.dtype == np.float32


def test_maps_of_our_network_are_those_of_its_taps():
    """Each explained on its own."""
    network = mj.create_network("scenes_resnet", num_labels=3)
    variables = network.init(jax.random.key(0))
    images = np.random.default_rng(2).normal(size=(2, 24, 32, 3)).astype(np.float32)
    options = {"method": "minmax_grad_cam", "select": mj.NamedLabels((0, 2))}
    taps = ("block2", "block4")
    maps, _, _ = mj.multi_layer_cam(network, variables, images, taps=taps, **options)
    raw = [mj.explain(network, variables, images, tap=tap, **options)[0] for tap in taps]
    live = 0
    for b, n in np.ndindex(2, 2):
        alone = [np.asarray(maps_of_tap[b, n], float) for maps_of_tap in raw]
        expected = combined(alone, (24, 32))[0]
        np.testing.assert_allclose(maps[b, n], expected, **CLOSE)
        live += expected.max() > 0
    assert live


def test_gradients_at_two_taps_are_those_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch_models = pytest.importorskip("tests.pretrained.torch_models")
    model = torch_models.randomised("resnet18", 3)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    images = np.random.default_rng(1).standard_normal((2, 64, 48, 3)).astype(np.float32)

    taps = {}
    for name, layer in (("stage2", model.layer2), ("stage4", model.layer4)):
        layer.register_forward_hook(lambda _, __, out, name=name: taps.update({name: out}))
    logits, _ = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    slopes = torch.autograd.grad(logits[:, 1].sum(), list(taps.values()))
    raw = [
        torch.relu((slope.sum(dim=(2, 3), keepdim=True) * tap).sum(dim=1)).double().detach().numpy()
        for slope, tap in zip(slopes, taps.values(), strict=True)
    ]

    loaded = load_network(
        tmp_path / "weights.pth", name="resnet18", num_labels=3, key=jax.random.key(0)
    )
    maps, _, _ = mj.multi_layer_cam(
        loaded.network,
        loaded.variables,
        images,
        taps=("stage2", "stage4"),
        select=mj.NamedLabels((1,)),
    )
    for b in range(2):
        expected = combined([maps_of_tap[b] for maps_of_tap in raw], (64, 48))[0]
        assert expected.max() == 1
        np.testing.assert_allclose(maps[b, 0], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cam"}, "cam explains the last tap 'late' only, not 'early'; use grad_cam$"),
        ({"method": "minmax_cam"}, "use minmax_grad_cam$"),
        ({"method": "d_minmax_cam"}, "use d_minmax_grad_cam$"),
        (
            {"method": mj.Method("kernel", difference, mj.METHODS["cam"].map)},
            "the method given explains the last tap 'late' only, .*; use a gradient method$",
        ),
        ({"method": "cma"}, "unknown method 'cma'; methods: cam, "),
        ({"method": "full_grad"}, "full_grad explains the image itself, which has no layers"),
        (
            {"method": mj.METHODS["gradients"]},
            "the method given explains the image itself, which has no layers; use `explain`$",
        ),
        ({"method": ("grad_cam",)}, r"must be one name or one Method, not \('grad_cam',\)"),
        ({"taps": ("early", "middle")}, "unknown tap 'middle'; taps: early, late"),
        ({"taps": "middle"}, "unknown tap 'middle'; taps: early, late"),
        ({"taps": ()}, r"taps must be named, each once, not \(\); taps: early, late"),
        ({"taps": ("late", "late")}, "each once, not .'late', 'late'.; taps: early, late"),
        ({"activation": "tanh"}, "unknown activation 'tanh'; valid: sigmoid, softmax"),
        ({"channels": 2}, "for masking methods, and there is none among grad_cam"),
        ({"present": np.ones((4, 3), bool)}, r"present has shape \(4, 3\), the logits .* \(4, 4\)"),
        ({"images": np.zeros((4, 8, 12), np.float32)}, r"\(b H W 3\).*\(4, 8, 12\)"),
    ],
)
def test_errors(options, message, variables, images):
    images = options.pop("images", images)
    with pytest.raises(ValueError, match=message) as error:
        mj.multi_layer_cam(toys.toy_network(), variables, images, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "score", "message"),
    [
        ("gradients", difference, "unknown family 'gradients'; families: kernel, gradient, activ"),
        ("gradient", None, "a method of the family gradient needs a score"),
        ("activation", difference, "a method of the family activation takes no score"),
    ],
)
def test_a_method_has_a_family_and_what_it_needs(family, score, message):
    with pytest.raises(ValueError, match=message):
        mj.Method(family, score, gradients.grad_cam)
