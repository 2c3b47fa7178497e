"""Every network that has a name."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models import NETWORKS, Normalize, create_network, styles_of
from minmax_jax.models.preprocess import IMAGENET, IMAGENET_BGR, MINUS_ONE_TO_ONE
from tests.models.filling import filled

# Numbers with 1,000 labels as the frameworks publish them: torchvision counts parameters
# (`num_params` of its weights), Keras also the statistics of batch normalisation (`count_params`).
PUBLISHED = {
    "resnet18": {"torchvision": 11_689_512},
    "resnet34": {"torchvision": 21_797_672},
    "resnet50": {"torchvision": 25_557_032, "keras": 25_636_712},
    "resnet101": {"torchvision": 44_549_160, "keras": 44_707_176},
    "resnet152": {"torchvision": 60_192_808, "keras": 60_419_944},
    "resnet50v2": {"keras": 25_613_800},
    "resnet101v2": {"keras": 44_675_560},
    "resnet152v2": {"keras": 60_380_648},
    "efficientnet_b0": {"torchvision": 5_288_548, "keras": 5_330_571},
    "efficientnet_b1": {"torchvision": 7_794_184, "keras": 7_856_239},
    "efficientnet_b2": {"torchvision": 9_109_994, "keras": 9_177_569},
    "efficientnet_b3": {"torchvision": 12_233_232, "keras": 12_320_535},
    "efficientnet_b4": {"torchvision": 19_341_616, "keras": 19_466_823},
    "efficientnet_b5": {"torchvision": 30_389_784, "keras": 30_562_527},
    "efficientnet_b6": {"torchvision": 43_040_704, "keras": 43_265_143},
    "efficientnet_b7": {"torchvision": 66_347_960, "keras": 66_658_687},
    "mobilenet_v2": {"torchvision": 3_504_872, "keras": 3_538_984},
    # Keras' without the fully connected layers, and a head on 512 features.
    "vgg16": {"keras": 14_714_688 + 513_000, "torchvision": 14_714_688 + 513_000},
    "vgg19": {"keras": 20_024_384 + 513_000, "torchvision": 20_024_384 + 513_000},
    # Ours: a stem, eight 3x3 convolutions, two shortcuts, a head.
    "scenes_resnet": {
        "own": sum(
            (
                *(7 * 7 * 3 * 16 + 4 * 16, 2 * (9 * 16 * 16 + 4 * 16)),
                *(9 * 16 * 32 + 9 * 32 * 32 + 16 * 32 + 3 * 4 * 32,),
                *(9 * 32 * 64 + 9 * 64 * 64 + 32 * 64 + 3 * 4 * 64,),
                *(2 * (9 * 64 * 64 + 4 * 64), 65 * 1000),
            )
        )
    },
}
# timm's are torchvision's.
PUBLISHED = {
    name: counts | ({"timm": counts["torchvision"]} if "torchvision" in counts else {})
    for name, counts in PUBLISHED.items()
}
NORMALIZATION = 7  # numbers in the layer of that name, which Keras' EfficientNets begin with
# Activations of one image of native size.
STRIDES = ("stride2", "stride4", "stride8", "stride16", "stride32")
STAGES = ("stage1", "stage2", "stage3", "stage4")
BLOCKS = ("block1", "block2", "block3", "block4", "block5")
BOTTLENECKS = dict(zip(STAGES, [(56, 256), (28, 512), (14, 1024), (7, 2048)], strict=True))
BASIC = dict(zip(STAGES, [(56, 64), (28, 128), (14, 256), (7, 512)], strict=True))
V2 = dict(zip(STAGES, [(28, 256), (14, 512), (7, 1024), (7, 2048)], strict=True))
VGG = dict(zip(BLOCKS, [(224, 64), (112, 128), (56, 256), (28, 512), (14, 512)], strict=True))
TAPS = {
    "scenes_resnet": dict(zip(BLOCKS, [(24, 16), (12, 32), (12, 64), (12, 64)], strict=False)),
    "vgg16": VGG,
    "vgg19": VGG,
    "resnet18": BASIC,
    "resnet34": BASIC,
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), BOTTLENECKS),
    **dict.fromkeys(("resnet50v2", "resnet101v2", "resnet152v2"), V2),
    "mobilenet_v2": dict(
        zip(STRIDES, [(112, 96), (56, 144), (28, 192), (14, 576), (7, 1280)], strict=True)
    ),
    # Expanded channels, 6 times those of the stage before; sides are halved and rounded up.
    **{
        f"efficientnet_b{number}": {
            stride: (-(-size // int(stride[6:])), features)
            for stride, features in zip(STRIDES, all_features, strict=True)
        }
        for number, (size, *all_features) in enumerate(
            (
                (224, 96, 144, 240, 672, 1280),
                (240, 96, 144, 240, 672, 1280),
                (260, 96, 144, 288, 720, 1408),
                (300, 144, 192, 288, 816, 1536),
                (380, 144, 192, 336, 960, 1792),
                (456, 144, 240, 384, 1056, 2048),
                (528, 192, 240, 432, 1200, 2304),
                (600, 192, 288, 480, 1344, 2560),
            )
        )
    },
}
# (first, last layers in forward order)
LAYERS = {
    "scenes_resnet": (("stem_conv", "stem_bn", "block1_1_conv"), ("block4_2_bn", "head")),
    "mobilenet_v2": (
        ("Conv1", "bn_Conv1", "expanded_conv_depthwise"),
        ("block_16_project", "block_16_project_BN", "Conv_1", "Conv_1_bn", "head"),
    ),
    "vgg16": (("block1_conv1", "block1_conv2", "block2_conv1"), ("block5_conv3", "head")),
    "resnet50v2": (("conv1_conv", "conv2_block1_preact_bn"), ("post_bn", "head")),
}
# One network of each family, the smallest; what holds for it holds for its sisters.
FAMILIES = ("scenes_resnet", "vgg16", "resnet18", "resnet50v2", "efficientnet_b0", "mobilenet_v2")
# For tests that compile twice: the deepest takes as long as all the others.
SLOWEST_APART = [
    pytest.param(name, marks=pytest.mark.slow if name == "efficientnet_b0" else ())
    for name in FAMILIES
]


def shapes_of(network):
    """Of the variables; nothing is computed."""
    return jax.eval_shape(network.init, jax.random.key(0))


def test_every_name_and_style_is_in_the_tables():
    assert set(PUBLISHED) == set(TAPS) == set(NETWORKS)
    assert {name: set(counts) for name, counts in PUBLISHED.items()} == {
        name: set(styles_of(name)) for name in NETWORKS
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_layers_and_activations(name):
    for style, published in PUBLISHED[name].items():
        if style == "timm":
            continue  # counted as torchvision's
        network = create_network(name, num_labels=1000, style=style)
        variables = shapes_of(network)
        counted = variables if style in ("keras", "own") else variables["params"]
        count = sum(value.size for value in jax.tree.leaves(counted))
        left_out = NORMALIZATION if style == "keras" and "efficientnet" in name else 0
        assert count + left_out == published, style
        assert network.name == name and network.style == style
    images = jax.ShapeDtypeStruct((1, network.image_size, network.image_size, 3), jnp.float32)
    logits, taps = jax.eval_shape(network.apply, variables, images)
    assert logits.shape == (1, 1000) and logits.dtype == jnp.float32
    expected = {tap: (side, side, features) for tap, (side, features) in TAPS[name].items()}
    assert {tap: value.shape[1:] for tap, value in taps.items()} == expected
    assert network.taps == tuple(expected)
    assert set(network.layers) == set(variables["params"]) >= set(variables["batch_stats"])
    first, last = LAYERS.get(name, ((), ("head",)))
    assert network.layers[: len(first)] == first
    assert network.layers[-len(last) :] == last
    for path, _ in jax.tree.leaves_with_path(variables):
        assert len(path) == 3  # {collection: {layer: {array}}}: flat


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_differ_in_nothing_but_the_kernel_used(name):
    variables = {
        head: shapes_of(create_network(name, num_labels=7, head=head)) for head in ("dense", "kur")
    }
    assert jax.tree.map(jnp.shape, variables["dense"]) == jax.tree.map(jnp.shape, variables["kur"])
    network = create_network(name, num_labels=2, head="kur", alpha=4.0)
    kernel = jnp.full((3, 2), 0.5)
    used = network.head_kernel({"params": {"head": {"kernel": kernel}}})
    np.testing.assert_allclose(used, 4 * kernel / 2)


@functools.lru_cache(maxsize=1)
def inferred(name):
    """Random variables and images, and what the network makes of them."""
    network = create_network(name, num_labels=3)
    variables = filled(network)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 33, 40, 3)).astype(np.float32)
    logits, taps = jax.jit(network.apply)(variables, images)
    return network, variables, images, logits, taps


@pytest.mark.parametrize("name", SLOWEST_APART)
def test_all_layers_frozen_is_inference_but_for_what_is_dropped(name):
    network, variables, images, logits, taps = inferred(name)
    swish = "efficientnet" in name
    lowest = {"resnet50v2": -np.inf}.get(name, -0.279 if swish else 0)
    assert all((value >= lowest).all() and (value > 0).any() for value in taps.values())
    run = jax.jit(network.train_apply, static_argnames="frozen")
    frozen = frozenset(network.layers)
    same, stats = run(variables, images, key=jax.random.key(0), frozen=frozen)
    if swish:  # its blocks are dropped at random
        other, _ = run(variables, images, key=jax.random.key(1), frozen=frozen)
        assert not np.allclose(same, other, rtol=1e-3)
        again, _ = run(variables, images, key=jax.random.key(0), frozen=frozen)
        np.testing.assert_array_equal(same, again)
    else:
        np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize("name", SLOWEST_APART)
def test_bfloat16_is_roughly_the_same_and_keeps_float32_where_it_counts(name):
    _, variables, images, exact, _ = inferred(name)
    assert {value.dtype for value in jax.tree.leaves(variables)} == {np.dtype("float32")}
    network = create_network(name, num_labels=3, dtype="bfloat16")
    logits, taps = jax.jit(network.apply)(variables, images)
    assert logits.dtype == jnp.float32
    assert {value.dtype for value in taps.values()} == {jnp.dtype("bfloat16")}
    # Eight bits of mantissa, rounded in each of many layers.
    np.testing.assert_allclose(logits, exact, rtol=0.15, atol=0.15 * np.abs(exact).max())
    train_apply = functools.partial(network.train_apply, key=jax.random.key(0), frozen=frozenset())
    _, stats = jax.eval_shape(train_apply, variables, images)
    assert all(value.dtype == jnp.float32 for value in jax.tree.leaves(stats))


def test_frozen_layers_keep_their_statistics():
    network = create_network("resnet18", num_labels=3)
    variables = filled(network)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 33, 40, 3)).astype(np.float32)
    half = frozenset(network.layers[: len(network.layers) // 2])
    run = jax.jit(network.train_apply, static_argnames="frozen")
    _, stats = run(variables, images, key=jax.random.key(0), frozen=half)
    moved = {
        layer
        for layer, arrays in stats.items()
        if (arrays["mean"] != variables["batch_stats"][layer]["mean"]).any()
    }
    assert moved == set(stats) - half and moved


def test_drop_connect_skips_later_blocks_more_often():
    network = create_network("efficientnet_b0", num_labels=2, dropout=0.3)
    variables = shapes_of(network)
    rates = []

    def record(run, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return run(*args, **kwargs)

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    train_apply = functools.partial(
        network.train_apply, key=jax.random.key(0), frozen=frozenset(network.layers)
    )
    with nn.intercept_methods(record):
        jax.eval_shape(train_apply, variables, images)
    # Of 16 blocks, those that keep the shape of their input.
    with_shortcut = (2, 4, 6, 7, 9, 10, 12, 13, 14)
    np.testing.assert_allclose(rates, [0.2 * block / 16 for block in with_shortcut] + [0.3])


def test_preprocessing_goes_with_the_style():
    photo = np.array([[[0, 127, 255]]], np.uint8)
    published = {
        ("resnet50", "torchvision"): IMAGENET,
        ("resnet50", "keras"): IMAGENET_BGR,
        ("resnet50v2", "keras"): MINUS_ONE_TO_ONE,
        ("vgg16", "keras"): IMAGENET_BGR,
        ("vgg16", "timm"): IMAGENET,
        ("mobilenet_v2", "keras"): MINUS_ONE_TO_ONE,
        ("mobilenet_v2", "torchvision"): IMAGENET,
        ("efficientnet_b0", "keras"): IMAGENET,
    }
    for (name, style), expected in published.items():
        assert create_network(name, num_labels=2, style=style).preprocess == expected
    own = Normalize((1, 2, 3), (4, 5, 6))
    network = create_network("resnet18", num_labels=2, preprocess=own)
    np.testing.assert_allclose(network.preprocess(photo)[0, 0], [-0.25, 25, 42])


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="unknown network 'vgg'; networks are .*mobilenet_v2"):
        create_network("vgg", num_labels=2)
    with pytest.raises(
        ValueError, match=r"unknown head 'mlp'; heads are \['dense', 'kur', .*'acol'"
    ):
        create_network("scenes_resnet", num_labels=2, head="mlp")
    for steps in (0, 2.5, True):
        with pytest.raises(ValueError, match="alpha_steps must be a positive int"):
            create_network("scenes_resnet", num_labels=2, alpha_steps=steps)
    for wrong in (float("nan"), float("inf"), 0, "3"):
        for factor in ("alpha", "alpha_end"):
            with pytest.raises(ValueError, match=f"{factor} must be a finite number above 0, got"):
                create_network("scenes_resnet", num_labels=2, **{factor: wrong})
    with pytest.raises(
        ValueError, match=r"unknown attention 'se'; attentions are \['none', 'cbam'\]"
    ):
        create_network("resnet18", num_labels=2, attention="se")
    with pytest.raises(ValueError, match="vgg16 has no attention 'cbam'; networks .*'resnet152'"):
        create_network("vgg16", num_labels=2, attention="cbam")
    with pytest.raises(ValueError, match="unknown style 'keras' of resnet18; its styles are"):
        create_network("resnet18", num_labels=2, style="keras")
    with pytest.raises(ValueError, match="unknown dtype 'float16'; dtypes are"):
        create_network("resnet18", num_labels=2, dtype="float16")
    for num_labels in (0, 2.5, True):
        with pytest.raises(ValueError, match="num_labels must be a positive int"):
            create_network("scenes_resnet", num_labels=num_labels)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
            create_network("scenes_resnet", num_labels=2, dropout=dropout)
