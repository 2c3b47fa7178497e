"""What is said beside an array file about the network that its weights belong to.

Foreign weights may have a `config.json` in their folder, in the layout of the Hugging Face Hub;
our own runs keep a `network.json` in theirs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from minmax_jax import files
from minmax_jax.models import NETWORKS, Normalize

NETWORK_JSON = "network.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """The arguments of `create_network`, the label names, and what makes probabilities of logits.

    "" and None where nothing is said.
    """

    name: str = ""
    num_labels: int | None = None
    head: str = ""
    alpha: float | None = None
    dropout: float | None = None
    attention: str = ""
    style: str = ""
    dtype: str = ""
    preprocess: Normalize | None = None
    label_names: tuple[str, ...] | None = None
    alpha_end: float | None = None
    alpha_steps: int | None = None
    regularized: tuple[str, ...] | None = None
    activation: str = ""  # "sigmoid" or "softmax"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `create_network` that are said."""
        return {
            key: value
            for key, value in vars(self).items()
            if key not in ("label_names", "activation") and value not in ("", None)
        }


def write_network_json(folder: str | os.PathLike, description: Description) -> None:
    """Writes `network.json`, by which `load_network` knows a run's network.

    Args:
      folder: the run's, in which its checkpoints stand.
      description: of the network that is trained, with everything said; what `create_network` has
        by default of `alpha_end`, `alpha_steps` and `regularized` may be left out, and the
        activation, too.

    Raises:
      ValueError: another field is left unsaid.
    """
    said = {key: value for key, value in vars(description).items() if value not in ("", None)}
    unsaid = [key for key in vars(description) if key not in said and key not in _DEFAULTED]
    if unsaid:
        raise ValueError(f"{NETWORK_JSON} must say everything, but {unsaid} are left out.")
    value = said | {"preprocess": dataclasses.asdict(description.preprocess)}
    files.write_json(pathlib.Path(folder) / NETWORK_JSON, value)


def read_network_json(folder: str | os.PathLike) -> Description:
    """Reads `network.json`; all is left unsaid if there is none, and what older ones do not know.

    Raises:
      ValueError: the file is not as `write_network_json` writes it.
    """
    path = pathlib.Path(folder) / NETWORK_JSON
    value = _read_object(path)
    if value is None:
        return Description()
    try:
        value["preprocess"] = Normalize(**value["preprocess"])
        value["label_names"] = _names(value["label_names"], "label_names")
        if "regularized" in value:
            value["regularized"] = _names(value["regularized"], "regularized")
        description = Description(**value)
        wrong = [
            field
            for field, kinds in _KINDS.items()
            if type(getattr(description, field)) not in kinds
            and (field in value or field not in _DEFAULTED)
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} of the wrong type")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a network: {error}.") from error
    return description


_KINDS = {
    **dict.fromkeys(("name", "head", "attention", "style", "dtype", "activation"), (str,)),
    **dict.fromkeys(("alpha", "dropout", "alpha_end"), (int, float)),
    **dict.fromkeys(("num_labels", "alpha_steps"), (int,)),
}
# Fields that may be missing, in the files of networks that do without.
_DEFAULTED = ("alpha_end", "alpha_steps", "regularized", "activation")


def read_config_json(path: str | os.PathLike) -> Description:
    """Reads the Hub's `config.json`; what it does not say of a network of ours is left unsaid.

    It is somebody else's file, so nothing in it is taken on trust. timm's "tf_" architectures were
    trained in TensorFlow: they have timm's names and the arithmetic of style "keras".

    Raises:
      ValueError: it is not a JSON object, or a field that is needed has another form.
    """
    value = _read_object(pathlib.Path(path))
    if value is None:
        return Description()
    try:
        return _describe(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} does not describe a network: {error}.") from error


def _read_object(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = files.read_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object.")
    return value


def _describe(config: Mapping[str, Any]) -> Description:
    pretrained = config.get("pretrained_cfg") or {}
    if not isinstance(pretrained, dict):
        raise ValueError("pretrained_cfg is not an object")
    architecture = config.get("architecture", "")
    if not isinstance(architecture, str):
        raise ValueError(f"architecture is {json.dumps(architecture)[:80]}")
    num_labels = config.get("num_classes")
    if num_labels is not None and (type(num_labels) is not int or num_labels < 0):
        raise ValueError(f"num_classes is {json.dumps(num_labels)[:80]}")
    names = config.get("label_names") or pretrained.get("label_names")
    if not names and config.get("id2label"):
        id2label = config["id2label"]
        indices = range(len(id2label))
        if not isinstance(id2label, dict) or set(id2label) != {str(i) for i in indices}:
            raise ValueError("id2label does not number its labels from 0")
        names = [id2label[str(i)] for i in indices]
    name, style = our_name(architecture)
    return Description(
        name=name,
        num_labels=num_labels,
        style=style,
        preprocess=_preprocess(pretrained),
        label_names=_names(names, "label_names") if names else None,
    )


def our_name(architecture: str) -> tuple[str, str]:
    """timm's name of an architecture to our network's name and style, each "" if unknown.

    What follows a point names the training, as in "resnet50.a1_in1k".
    """
    base = architecture.split(".")[0]
    tensorflow = re.fullmatch(r"tf_(efficientnet_b\d)", base)
    name = tensorflow[1] if tensorflow else {"mobilenetv2_100": "mobilenet_v2"}.get(base, base)
    if name not in NETWORKS:
        return "", ""
    return name, "keras" if tensorflow else ""


def _preprocess(pretrained: Mapping[str, Any]) -> Normalize | None:
    if "mean" not in pretrained and "std" not in pretrained:
        return None
    scaled = {}
    for field in ("mean", "std"):
        numbers = pretrained.get(field)
        if not isinstance(numbers, list) or any(type(x) not in (int, float) for x in numbers):
            raise ValueError(f"{field} is {json.dumps(numbers)[:80]}, not three numbers")
        scaled[field] = tuple(255 * number for number in numbers)
    return Normalize(**scaled)


def _names(names: Any, field: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field} is not a list of strings")
    return tuple(names)
