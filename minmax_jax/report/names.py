"""What readers call methods and metrics, which way a metric is good and what it asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

METHOD_TITLES = {
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "score_cam": "Score-CAM",
    "minmax_cam": "MinMax-CAM",
    "d_minmax_cam": "D-MinMax-CAM",
    "minmax_grad_cam": "MinMax-Grad-CAM",
    "d_minmax_grad_cam": "D-MinMax-Grad-CAM",
    "acol_cam": "ACoL",
}
ARROWS = {"high": "↑", "low": "↓", None: ""}
# Scored on the pairs whose object the mask holds, so on fewer pairs than the others.
LOCALIZATION = ("iou", "pointing_game", "energy_on_object")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric as a reader meets it: short and full name, which way is good, what it asks."""

    short: str
    title: str
    good: str | None = None
    question: str = ""

    @property
    def heading(self) -> str:
        """Short name and arrow."""
        return f"{self.short} {ARROWS[self.good]}".rstrip()


METRICS = {
    "increase_in_confidence": Metric(
        "IC",
        "Increase in confidence",
        "high",
        "Show only what the map shows: in how many cases does the label's probability rise?",
    ),
    "average_drop": Metric(
        "AD",
        "Average drop",
        "low",
        "Show only what the map shows: what share of the label's probability is lost?",
    ),
    "average_drop_of_others": Metric(
        "ADO",
        "Average drop of others",
        "high",
        "Show only what the map shows: what share of the other labels' probability is lost?",
    ),
    "average_retention": Metric(
        "AR",
        "Average retention",
        "high",
        "Hide what the map shows: what share of the label's probability is lost?",
    ),
    "average_retention_of_others": Metric(
        "ARO",
        "Average retention of others",
        "low",
        "Hide what the map shows: what share of the other labels' probability is lost?",
    ),
    "f1_minus": Metric(
        "F1-",
        "F1-",
        "low",
        "Harmonic mean of two that should be low: average drop and retention of others.",
    ),
    "f1_plus": Metric(
        "F1+",
        "F1+",
        "high",
        "Harmonic mean of two that should be high: average retention and drop of others.",
    ),
    "iou": Metric(
        "IoU",
        "Intersection over union",
        "high",
        "Cut the map at a threshold: how well does what is left cover the true object?",
    ),
    "pointing_game": Metric(
        "Point",
        "Pointing game",
        "high",
        "In how many cases does the map's highest point lie on the object?",
    ),
    "energy_on_object": Metric(
        "Energy",
        "Energy on object",
        "high",
        "What share of the whole map lies on the object?",
    ),
}


def method_title(name: str) -> str:
    """A method's name as the papers write it; of unknown methods the name itself."""
    return METHOD_TITLES.get(name, name)


def metric(name: str) -> Metric:
    """What is known of a metric; an unknown one has no good direction."""
    return METRICS.get(name, Metric(name, name))


def ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The different `names`, the known ones first and in their order."""
    names = list(dict.fromkeys(names))
    first = [name for name in known if name in names]
    return first + [name for name in names if name not in first]
