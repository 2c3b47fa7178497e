from __future__ import annotations

import collections
import hashlib
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from minmax_jax import data
from minmax_jax.data import scenes

SPLITS = ("train", "validation", "test")


def _digest(source: data.Source, count: int) -> str:
    digest = hashlib.sha256()
    for i in range(count):
        for value in source[i].values():
            digest.update(value.tobytes())
    return digest.hexdigest()


def _enlarge(small: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation at pixel centres, edges repeated, as loops in float64."""
    out = np.zeros((size, size))
    for y, x in itertools.product(range(size), repeat=2):
        sy = min(max((y + 0.5) * 8 / size - 0.5, 0), 7)
        sx = min(max((x + 0.5) * 8 / size - 0.5, 0), 7)
        y0, x0 = math.floor(sy), math.floor(sx)
        y1, x1 = min(y0 + 1, 7), min(x0 + 1, 7)
        fy, fx = sy - y0, sx - x0
        upper = (1 - fx) * small[y0, x0] + fx * small[y0, x1]
        lower = (1 - fx) * small[y1, x0] + fx * small[y1, x1]
        out[y, x] = (1 - fy) * upper + fy * lower
    return out


@pytest.fixture(scope="module")
def layouts() -> dict[str, list[scenes.Layout]]:
    return {split: [scenes.Scenes(split).layout(i) for i in range(1000)] for split in SPLITS}


def test_shapes_and_types():
    example = data.create_source("scenes", "train", size=3)[2]
    found = {name: (value.shape, value.dtype) for name, value in example.items()}
    assert found == {
        "image": ((96, 96, 3), np.uint8),
        "labels": ((10,), np.bool_),
        "mask": ((96, 96), np.uint8),
    }


def test_a_scene_depends_on_seed_split_and_index_alone():
    first, again = (scenes.Scenes("train", seed=3, size=n) for n in (20, 4))
    for i in (3, 0):  # Not the order in which the other source is read.
        np.testing.assert_array_equal(again[i]["image"], first[i]["image"])
    assert _digest(first, 4) == _digest(again, 4)
    others = [("train", 4), ("validation", 3), ("test", 3)]
    digests = {_digest(scenes.Scenes(split, seed=seed), 4) for split, seed in others}
    assert len(digests | {_digest(first, 4)}) == 4


def test_another_process_makes_the_same_scenes():
    code = (
        "from tests.data import test_scenes as t\n"
        "print(*[t._digest(t.scenes.Scenes(s, seed=1), 10) for s in t.SPLITS])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.split() == [_digest(scenes.Scenes(split, seed=1), 10) for split in SPLITS]


def test_no_split_shows_a_digit_of_another():
    used = {}
    for split in SPLITS:
        sources = [scenes.Scenes(split, size=2000, seed=seed) for seed in (0, 1)]
        used[split] = {d.index for s in sources for i in range(len(s)) for d in s.layout(i).digits}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not used[a] & used[b]
    assert len(set.union(*used.values())) > 0.98 * 1797


def test_digits_are_of_their_class(layouts):
    target = datasets.load_digits().target
    for layout in itertools.chain(*layouts.values()):
        assert all(target[digit.index] == digit.label for digit in layout.digits)


def test_labels_co_occur(layouts):
    labels = [[d.label for d in layout.digits] for layout in itertools.chain(*layouts.values())]
    steps = [step for row in labels for step in itertools.pairwise(row)]
    partner = np.mean([b == a ^ 1 for a, b in steps])
    assert abs(partner - 0.8) < 3 * math.sqrt(0.8 * 0.2 / len(steps))
    # When the next digit is not the partner, it is any of the other nine classes.
    differences = {(b - a) % 10 for a, b in steps if b != a ^ 1}
    assert differences == set(range(10))
    counts = collections.Counter(len(row) for row in labels)
    assert set(counts) == {1, 2, 3}
    assert all(abs(n / len(labels) - 1 / 3) < 0.03 for n in counts.values())
    first = collections.Counter(row[0] for row in labels)
    assert all(abs(n / len(labels) - 0.1) < 0.02 for n in first.values())


def test_boxes_lie_inside_and_apart(layouts):
    for layout in layouts["train"]:
        painted = np.zeros((96, 96), int)
        for digit in layout.digits:
            assert 26 <= digit.size <= 40
            assert digit.top >= 0 and digit.left >= 0
            assert max(digit.top, digit.left) + digit.size <= 96
            painted[digit.top : digit.top + digit.size, digit.left : digit.left + digit.size] += 1
        assert painted.max() == 1
    assert {d.size for layout in layouts["train"] for d in layout.digits} == set(range(26, 41))


def test_mask_is_exact():
    source = scenes.Scenes("validation")
    photos = datasets.load_sample_images().images
    for i in range(200):
        example, layout = source[i], source.layout(i)
        photo = photos[layout.photo]
        background = photo[layout.top : layout.top + 96, layout.left : layout.left + 96]
        mask = example["mask"]
        present = set(np.flatnonzero(example["labels"]) + 1)
        assert set(np.unique(mask)) - {0} == present
        np.testing.assert_array_equal(example["image"][mask == 0], background[mask == 0])
        changed = (example["image"] != background).any(axis=2)
        assert changed[mask > 0].mean() > 0.95


def test_scene_equals_plain_rendering():
    source = scenes.Scenes("train", seed=5)
    drawings = datasets.load_digits().images
    for i in range(4):
        example, layout = source[i], source.layout(i)
        image = source.background(layout).astype(float)
        mask = np.zeros((96, 96), int)
        for digit in layout.digits:
            ink = _enlarge(drawings[digit.index] / 16, digit.size)
            for y, x in itertools.product(range(digit.size), repeat=2):
                alpha = min(max((ink[y, x] - 0.3) / 0.3, 0), 1)
                at = (digit.top + y, digit.left + x)
                image[at] = (1 - alpha) * image[at] + alpha * np.array(digit.colour)
                if alpha > 1e-6:
                    mask[at] = 1 + digit.label
        assert np.abs(image - example["image"]).max() < 0.51
        np.testing.assert_array_equal(example["mask"], mask)


def test_every_digit_has_opaque_ink():
    for index, size in itertools.product(range(1797), (26, 40)):
        assert scenes._alpha(index, size).max() == 1


def test_tint_is_light_on_dark_and_dark_on_light():
    source = scenes.Scenes("train")
    luminance = np.array([0.299, 0.587, 0.114])
    lights = []
    for i in range(100):
        layout = source.layout(i)
        background = source.background(layout)
        for d in layout.digits:
            under = background[d.top : d.top + d.size, d.left : d.left + d.size] @ luminance
            lights.append(bool(under.mean() < 128))
            assert (np.dot(d.colour, luminance) > 128) == lights[-1]
    assert {True, False} == set(lights)


def test_reading_ends_and_bad_options_are_named():
    assert len(list(scenes.Scenes("test", size=3))) == 3
    with pytest.raises(IndexError, match="scene 3 of 3"):
        scenes.Scenes("test", size=3)[3]
    with pytest.raises(ValueError, match="size=-1"):
        scenes.Scenes("test", size=-1)
    with pytest.raises(ValueError, match="seed=-2"):
        scenes.Scenes("test", seed=-2)
