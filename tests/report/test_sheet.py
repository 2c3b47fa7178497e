from __future__ import annotations

import numpy as np
import pytest

from minmax_jax.report import sheet


def draw(photo, colors, name="a label"):
    """A sheet of plain pictures, one for each of `colors`, rows by columns."""
    rows = [
        sheet.Row(name, "97.3 %", [np.broadcast_to(np.uint8(color), photo.shape) for color in row])
        for row in colors
    ]
    columns = ["CAM", "D-MinMax-Grad-CAM"][: len(colors[0])] if colors else ["CAM"]
    drawn = sheet.draw_sheet(photo, title="photo.jpg", note="4 x 3", columns=columns, rows=rows)
    return np.asarray(drawn).astype(int)


def area(drawn, color):
    """Rows and columns of a plain picture on the sheet."""
    found = (drawn == color).all(axis=2)
    return [np.flatnonzero(found.any(axis=axis)) for axis in (1, 0)]


@pytest.mark.parametrize("size", [(225, 300), (300, 20), (20, 300)])
def test_pictures_stand_in_rows_and_columns_and_do_not_touch(size):
    photo = np.full((*size, 3), (10, 200, 10), np.uint8)
    colors = [[(250, 10, 10), (240, 10, 10)], [(10, 10, 250), (10, 10, 240)]]
    drawn = draw(photo, colors)
    places = {color: area(drawn, color) for row in colors for color in row}
    places[(10, 200, 10)] = area(drawn, (10, 200, 10))
    for rows, columns in places.values():
        assert (len(rows), len(columns)) == size
    (first, second), (third, fourth) = ([places[color] for color in row] for row in colors)
    assert first[1][-1] < second[1][0] and first[0][-1] < third[0][0]
    assert first[0][0] == second[0][0] and first[1][0] == third[1][0]
    assert third[0][0] == fourth[0][0] and second[1][0] == fourth[1][0]
    assert places[(10, 200, 10)][1][-1] < first[1][0]


def test_text_stays_on_the_sheet_whatever_it_is():
    """Very long, of several lines, with characters that the font does not have."""
    photo = np.full((225, 300, 3), 90, np.uint8)
    plain = draw(photo, [[(250, 10, 10)]])
    for name in ("w" * 500, "a\nb\tc\r", "\u65e5\u672c\udcff\u202e", ""):
        drawn = draw(photo, [[(250, 10, 10)]], name=name)
        assert drawn.shape == plain.shape
        np.testing.assert_array_equal(area(drawn, (250, 10, 10))[0], area(plain, (250, 10, 10))[0])
        margin = np.concatenate([drawn[:, -15:].ravel(), drawn[:12].ravel(), drawn[-10:].ravel()])
        assert len(np.unique(margin)) <= 3  # of one colour


def test_a_photo_without_labels():
    drawn = draw(np.full((225, 300, 3), 90, np.uint8), [])
    assert (drawn[..., 0] == 90).sum() >= 225 * 300


@pytest.mark.parametrize("shape", [(600, 800), (30, 20), (1, 900)])
def test_fit(shape):
    fitted = sheet.fit(np.zeros((*shape, 3), np.uint8))
    assert max(fitted.shape) == sheet.SIDE
    assert abs(fitted.shape[0] - shape[0] * sheet.SIDE / max(shape)) <= 1
