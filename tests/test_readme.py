"""The README's Python runs as it stands."""

from __future__ import annotations

import pathlib
import re
import types

import jax
import numpy as np
import pytest
from PIL import Image

import minmax_jax as mj
from tests.pretrained import writers

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, and weights of Keras' MobileNetV2, all zero but for the head."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    (folder / "holiday").mkdir()
    photo = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(photo).save(folder / "holiday" / "cat.jpg")
    network = mj.create_network("mobilenet_v2", num_labels=1000)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    keras = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}
    layers = {}
    for layers_of in shapes.values():
        for layer, arrays in layers_of.items():
            for name, shape in arrays.items():
                normalised = "scale" in shapes["params"][layer]
                theirs = "beta" if normalised and name == "bias" else keras.get(name, name)
                size = shape.shape if shape.shape[2:3] != (1,) else (*shape.shape[:2], -1, 1)
                own = layers.setdefault("predictions" if layer == "head" else layer, {})
                value = np.full(shape.shape, 0.5 if name == "var" else 0.1, np.float32)
                if layer == "head":
                    value = rng.standard_normal(shape.shape).astype(np.float32)
                own[theirs] = value.reshape(size)
    writers.write_legacy(folder / "mobilenet_v2.h5", layers)
    return folder


def test_there_are_examples():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("number", range(3))
def test_an_example_runs(number, folder, monkeypatch):
    monkeypatch.chdir(folder)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    names = {"mj": mj, "images": images} if number == 2 else {}  # what a block before it made
    exec(BLOCKS[number].replace(":224, :224", ":64, :64"), names)
    maps, labels = names["maps"], {0: 21, 1: 3, 2: 5}[number]
    assert maps.shape[:2] == (1 if number == 1 else 2, labels)
    assert np.isfinite(maps).all() and (np.asarray(maps) >= 0).all()
    if number < 2:
        assert names["masks"].shape[2:] == (224, 224) and names["masks"].max() <= 1
    if number == 1:
        top = np.argsort(-np.asarray(names["logits"]), axis=1)[:, :3]
        np.testing.assert_array_equal(names["chosen"].labels, top)


def test_a_method_is_added_as_contributing_says():
    """Its function is the code's own, its line is in the list, its test passes."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    function, line, test = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert line.strip() in (ROOT / "minmax_jax" / "methods.py").read_text(encoding="utf-8")
    names = {"jax": jax, "np": np}
    exec(f"from __future__ import annotations\n{function}", names)
    own = names["layer_cam"]
    # Under no other names than the test's file imports.
    names = {"np": np, "gradients": types.SimpleNamespace(layer_cam=own)}
    exec(f"{test}\ntest_layer_cam()", names)
    arrays = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    np.testing.assert_allclose(mj.METHODS["layer_cam"].map(*arrays), own(*arrays), rtol=1e-5)


def test_links_of_the_documentation_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(pages) > 10
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
