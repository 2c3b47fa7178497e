"""Variants and the comparison of configs; every experiment can be built."""

from __future__ import annotations

import functools
import pathlib
import re
import runpy
from collections.abc import Mapping

import pytest
from ml_collections import ConfigDict

from minmax_jax.config import default_config, differences, resolve_variant, select_variant
from minmax_jax.models import create_network
from minmax_jax.run import TASKS
from minmax_jax.train import Stage

build = functools.cache(lambda name, **options: create_network(name, num_labels=3, **options))
EXPERIMENTS = sorted((pathlib.Path(__file__).parents[1] / "experiments").glob("*.py"))


def test_variant_overrides_fields_and_entries_of_lists():
    config = default_config()
    config.variants = {
        "a": {},
        "b": {"network": {"head": "kur"}, "train": {"stages": [{"epochs": 3}]}},
    }
    first, second = resolve_variant(config, "a"), resolve_variant(config, "b")
    assert differences(first.to_dict(), second.to_dict()) == [
        "network.head: 'dense', 'kur'",
        "train.stages[0].epochs: 30, 3",
    ]
    assert "variants" not in first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"netwrok": {}}, "variants.a: unknown field 'netwrok'; fields: .*network"),
        ({"network": {"alpa": 2.0}}, "variants.a.network: unknown field 'alpa'; fields: .*alpha"),
        ({"train": {"stages": [{"lr": 1}]}}, r"stages\[0\]: unknown field 'lr'; .*learning_rate"),
        ({"train": {"stages": [{}, {}, {}]}}, "3 entries for a list of 2"),
    ],
)
def test_variant_with_a_field_that_does_not_exist(overrides, message):
    config = default_config()
    config.variants = ConfigDict({"a": overrides})
    with pytest.raises(ValueError, match=message):
        resolve_variant(config, "a")


def test_variant_may_have_options_of_its_source():
    config = default_config()
    config.variants = {"a": {"data": {"options": {"seed": 3}}}}
    assert resolve_variant(config, "a").data.options.seed == 3


def test_select_variant():
    config = default_config()
    config.variants = {"a": {}, "b": {}}
    assert list(select_variant(config, None).variants) == ["a", "b"]
    assert list(select_variant(config, "b").variants) == ["b"]
    with pytest.raises(ValueError, match="unknown variant 'c'; variants: b"):
        select_variant(config, "c")


def test_differences_names_fields():
    first = {"a": 1, "b": {"c": [1, {"d": 2}], "e": 3}, "f": 1}
    second = {"a": 1, "b": {"c": [1, {"d": 3}], "e": 3}, "g": 1}
    assert differences(first, second) == [
        "b.c[1].d: 2, 3",
        "f: only in one of them",
        "g: only in one of them",
    ]
    assert differences(first, first) == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_is_locked_and_builds_its_networks(path):
    config = runpy.run_path(str(path))["get_config"]()
    assert config.is_locked and config.task in TASKS
    for name in config.get("variants", ()):
        variant = resolve_variant(config, name)
        options = variant.network
        fields = {field: options[field] for field in ("head", "alpha", "attention")}
        assert build(options.name, **fields).layers
        assert all(Stage(**stage).epochs > 0 for stage in variant.train.stages)


def fields_of(config, prefix=""):
    """Names of all fields, those of sections and of entries of lists too."""
    for key, value in config.items():
        yield prefix + key
        entries = {f"{key}[{i}]": entry for i, entry in enumerate(value)} if key == "stages" else {}
        for name, inner in {key: value, **entries}.items():
            if isinstance(inner, Mapping | ConfigDict):
                yield from fields_of(inner, f"{prefix}{name}.")


def test_flags_in_documents_name_fields_that_exist():
    """Of the experiment that the command runs, or of any where it stands alone."""
    root = EXPERIMENTS[0].parents[1]
    configs = {path.stem: runpy.run_path(str(path))["get_config"]() for path in EXPERIMENTS}
    fields = {name: set(fields_of(config)) for name, config in configs.items()}
    anywhere = set().union(*fields.values())
    found = 0
    for page in [*root.glob("*.md"), *root.glob("docs/**/*.md"), *EXPERIMENTS]:
        text = page.read_text(encoding="utf-8").replace("--config.any.field", "")
        for line in re.sub(r"\\\\?\n|\n    (?=--)", " ", text).splitlines():
            experiment = re.search(r"launch\.py.* experiments/(\w+)\.py", line)
            valid = fields[experiment[1]] if experiment else anywhere
            if page in EXPERIMENTS:
                valid = fields[page.stem]
            for field in re.findall(r"--config\.([\w.\[\]]+)", line):
                assert field in valid, f"{page.name}: {field}"
                found += 1
    assert found > 50
