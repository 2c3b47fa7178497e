"""Heads analysed and compared: hand-made kernels, and the stage on networks of plain jnp."""

from __future__ import annotations

import itertools
import json
import types

import numpy as np
import pytest

from minmax_jax import analyze, files
from tests import toys
from tests.test_label_flow import batches_of, plain_loop

NAMES = tuple("abcd")


def head_of(kernel, *, top=2, seed=0):
    """A head's numbers, with a made-up flow."""
    rng = np.random.default_rng(seed)
    kernels, units = np.shape(kernel)
    flow, features = rng.uniform(size=(units,) * 3), rng.uniform(size=(units, kernels))
    return analyze.analyze_head(kernel, flow, features, np.arange(units), top=top)


def test_flow_in_the_numbers_of_a_head():
    rng = np.random.default_rng(0)
    flow = rng.uniform(size=(3, 3, 3))
    head = analyze.analyze_head(
        rng.normal(size=(5, 3)), flow, rng.uniform(size=(3, 5)), np.array([4, 0, 2]), top=2
    )
    expected = {name: np.zeros((3, 3)) for name in ("tg", "gp", "tp")}
    for t, g, p in np.ndindex(3, 3, 3):
        expected["tg"][t, g] += flow[t, g, p]
        expected["gp"][g, p] += flow[t, g, p]
        expected["tp"][t, p] += flow[t, g, p]
    found = head["flow"]
    np.testing.assert_allclose(found["labels_to_kernels"], expected["tg"])
    np.testing.assert_allclose(found["kernels_to_predictions"], expected["gp"])
    np.testing.assert_allclose(found["labels_to_predictions"], expected["tp"])
    own = sum(flow[:, g, g].sum() for g in range(3)) / flow.sum()
    assert found["own_kernels"] == pytest.approx(own) and found["images"] == [4, 0, 2]


