from __future__ import annotations

import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import gallery
from tests import evaluate_loop, reference, toys

METHODS = ("minmax_cam", "minmax_gradients", "score_cam")


def scale(images):
    return images.astype("float32") / 64 - 2


def batch(*rows, first=0, masks=True):
    """Examples with these labels; image and mask `i` of all batches are full of `i`."""
    numbers = np.arange(first, first + len(rows))[:, None, None]
    filled = {
        "image": np.broadcast_to(numbers[..., None], (len(rows), *toys.SIZE, 3)),
        "labels": np.array([[char == "1" for char in row] for row in rows]),
        "mask": np.broadcast_to(numbers, (len(rows), *toys.SIZE)),
    }
    filled = {name: np.ascontiguousarray(value) for name, value in filled.items()}
    return {name: value for name, value in filled.items() if masks or name != "mask"}


BATCHES = [
    batch("1100", "0010", "1100"),
    batch("0111", "0000", "1010", first=3),
    batch("1111", "1101", first=6),
]


@pytest.mark.parametrize(
    ("number", "chosen", "read"),
    [
        (1, [0], 1),
        (2, [0, 3], 2),
        (3, [0, 3, 5], 2),
        (5, [0, 3, 5, 6, 7], 3),
        (7, [0, 3, 5, 6, 7, 1, 2], 3),  # one label, and a set that was there, fill up
        (20, [0, 3, 5, 6, 7, 1, 2, 4], 3),
    ],
)
def test_chosen_photos(number, chosen, read):
    batches = iter(BATCHES)
    photos = gallery.choose_photos(batches, number)
    assert len(BATCHES) - len(list(batches)) == read
    assert photos["image"][:, 0, 0, 0].tolist() == chosen
    assert photos["mask"][:, 0, 0].tolist() == chosen
    assert photos["image"].dtype == np.uint8
    every = np.concatenate([part["labels"] for part in BATCHES])
    np.testing.assert_array_equal(photos["labels"], every[chosen])


def test_photos_without_masks():
    assert set(gallery.choose_photos([batch("1100", masks=False)], 2)) == {"image", "labels"}


def test_no_photo():
    with pytest.raises(ValueError, match="number of photos must be at least 1, not 0"):
        gallery.choose_photos(BATCHES, 0)
    with pytest.raises(ValueError, match="no photo to choose: no batch was given"):
        gallery.choose_photos([], 3)


@pytest.fixture(scope="module")
def photos():
    images = np.clip(toys.toy_images(3) * 40 + 128, 0, 255).astype(np.uint8)
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 0]], bool)
    return {"image": images, "labels": labels, "mask": np.ones((3, *toys.SIZE), np.uint8)}


@pytest.fixture(scope="module")
def network():
    return toys.toy_network(apply=toys.CountingApply(), preprocess=scale)


def expected_map(twin, method, present, label):
    if method == "minmax_gradients":
        variables, image = toys.toy_variables(), twin.image
        return reference.normalize(
            evaluate_loop.saliency_map(variables, image, method, present, label)
        )
    return reference.normalize(twin.map(method, present, label))


@pytest.mark.parametrize("present", ["detected", "annotated"])
def test_gallery(present, network, photos):
    """Also of a last batch that is not full."""
    variables = toys.toy_variables()
    arrays = gallery.make_gallery(
        network, variables, photos, methods=METHODS, batch_size=2, mask_chunk=5, present=present
    )
    names = {"images", "masks", "labels", "present", "probabilities", "pairs"}
    assert set(arrays) == names | {f"maps/{method}" for method in METHODS}
    twins = [toys.Toy64(variables, image) for image in scale(photos["image"])]
    logits = np.stack([twin.logits for twin in twins])
    chosen = logits > 0 if present == "detected" else photos["labels"]
    np.testing.assert_array_equal(arrays["present"], chosen)
    np.testing.assert_array_equal(arrays["images"], photos["image"])
    np.testing.assert_array_equal(arrays["masks"], photos["mask"])
    np.testing.assert_array_equal(arrays["labels"], photos["labels"])
    np.testing.assert_array_equal(arrays["pairs"], np.argwhere(chosen))
    for number, twin in enumerate(twins):
        np.testing.assert_allclose(
            arrays["probabilities"][number], reference.sigmoid(twin.logits), rtol=1e-5
        )
    for method in METHODS:
        maps = arrays[f"maps/{method}"]
        size = toys.SIZE if method == "minmax_gradients" else (4, 6)
        assert maps.dtype == np.float32 and maps.shape == (chosen.sum(), *size)
        for own, (photo, label) in zip(maps, arrays["pairs"], strict=True):
            expected = expected_map(twins[photo], method, chosen[photo], label)
            np.testing.assert_allclose(own, expected, atol=1e-4)
    assert (logits > 0).any() and ((logits > 0) != photos["labels"]).any()
    assert arrays["present"].dtype == bool and arrays["probabilities"].dtype == np.float32


def test_the_programs_of_evaluate_are_used_again(network, photos):
    """The gallery of a run compiles no network program of its own."""
    variables = toys.toy_variables()
    example = {"image": scale(photos["image"][:2])}
    mj.evaluate(network, variables, [example], methods=METHODS, mask_chunk=5, progress=False)
    traces = network.apply.traces
    gallery.make_gallery(network, variables, photos, methods=METHODS, batch_size=2, mask_chunk=5)
    assert network.apply.traces == traces


def test_a_gallery_without_masks(network, photos):
    photos = {name: values for name, values in photos.items() if name != "mask"}
    arrays = gallery.make_gallery(
        network, toys.toy_variables(), photos, methods=("cam",), batch_size=2
    )
    assert "masks" not in arrays


def test_methods_that_explain_pairs_alone_and_nothing_detected(network, photos):
    variables = toys.toy_variables() | {"bias": np.full(toys.NUM_LABELS, -200, np.float32)}
    arrays = gallery.make_gallery(
        network, variables, photos, methods=("gradients",), batch_size=2, progress=False
    )
    assert arrays["pairs"].shape == (0, 2) and not arrays["present"].any()
    assert arrays["maps/gradients"].shape == (0, *toys.SIZE)
