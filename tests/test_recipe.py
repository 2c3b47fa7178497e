"""The paper's experiments as configs: what each variant says, and what is no variant."""

from __future__ import annotations

import itertools
import os
import pathlib
import runpy
import sys
from unittest import mock

import pytest
from absl import flags
from ml_collections import config_flags

from minmax_jax import data
from minmax_jax.config import default_config, resolve_variant
from minmax_jax.recipe import NETWORKS, paper_config

ROOT = pathlib.Path(__file__).parents[1]
THREE = ("resnet101", "vgg16", "efficientnet_b6")
FOLDERS = {
    "voc07": ("voc", {"root": "data", "year": "2007"}),
    "voc12": ("voc", {"root": "data", "year": "2012"}),
    "coco17": ("coco", {"root": "data"}),
    "planet": ("planet", {"root": "data/planet"}),
}
TFDS = {"voc07": "voc/2007", "voc12": "voc/2012", "coco17": "coco/2017"}
# Network: ours, the side of its images, images a batch.
SETTINGS = {
    "resnet101": ("resnet101v2", 512, 16),
    "vgg16": ("vgg16", 224, 32),
    "efficientnet_b6": ("efficientnet_b6", 512, 16),
}
CASES = [
    (name, network, kur, official, tfds)
    for name in FOLDERS
    for network in (THREE if name == "voc07" else THREE[:1])
    for kur, official, tfds in itertools.product((False, True), repeat=3)
    if not tfds or name in TFDS
]


def _variant(network, kur, official, tfds):
    return network + "-kur" * kur + "-official" * official + "-tfds" * tfds


def _load(name, variant=None):
    """As the command line calls an experiment's file."""
    get_config = runpy.run_path(str(ROOT / f"experiments/{name}.py"))["get_config"]
    return get_config(*([] if variant is None else [variant]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}:{_variant(*case[1:])}")
def test_variant(case):
    name, network, kur, official, tfds = case
    variant = _variant(*case[1:])
    whole = _load(name, variant)
    assert whole.is_locked and list(whole.variants) == [variant]
    config = resolve_variant(whole, variant)

    ours, size, batch = SETTINGS[network]
    if name == "planet":
        size, batch = 256, 32
    assert config.network.name == ours and config.network.style == "keras"
    assert config.network.weights.startswith("weights/") and config.network.weights.endswith(".h5")
    assert config.network.head == ("kur" if kur else "dense") and config.network.alpha == 1.0
    assert config.network.dropout == (0.5 if official and name == "voc07" else 0.0)
    assert (config.data.image_size, config.train.batch_size) == (size, batch)
    assert config.data.resize == ("letterbox" if official else "crop")
    assert set(config.augment.to_dict().values()) == {official}
    assert config.train.cache_features is not official

    source, options = FOLDERS[name]
    if tfds:
        source, options = "tfds", {"name": TFDS[name], "data_dir": ""}
    assert (config.data.source, config.data.options.to_dict()) == (source, options)

    # Section 4.2 of the paper.
    assert [dict(stage) for stage in config.train.stages] == [
        {"epochs": 30, "learning_rate": 0.1, "unfrozen": 0.0},
        {"epochs": 80, "learning_rate": 0.01, "unfrozen": 0.6},
    ]
    assert (config.train.momentum, config.train.weight_decay) == (0.9, 0.0)
    assert (config.train.plateau_patience, config.train.plateau_factor) == (3, 0.5)
    assert config.train.early_stop == 20
    # The columns of tables 1 to 3.
    assert config.evaluate.methods == (
        "cam",
        "grad_cam_plus_plus",
        "score_cam",
        "minmax_cam",
        "d_minmax_cam",
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_variants_have_the_fields_of_every_config(name):
    expected = default_config().to_dict()
    config = _load(name)
    for variant in config.variants:
        found = resolve_variant(config, variant).to_dict()
        assert set(found) == set(expected) - {"variants"}
        for section, fields in found.items():
            if isinstance(fields, dict):
                assert set(fields) == set(expected[section]), section


@pytest.mark.parametrize("name", FOLDERS)
def test_without_a_variant_all_networks_plain_and_regularised(name):
    config = _load(name)
    networks = THREE if name == "voc07" else THREE[:1]
    names = {network + head for network in networks for head in ("", "-kur")}
    assert config.is_locked and set(config.variants) == names
    for variant in names:
        alone = resolve_variant(_load(name, variant), variant)
        assert resolve_variant(config, variant).to_dict() == alone.to_dict()


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("voc07", "resnet50", "'resnet50' of voc07; variants: resnet101, vgg16, efficientnet_b6,"),
        ("voc12", "vgg16", "variants: resnet101, each with any of -kur, -official, -tfds after it"),
        ("coco17", "resnet101-tfds-kur", "-kur, -official, -tfds after it, in this order"),
        ("planet", "resnet101-tfds", "resnet101, each with any of -kur, -official after it"),
        ("planet", "", "unknown variant '' of planet"),
    ],
)
def test_no_variant(name, variant, message):
    with pytest.raises(ValueError) as error:
        _load(name, variant)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_data_set():
    with pytest.raises(ValueError, match="'voc08'; data sets: voc07, voc12, coco17, planet$"):
        paper_config("voc08")


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections' way to read a file
def test_command_line_overrides_fields(monkeypatch):
    arguments = [
        "launch.py",
        "--config=experiments/voc07.py:vgg16-kur-official",
        "--config.data.options.root=elsewhere",
        "--config.network.alpha=20",
        "--config.train.stages[1].epochs=3",
        "--config.train.batch_size=8",
    ]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", arguments)  # where ml_collections looks for the fields
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    values(arguments)
    config = resolve_variant(holder.value, "vgg16-kur-official")
    assert config.data.options.root == "elsewhere" and config.network.alpha == 20.0
    assert config.train.stages[1]["epochs"] == 3 and config.train.batch_size == 8


@pytest.mark.parametrize("name", FOLDERS)
def test_sources_know_their_options(name, tmp_path):
    """A missing data set is answered with what is to be unpacked where."""
    options = _load(name, "resnet101").data
    settings = options.options.to_dict() | {"root": str(tmp_path)}
    with pytest.raises(ValueError, match=f"(U|u)npack .*{tmp_path}"):
        data.create_source(options.source, "train", **settings)


@pytest.mark.parametrize(("name", "known_as"), TFDS.items())
def test_tfds_sources_know_their_options(name, known_as, tmp_path):
    options = _load(name, "resnet101-tfds").data
    settings = options.options.to_dict() | {"data_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=f"tfds build {known_as} --file_format=array_record"):
        data.create_source(options.source, "validation", **settings)


def test_weights_are_those_of_keras():
    with mock.patch.dict(os.environ, KERAS_BACKEND="jax"):
        pytest.importorskip("keras", reason="keras is not installed")
        from keras.src.applications import efficientnet, resnet, vgg16
    assert set(NETWORKS) == set(THREE)
    assert NETWORKS["vgg16"].weights == vgg16.WEIGHTS_PATH_NO_TOP
    assert "resnet101v2" in resnet.WEIGHTS_HASHES and "b6" in efficientnet.WEIGHTS_HASHES
    file = "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert NETWORKS["resnet101"].weights == resnet.BASE_WEIGHTS_PATH + file
    file = "efficientnetb6_notop.h5"
    assert NETWORKS["efficientnet_b6"].weights == efficientnet.BASE_WEIGHTS_PATH + file
    for network, settings in NETWORKS.items():
        file = settings.weights.split("/")[-1]
        assert paper_config("voc07", network).network.weights == f"weights/{file}"
