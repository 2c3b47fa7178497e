"""The benchmarks run, and their figures follow from times that are known."""

from __future__ import annotations

import datetime
import json
import os
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    accelerator,
    approximations,
    bfloat16,
    explain,
    forward,
    growth,
    harness,
    peers,
    score_cam,
    sweep,
)
from benchmarks import methods as methods_benchmark
from minmax_jax import METHODS, Network, methods
from minmax_jax.run import run
from tests import toys
from tests.test_run import tiny_config

SIZE = 8
_SHARE = "masks/s over forward images/s"


def toy_network(name, *, num_labels, dtype="float32", head="dense"):
    """In place of `create_network`; with the head "acol" its last tap has that name."""
    del dtype
    acol = {"apply": acol_apply, "taps": ("early", "acol")} if head == "acol" else {}
    return toys.toy_network(
        **acol,
        name=name,
        image_size=SIZE,
        init=lambda key: toys.toy_variables(num_labels),
        preprocess=lambda images: images.astype(np.float32) / 255,
    )


def acol_apply(variables, images, perturbations=None):
    late = (perturbations or {}).get("acol")
    perturbations = None if late is None else {"late": late}
    logits, taps = toys.toy_apply(variables, images, perturbations)
    return logits, {"early": taps["early"], "acol": taps["late"]}


@pytest.fixture
def toy(monkeypatch):
    """Networks that compile in no time, and two methods to explain them."""
    for module in (explain, sweep, growth):
        monkeypatch.setattr(module, "LAST_LAYER", ("cam", "grad_cam"))
    for module in (harness, score_cam, sweep, growth):
        monkeypatch.setattr(module, "create_network", toy_network)


def set_clock(monkeypatch, call):
    """`harness.seconds` calls each function once: the first took 1 s, the second 2 s, ..."""

    def seconds(functions, *, repeats):
        del repeats
        for function in functions.values():
            call(function)
        return {name: float(number) for number, name in enumerate(functions, 1)}

    monkeypatch.setattr(harness, "seconds", seconds)


@pytest.fixture
def clock(monkeypatch):
    """Times that are known; what is timed is traced and not compiled."""
    set_clock(monkeypatch, jax.eval_shape)


@pytest.fixture
def rows(tmp_path):
    """Runs a benchmark; its rows `[(what, unit, value)]` as the JSON has them."""

    def rows(module, *arguments):
        module.main([*arguments, "--json", str(tmp_path / "rows.json")])
        found = json.loads((tmp_path / "rows.json").read_text())["rows"]
        return [(row["what"], row["unit"], row["value"]) for row in found]

    return rows


def value_of(rows, text, unit=""):
    """Of the only row whose name ends so and that has this unit, or any."""
    [value] = [row[2] for row in rows if row[0].endswith(text) and unit in ("", row[1])]
    return value


def test_seconds_takes_turns_and_the_fastest_but_never_the_first(monkeypatch):
    now, calls = 0.0, []
    durations = {"a": iter([0.5, 3.0, 2.0, 4.0]), "b": iter([0.1, 7.0, 8.0, 9.0])}

    def call(name):
        nonlocal now
        calls.append(name)
        now += next(durations[name])
        return np.zeros(1)

    monkeypatch.setattr(harness.time, "perf_counter", lambda: now)
    functions = {"a": lambda: call("a"), "b": lambda: call("b")}
    assert harness.seconds(functions, repeats=3) == {"a": 2.0, "b": 7.0}
    assert calls == ["a", "b"] * 4


def test_the_report_tells_how_its_figures_came_about(tmp_path, capsys):
    rows = [
        harness.Row("bytes", 3.0, "MiB"),
        harness.Row("slow", 1.5, "passes", 1.2),
        harness.Row("fast", 5.0, "times faster", 5.0, "high"),
    ]
    options = harness.parser("").parse_args(["--json", str(tmp_path / "rows.json")])
    before = datetime.date.today()
    harness.report(rows, options, peers=("numpy",))
    found = json.loads((tmp_path / "rows.json").read_text())
    assert before <= datetime.date.fromisoformat(found["date"]) <= datetime.date.today()
    assert found["command"].startswith("python ") and sys.orig_argv[-1] in found["command"]
    assert found["device"] == "cpu: cpu" and found["cores"] == os.cpu_count()
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__ and "jaxlib" in found["versions"]
    assert [row["met"] for row in found["rows"]] == [None, False, True]
    assert set(found["rows"][0]) == {"what", "value", "unit", "goal", "good", "met"}
    table = capsys.readouterr().out
    assert "goal at most 1.2 MISSED" in table and "goal at least 5 met" in table


