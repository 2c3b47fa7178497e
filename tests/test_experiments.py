"""The paper's experiments can run: every network's training step, and whole runs on fake data."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models import create_network
from minmax_jax.recipe import NETWORKS, paper_config
from minmax_jax.train import Stage
from minmax_jax.train.stages import frozen_layers
from minmax_jax.train.step import make_optimizer, make_step_fn, trained
from tests.data import official

ROOT = pathlib.Path(__file__).parents[1]
REPRODUCE = ROOT / "docs/reproduce.md"
# Parameters without a head, as Keras counts them (statistics of batch norms included).
KERAS_COUNTS = {
    "resnet101": 42_626_560,
    "vgg16": 14_714_688,
    "efficientnet_b6": 40_960_143 - 7,  # without its normalisation of the input
}


@pytest.mark.parametrize("network", NETWORKS)
def test_training_step_can_be_traced(network):
    config = paper_config("voc07", f"{network}-kur-official")
    stage = Stage(**config.train.stages[1])
    made = create_network(
        config.network.name,
        num_labels=20,
        head=config.network.head,
        alpha=config.network.alpha,
        dropout=config.network.dropout,
        style=config.network.style,
    )
    variables = jax.eval_shape(made.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    head = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["head"]))
    assert count - head == KERAS_COUNTS[network]

    frozen = frozen_layers(made.layers, stage.unfrozen)
    assert len(frozen) / len(made.layers) == pytest.approx(0.4, abs=0.05)
    optimizer = make_optimizer(momentum=config.train.momentum, weight_decay=0.0)
    opt_state = jax.eval_shape(optimizer.init, trained(variables["params"], frozen))
    step_fn = make_step_fn(made, optimizer, frozen=frozen, stored=frozen, accumulate=1, mesh=None)
    after, _, metrics = jax.eval_shape(
        step_fn,
        variables,
        opt_state,
        jnp.zeros((2, 64, 64, 3)),
        jnp.zeros((2, 20), bool),
        jnp.zeros(1, jnp.int32),
        jnp.float32(0.01),
        jax.random.key(0),
    )
    assert after == variables and metrics["loss"].shape == ()


def test_documented_commands_and_weights_exist():
    files = [REPRODUCE, *(ROOT / "experiments").glob("*.py")]
    text = "\n".join(path.read_text() for path in files)
    found = re.findall(r"experiments/(voc07|voc12|coco17|planet)\.py(?::([\w-]+))?", text)
    assert {name for name, _ in found} == {"voc07", "voc12", "coco17", "planet"}
    for name, variant in found:
        paper_config(name, variant or None)
    reproduce = REPRODUCE.read_text()
    for network in NETWORKS.values():
        assert f"curl --create-dirs -O --output-dir weights {network.weights}\n" in reproduce


# --- Whole runs ---

WEIGHTLESS = ("network.weights=", "data.image_size=64", "report.photos=1")
ONE_STEP = ("train.batch_size=2", "train.stages[0].epochs=1", "train.stages[1].epochs=1")
ONE_BATCH = ("batch_size=2", "mask_chunk=16", "present=annotated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """All four data sets, with two images for validation."""
    folder = tmp_path_factory.mktemp("data")
    official.write_voc(folder, year="2007", train=2, validation=2, test=2)
    official.write_voc(folder, year="2012", train=2, validation=2)
    official.write_coco(folder, train=2, validation=2)
    official.write_planet(folder / "planet", number=7)
    return folder


def launch(experiment, variant, root, methods, workdir):
    """Runs an experiment's command in a process of its own, which sees one device."""
    fields = (*WEIGHTLESS, *ONE_STEP, *(f"evaluate.{field}" for field in ONE_BATCH))
    fields += (f"data.options.root={root}", f"evaluate.methods={methods}")
    if experiment in ("voc12", "coco17"):
        fields += ("network.name=mobilenet_v2",)
    command = [sys.executable, "launch.py", f"--config=experiments/{experiment}.py:{variant}"]
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *(f"--config.{field}" for field in fields)],
        cwd=ROOT,
        # Quick to compile; each program runs a few times only.
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "variant", "methods", "num_labels"),
    [
        # Score-CAM only where it has 512 channels to look through and not 2,048.
        ("voc07", "vgg16-official", ("cam", "grad_cam_plus_plus", "score_cam", "minmax_cam"), 20),
        ("voc07", "efficientnet_b6-kur", ("cam", "minmax_cam"), 20),
        # resnet101 is compiled for the last only: it takes a minute.
        ("voc12", "resnet101", ("cam", "d_minmax_cam"), 20),
        ("coco17", "resnet101", ("cam", "d_minmax_cam"), 80),
        ("planet", "resnet101-kur", ("cam", "d_minmax_cam"), 17),
    ],
)
def test_experiment_on_fake_data(experiment, variant, methods, num_labels, folder, tmp_path):
    root = folder / "planet" if experiment == "planet" else folder
    printed = launch(experiment, variant, root, methods, tmp_path)
    results = tmp_path / variant
    history = json.loads((results / "history.json").read_text())["epochs"]
    assert [row["stage"] for row in history] == [0, 1]
    assert all(np.isfinite(row["validation_loss"]) for row in history)
    classification = json.loads((results / "classification.json").read_text())
    assert len(classification["label_names"]) == num_labels
    evaluation = json.loads((results / "evaluation.json").read_text())
    assert tuple(evaluation["methods"]) == methods and evaluation["settings"]["images"] == 2
    # Of two images, with the labels 0 and 1, and 1 and 2.
    pairs = [1, 2, 1] + (num_labels - 3) * [0]
    assert all(result["pairs"] == pairs for result in evaluation["methods"].values())
    assert str(tmp_path / "report" / "index.html") in printed
    if variant == "vgg16-official":
        _check_documented_test_scores(folder, results)


def _check_documented_test_scores(folder: pathlib.Path, results: pathlib.Path) -> None:
    """The Python lines of docs/reproduce.md score the network on the test images."""
    code = re.search(r"```python\n(.*?)```", REPRODUCE.read_text(), re.DOTALL)[1]
    for wanted, here in (
        ('"runs/voc07/resnet101"', repr(str(results))),
        ('root="data"', f"root={str(folder)!r}"),
        ("image_size=512", "image_size=64"),
    ):
        assert code.count(wanted) == 1
        code = code.replace(wanted, here)
    namespace = {}
    exec(code, namespace)
    assert namespace["labels"].shape == (2, 20) and namespace["labels"].sum() == 4
    assert 0 <= namespace["scores"]["f1"]["weighted"] <= 1
