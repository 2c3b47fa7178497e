"""Masks, outlines, and each label's rows."""

from __future__ import annotations

import numpy as np
import pytest

from minmax_jax.report import pictures

from .conftest import LABELS, METHODS, make_gallery


def test_mask_colours():
    image = np.full((6, 6, 3), 200, np.uint8)
    mask = np.zeros((6, 6), np.uint8)
    mask[:2], mask[2:4], mask[4, 0] = 1, 3, 255
    painted = pictures.color_mask(image, mask, {0: "#ff0000", 2: "#0000ff"}, 0).astype(int)
    assert painted[0, 0, 0] > 200 and painted[0, 0, 1] < 40
    faint = painted[2, 0]
    assert faint[2] > faint[0] and faint[2] - faint[0] < 100
    assert np.ptp(painted[4, 0]) == np.ptp(painted[5, 5]) == 0


def test_contour_is_the_edge_inside_the_object():
    inside = np.random.default_rng(0).random((9, 11)) < 0.7
    drawn = pictures.draw_contour(np.zeros((9, 11, 3), np.uint8), inside).any(-1)
    for i in range(9):
        for j in range(11):
            near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            edge = any(0 <= y < 9 and 0 <= x < 11 and not inside[y, x] for y, x in near)
            assert drawn[i, j] == (inside[i, j] and edge)


@pytest.mark.parametrize("shape", [(96, 96), (300, 200), (50, 120)])
def test_fit_keeps_the_shape_of_the_photo(shape):
    fitted = pictures.fit(np.zeros((*shape, 3), np.uint8))
    assert max(fitted.shape) == pictures.SIDE
    assert fitted.shape[0] / fitted.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)


def compose(galleries, index, methods=METHODS):
    return pictures.compose_photo(galleries, index, label_names=LABELS, methods=methods)


def test_rows_are_the_explained_labels_of_each_variant(run):
    photo = compose(run["galleries"], 0)
    assert photo.annotated == (LABELS[0], LABELS[1])
    assert [(label.name, [row.variant for row in label.rows]) for label in photo.labels] == [
        (LABELS[0], ["plain", "kur"]),
        (LABELS[1], ["plain"]),
    ]
    assert photo.missed == (("kur", (LABELS[1],)),)
    assert all(label.annotated for label in photo.labels)
    assert photo.labels[0].color != photo.labels[1].color
    row = photo.labels[0].rows[1]
    assert row.probability == run["galleries"]["kur"]["probabilities"][0, 0]
    assert tuple(row.pictures) == METHODS

    photo = compose(run["galleries"], 1)
    assert [(label.name, label.annotated) for label in photo.labels] == [
        (LABELS[0], False),
        (LABELS[3], True),
    ]
    assert photo.missed == (("plain", (LABELS[2],)), ("kur", (LABELS[2],)))
    assert compose(run["galleries"], 2).labels == ()


def test_pictures_show_the_map_of_their_row():
    gallery = make_gallery(np.random.default_rng(0))
    gallery["images"][:] = 100
    for number, method in enumerate(METHODS):
        gallery[f"maps/{method}"][:] = 0
        gallery[f"maps/{method}"][0, number, 0] = 1  # one row of cells further down each
        gallery[f"maps/{method}"][1, number, 4] = 1
    photo = compose({"plain": gallery}, 0)
    for label, side in zip(photo.labels, (0, 1), strict=True):
        for number, method in enumerate(METHODS):
            # Cyan outlines have the least red, the hot spot has the most.
            red = label.rows[0].pictures[method][..., 0].astype(int)
            y, x = np.unravel_index(red.argmax(), red.shape)
            assert y // (pictures.SIDE / 5) == number
            assert (x > pictures.SIDE / 2) == side


def test_without_masks_and_with_a_method_of_one_variant_only():
    gallery = make_gallery(np.random.default_rng(0), masks=False)
    fewer = {name: values for name, values in gallery.items() if name != "maps/cam"}
    photo = compose({"a": gallery, "b": fewer}, 0)
    assert all(label.mask is None for label in photo.labels)
    with_cam, without = photo.labels[0].rows
    assert set(with_cam.pictures) - set(without.pictures) == {"cam"}