@pytest.mark.parametrize("size", [8, 13])
def test_random_images_fill_their_range(size):
    images = harness.random_images(3, size)
    assert images.shape == (3, size, size, 3) and images.dtype == np.float32
    assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(("number", "live"), [(4, None), (13, None), (13, 5), (6, 0)])
def test_channels_are_as_many_and_as_flat_as_told(number, live):
    network, variables = toys.toy_network(), toys.toy_variables()
    images = toys.toy_images(3)  # the first is all zero, and one channel is dead in all
    logits, activations = network.apply(variables, images)
    found, wide = harness.with_channels(network, number, live=live).apply(variables, images)
    np.testing.assert_array_equal(found, logits)
    np.testing.assert_array_equal(wide["early"], activations["early"])
    late = np.asarray(wide["late"])
    assert late.shape == (*activations["late"].shape[:3], number)
    flat = late.max(axis=(1, 2)) == late.min(axis=(1, 2))
    wanted = np.arange(number) >= (number if live is None else live)
    np.testing.assert_array_equal(flat, np.broadcast_to(wanted, flat.shape))


@pytest.mark.parametrize(("number", "batch", "made"), [(8, 4, 8), (9, 4, 12), (1, 4, 4)])
def test_bare_passes_forward_what_they_say(number, batch, made):
    network, variables = toys.toy_network(), toys.toy_variables()
    passes, images = harness.bare_passes(network, variables, 8, number=number, batch=batch)
    assert images == made == sum(len(logits) for logits in passes())


def test_a_new_process_has_devices_of_its_own():
    assert harness.in_new_process(jax.device_count, devices=3) == 3


def test_explain_compares_with_the_forward_pass(toy, clock, rows):
    found = rows(explain, "--networks", "toy", "--batch", "2", "--size", "8")
    # Two methods, both together, the forward pass in the fourth place; with 1 label, a fifth.
    assert [row[2] for row in found] == [1 / 4, 2 / 4, 3 / 4, 5 / 4, 1 / 4, 2 / 4, 3 / 4]
    assert found[3][0] == "toy, multi_layer_cam, 1 label"


def test_the_last_layer_has_seven_methods():
    assert len(explain.LAST_LAYER) == 7
    assert set(explain.LAST_LAYER) == set(methods.PAPER_METHODS) - {"score_cam"}


def test_every_method_has_its_cost(toy, clock, rows):
    """One after the other, each beside the forward pass."""
    found = rows(methods_benchmark, "--networks", "toy", "--batch", "2", "--size", "8")
    names = [row[0].split(", ")[1] for row in found]
    assert sorted(names) == sorted(METHODS)
    assert {row[2] for row in found} == {2.0}
    assert found[0][0] == "toy, cam, 3 labels"


def test_score_cam_compares_like_with_like(toy, clock, rows, monkeypatch):
    resident = {256: 3.0 * 2**20, 2048: 6.0 * 2**20}
    monkeypatch.setattr(
        harness, "in_new_process", lambda function, name, size, channels, chunk: resident[channels]
    )
    monkeypatch.setattr(score_cam, "_declared_bytes", lambda *args: resident[args[2]] / 3)
    arguments = ("--networks", "toy", "--channels", "10", "--chunks", "4,5", "--size", "8")
    found = rows(score_cam, *arguments)
    # In turn: 12 and 10 bare images, 10 masks in fours and in fives, half of them flat, one label.
    assert value_of(found, "batches of 4", "images/s") == 12.0
    assert value_of(found, "batches of 5", "images/s") == 5.0
    assert value_of(found, "chunks of 4", _SHARE) == pytest.approx(10 / 3 / 12)
    assert value_of(found, "chunks of 5", _SHARE) == pytest.approx(10 / 4 / 5)
    assert value_of(found, "half flat") == pytest.approx(5 / 3)
    assert value_of(found, "20 labels") == pytest.approx(3 / 6)
    assert value_of(found, "declared, 256 channels") == 1.0
    assert value_of(found, "declared, 2048 channels") == 2.0
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert value_of(found, "resident, 256 channels") == 3.0
        assert value_of(found, "resident, 2048 channels") == 2.0


def test_declared_memory_holds_the_channels(toy):
    few, many = (score_cam._declared_bytes("toy", SIZE, channels, 4) for channels in (256, 2048))
    # At least the weights of the channels added, of every label, in float32.
    assert many - few >= 4 * 20 * (2048 - 256)