def test_sharing_by_weight_and_by_contribution():
    kernel = np.array([[3.0, 3, -1], [2, 0, -1], [1, 2, -1], [0, 1, 5]])
    features = np.array([[0.0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
    sharing = analyze.analyze_head(kernel, np.zeros((3, 3, 3)), features, np.ones(3, int), top=2)[
        "sharing"
    ]
    assert sharing["by_weight"]["tops"] == [[0, 1], [0, 2], [3]]
    # Units 0 and 1 share kernel 0; by chance 2 * 2 / 4, 2 * 1 / 4 and 2 * 1 / 4 kernels.
    assert sharing["by_weight"]["mean_shared"] == pytest.approx(1 / 3)
    assert sharing["by_weight"]["chance"] == pytest.approx(2 / 3)
    assert (sharing["by_weight"]["distinct"], sharing["by_weight"]["in_several"]) == (4, 1)
    # In the images of unit 0 kernel 0 is silent, in those of 1 kernel 2, in those of 2 kernel 3.
    assert sharing["by_contribution"]["tops"] == [[1, 2], [0, 3], []]
    assert sharing["by_contribution"]["mean_shared"] == 0


@pytest.mark.parametrize("kernel", [np.zeros((3, 2)), np.ones((1, 2)), -np.ones((12, 3))])
def test_constant_units_give_numbers_all_the_same(kernel):
    head = head_of(kernel, top=10)
    json.dumps(head, allow_nan=False)
    assert head["mean_correlation"] == 0 and max(head["weights"]["skewness"]) == 0
    silent = analyze.analyze_head(
        kernel, np.zeros((kernel.shape[1],) * 3), np.zeros(kernel.T.shape),
        np.zeros(kernel.shape[1], int), top=10,
    )  # fmt: skip
    assert silent["flow"]["own_kernels"] is None


def test_contributions_that_are_not_finite():
    for flow, features in ((np.nan, 0.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="contributions have values that are not finite"):
            analyze.analyze_head(
                np.ones((3, 2)), np.full((2,) * 3, flow), np.full((2, 3), features),
                np.ones(2, int), top=2,
            )  # fmt: skip


def verdicts(plain, other):
    return {f["finding"]: f["confirmed"] for f in analyze.compare_heads(plain, other)}


def test_findings_of_heads_made_to_have_them():
    rng = np.random.default_rng(0)
    units = np.repeat(rng.normal(size=(100, 1)), 3, axis=1)
    mixed = units + 0.3 * rng.normal(size=(100, 3))  # correlated, symmetric, much shared
    apart = np.full((100, 3), 0.01)
    for unit in range(3):
        apart[10 * unit : 10 * unit + 10, unit] = rng.uniform(1, 5, 10)
    plain, other = head_of(mixed, top=10), head_of(apart, top=10)
    assert verdicts(plain, other) == {"a": True, "b": True, "c": True}
    assert verdicts(other, plain) == {"a": False, "b": False, "c": False}
    assert verdicts(plain, plain) == {"a": False, "b": False, "c": False}


def numbers(positive=0.4, skewness=0.0, correlation=0.4, shared=4.0):
    return {
        "weights": {"positive": [positive - 0.2, positive + 0.2], "skewness": [skewness] * 2},
        "mean_correlation": correlation,
        "sharing": {"by_weight": {"mean_shared": shared}},
    }


@pytest.mark.parametrize(
    ("plain", "other", "finding", "confirmed"),
    [
        ({}, {"positive": 0.51, "skewness": 0.51}, "a", True),
        ({}, {"positive": 0.5, "skewness": 0.51}, "a", False),
        ({}, {"positive": 0.51, "skewness": 0.5}, "a", False),
        ({"positive": 0.6}, {"positive": 0.55, "skewness": 0.6}, "a", False),
        ({"skewness": 0.7}, {"positive": 0.55, "skewness": 0.6}, "a", False),
        ({}, {"correlation": 0.2}, "b", True),
        ({}, {"correlation": 0.21}, "b", False),
        ({}, {"shared": 2.0}, "c", True),
        ({}, {"shared": 2.1}, "c", False),
        ({"shared": 0.0}, {"shared": 0.0}, "c", False),
        ({"correlation": None}, {"correlation": None}, "b", None),
        ({"shared": None}, {"shared": None}, "c", None),
    ],
)
def test_bounds_of_the_findings(plain, other, finding, confirmed):
    assert verdicts(numbers(**plain), numbers(**other))[finding] is confirmed


def test_one_label_has_no_pairs():
    head = head_of(np.array([[1.0], [2.0], [-1.0]]))
    assert verdicts(head, head) == {"a": False, "b": None, "c": None}
    assert head["order"] == [0] and head["correlations"] == [[1.0]]


class Variant:
    """What the stage asks of an experiment, about the toy network."""

    mesh = None
    label_names = NAMES

    def __init__(self, name, labels, *, head="dense", network="toy", scale=1.0, trained=True):
        self.name, self._labels, self._trained = name, labels, trained
        self.network = toys.toy_network() if head != "bent" else toys.bent_network()
        self.config = types.SimpleNamespace(
            title="Toys",
            analyze=types.SimpleNamespace(top=3, batch_size=4),
            network=types.SimpleNamespace(name=network, attention="none", head=head),
        )
        variables = toys.toy_variables()
        self._variables = variables | {"kernel": variables["kernel"] ** scale}
        self.validation_source = object()

    def best_variables(self):
        if not self._trained:
            raise ValueError(f"{self.name} holds no trained network")
        return self._variables

    def batches(self, source, batch_size):
        assert source is self.validation_source
        return batches_of(self._labels, batch_size)


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).uniform(size=(7, toys.NUM_LABELS)) < 0.5


def test_stage_end_to_end(labels, tmp_path, capsys, monkeypatch):
    saved = []

    def save(_, path):  # drawing takes seconds
        saved.append(path.name)
        files.write_atomically(path, lambda file: file.write(b"x"))

    monkeypatch.setattr(analyze.report.figures, "save_png", save)
    variants = [
        Variant("bent", labels, head="bent"),
        Variant("plain", labels),
        Variant("cubed", labels, head="kur", scale=3),
        Variant("other", labels, head="kur", network="another"),
    ]
    analyze.stage(variants, tmp_path)
    folder = tmp_path / "analysis"
    analysis = json.loads((folder / "analysis.json").read_text())
    assert analysis["label_names"] == list(NAMES) and analysis["top"] == 3
    assert list(analysis["heads"]) == ["plain", "cubed", "other"]
    assert analysis["left_out"] == ["bent"]
    assert [(c["plain"], c["other"]) for c in analysis["comparisons"]] == [("plain", "cubed")]
    flow, _, images = plain_loop(labels)
    found = analysis["heads"]["plain"]["flow"]
    np.testing.assert_allclose(found["labels_to_predictions"], flow.sum(axis=1), rtol=1e-5)
    assert found["images"] == images.tolist()
    kernel = toys.toy_variables()["kernel"].astype(np.float64)
    for name, weights in (("plain", kernel), ("cubed", kernel**3)):
        expected = [
            abs(np.corrcoef(weights[:, i], weights[:, j])[0, 1])
            for i, j in itertools.combinations(range(4), 2)
        ]
        head = analysis["heads"][name]
        assert head["mean_correlation"] == pytest.approx(np.mean(expected), rel=1e-5)
    printed = capsys.readouterr().out
    assert "Findings of section 6.2, cubed against plain" in printed
    assert "left out: bent, as its head is not linear after pooling" in printed
    assert f"analysis: {folder / 'index.html'}" in printed
    assert len(set(saved)) == 12 and (folder / "index.html").exists()

    monkeypatch.setattr(analyze, "label_flow", None)  # a second call computes nothing
    analyze.stage(variants, tmp_path)
    again = capsys.readouterr().out
    assert again.startswith("analyzed already") and printed.endswith(again.partition("\n")[2])


def test_stage_refuses_what_it_cannot_do(labels, tmp_path):
    with pytest.raises(ValueError, match="linear after pooling, and no variant has one"):
        analyze.stage([Variant("bent", labels, head="bent")], tmp_path)
    wrong = Variant("plain", labels)
    wrong.config.analyze.top = 0
    with pytest.raises(ValueError, match="analyze.top must be at least 1, got 0"):
        analyze.stage([wrong], tmp_path)
    with pytest.raises(ValueError, match="no trained network"):
        analyze.stage([Variant("plain", labels, trained=False)], tmp_path)
    with pytest.raises(ValueError, match="^broken: the head's kernel has values that are not fini"):
        analyze.stage([Variant("broken", labels, scale=np.nan)], tmp_path)
    assert not list(tmp_path.iterdir())