def test_sweep_counts_the_passes_of_pairs(toy, rows, monkeypatch):
    set_clock(monkeypatch, lambda function: function())
    batches = sweep.random_batches(11, SIZE, 4)
    labels = np.concatenate([batch["labels"] for batch in batches])
    assert [len(batch["image"]) for batch in batches] == [4, 4, 3]
    assert labels.sum(axis=1).min() >= 1 and labels.sum(axis=1).max() <= 5
    found = rows(
        sweep,
        *("--networks", "toy", "--images", "11", "--batch", "4", "--size", "8"),
        *("--padding-images", "11"),
    )
    masked = 2 * 2 * labels.sum()  # two passes a pair, two methods
    assert value_of(found, "toy, evaluation", "masked passes/s") == pytest.approx(masked / 3)
    assert value_of(found, "evaluation, over batches of 8") == pytest.approx(masked / 3 / (16 / 1))
    assert value_of(found, "evaluation, over batches of 32") == pytest.approx(masked / 3 / (32 / 2))
    share = value_of(found, "padding, 11 images") / 100
    padding = share * masked / (1 - share)  # whole passes, in pairs, of one chunk
    assert padding == pytest.approx(round(padding)) and round(padding) % 2 == 0


def test_operations_are_those_of_the_convolution():
    kernel = np.ones((3, 3, 3, 10), np.float32)

    def apply(variables, images, perturbations=None):
        out = jax.lax.conv_general_dilated(
            images, variables, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out.reshape(len(images), -1), {"last": out}

    network = Network(apply=apply, taps=("last",))
    images = np.zeros((4, 9, 12, 3), np.float32)
    by_hand = 2 * (7 * 10) * (3 * 3 * 3) * 10
    assert accelerator.operations(network, kernel, images) == by_hand


def test_accelerator_projects_from_the_rate(toy, clock, rows):
    found = rows(
        accelerator,
        *("--networks", "toy", "--size", "8", "--channels", "12", "--chunk", "5"),
        *("--peak", "1e6"),
    )
    assert value_of(found, "chunks of 5", "masks/s") == 12 / 2
    assert value_of(found, "batches of 5", "images/s") == 15 / 1
    assert value_of(found, "Score-CAM", _SHARE) == pytest.approx(6 / 15)
    each = 1e9 * value_of(found, "forward pass", "1e9 operations an image")
    assert value_of(found, "Score-CAM", "of the dense peak") == pytest.approx(each * 6 / 1e6)
    hours = value_of(found, "of 2510 images x 2048 channels")
    assert hours == pytest.approx(2510 * 2048 / 6 / 3600)


def test_an_unknown_accelerator_needs_a_peak(capsys):
    with pytest.raises(SystemExit):
        accelerator.main([])
    assert "the peak of 'cpu' is not known: give --peak" in capsys.readouterr().err


def test_growth_is_relative_to_the_smallest(toy, clock, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "in_new_process", lambda function, *args, devices: function(*args))
    monkeypatch.setattr(growth, "_FACTORS", (1, 4))
    monkeypatch.setattr(growth.parallel, "make_mesh", lambda: None)
    found = rows(
        growth,
        *("--networks", "toy", "--size", "8", "--batch", "4", "--channels", "3"),
        *("--devices", "1,2", "--plot", str(tmp_path / "growth.png")),
    )
    maps, masks = growth._SERIES
    # Two series in turn at each factor; of channels, one series grows.
    expected = {
        ("images", maps): [1, 3],
        ("images", masks): [1, 2],
        ("labels", maps): [1, 3],
        ("labels", masks): [1, 2],
        ("channels", masks): [1, 3 / 2],
        ("devices", maps): [1, 1],
        ("devices", masks): [1, 1],
    }
    for (axis, series), values in expected.items():
        assert [row[2] for row in found if f"{series}, {axis} x" in row[0]] == values
    assert len(found) == sum(map(len, expected.values()))
    with Image.open(tmp_path / "growth.png") as image:
        assert image.format == "PNG"


def test_growth_is_drawn_beside_the_ideal():
    maps, masks = growth._SERIES
    costs = {
        "images": {maps: {1: 1.0, 2: 2.2}, masks: {1: 1.0, 2: 2.5}},
        "devices": {masks: {1: 1.0, 8: 1.4}},
    }
    images, devices = growth.draw(costs, "title").axes
    drawn = [list(zip(*line.get_data(), strict=True)) for line in images.lines]
    assert drawn == [[(1, 1), (2, 2)], [(1, 1), (2, 2.2)], [(1, 1), (2, 2.5)]]
    drawn = [list(zip(*line.get_data(), strict=True)) for line in devices.lines]
    assert drawn == [[(1, 1), (8, 1)], [(1, 1), (8, 1.4)]]
    assert images.get_ylabel() and images.get_xlabel() == "images, relative"


def test_growth_refuses_batches_that_devices_cannot_share(capsys):
    with pytest.raises(SystemExit):
        growth.main(["--batch", "6"])
    assert "--batch 6 cannot be split evenly over 8 devices" in capsys.readouterr().err


def test_approximations_of_all_channels_are_exact(clock, rows, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(2):
        photo = rng.integers(0, 256, (20, 16, 3)).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    loaded = types.SimpleNamespace(
        network=toy_network("toy", num_labels=4),
        variables=toys.toy_variables(4),
        activation="softmax",
    )
    monkeypatch.setattr(approximations, "load_network", lambda *args, **kwargs: loaded)
    found = rows(
        approximations,
        *("--weights", "toy", "--images", str(tmp_path), "--labels", "2"),
        *("--channels", "1,6", "--clusters", "2", "--photos", "2"),
    )
    assert value_of(found, "exact Score-CAM") == 2 / 1  # images in the first second
    assert value_of(found, ", 1 channels", "times faster") == 1 / 2
    assert value_of(found, "2 clusters", "times faster") == 1 / 4
    assert value_of(found, ", 6 channels", "largest difference") < 1e-6
    assert value_of(found, ", 6 channels", "correlation") == pytest.approx(1)
    assert value_of(found, ", 1 channels", "largest difference") > 0.1


def test_bfloat16_tells_percent_points():
    exact = {"macro": {"iou": 0.5, "f1_plus": None, "f1_minus": 0.1}, "pairs": [3, 4]}
    other = {"macro": {"iou": 0.498, "f1_plus": 0.2, "f1_minus": 0.103}, "pairs": [5, 3]}
    rows = bfloat16._rows("cam", exact, other)
    assert [row.what for row in rows] == ["cam, iou", "cam, f1_minus", "cam, pairs"]
    assert [row.value for row in rows] == pytest.approx([0.2, 0.3, 3])
    assert rows[1].met is False and rows[2].unit == "of 7 pairs more or fewer"


def test_peers_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(SystemExit, match="pip install torch torchvision grad-cam"):
        peers.main([])


@pytest.mark.slow
def test_peers_make_the_same_maps(rows):
    pytest.importorskip("pytorch_grad_cam")
    found = rows(peers, "--networks", "mobilenet_v2", "--size", "64", "--repeats", "1")
    for method, number in (("grad_cam", 8), ("score_cam", 1)):
        assert value_of(found, f"{method}, {number} images, 3 labels, maps") < 1e-3


@pytest.mark.slow
def test_bfloat16_reads_a_run(rows, tmp_path):
    config = tiny_config()
    config.variants = {"plain": {}}
    run(config, tmp_path / "run", stages=["train"])
    found = rows(bfloat16, "--workdir", str(tmp_path / "run"), "--methods", "cam")
    assert value_of(found, "cam, pairs") == 0  # annotated labels
    assert 0 < max(row[2] for row in found) < 20
    with pytest.raises(SystemExit):
        bfloat16.main(["--workdir", str(tmp_path / "run"), "--variant", "absent"])


@pytest.mark.slow
def test_resident_memory_and_devices_are_measured_in_their_own_processes():
    rows = score_cam._memory_rows("scenes_resnet", 32, 4)
    if os.access("/proc/self/clear_refs", os.W_OK):
        [resident] = [row.value for row in rows if row.what.endswith("resident, 256 channels")]
        assert resident > 4 * (4 * 32**2 * 3) / 2**20  # the masked images alone
    settings = ("scenes_resnet", 32, 4, 8)
    times = harness.in_new_process(growth._device_times, settings, 2, 1, devices=2)
    assert set(times) == set(growth._SERIES) and min(times.values()) > 0


@pytest.mark.slow
def test_forward_stands_beside_torch(rows):
    pytest.importorskip("torchvision")
    arguments = ("--networks", "mobilenet_v2", "--batches", "2", "--size", "64", "--repeats", "1")
    assert all(value > 0 for _, _, value in rows(forward, *arguments))
