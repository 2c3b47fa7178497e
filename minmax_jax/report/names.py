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
    "hires_cam": "HiRes-CAM",
    "minmax_hires_cam": "MinMax-HiRes-CAM",
    "xgrad_cam": "XGrad-CAM",
    "minmax_xgrad_cam": "MinMax-XGrad-CAM",
    "layer_cam": "LayerCAM",
    "relevance_cam": "Relevance-CAM",
    "minmax_relevance_cam": "MinMax-Relevance-CAM",
    "ablation_cam": "Ablation-CAM",
    "minmax_ablation_cam": "MinMax-Ablation-CAM",
    "eigen_cam": "Eigen-CAM",
    "minmax_score_cam": "MinMax-Score-CAM",
    "softmax_score_cam": "Score-CAM (softmax)",
    "gradients": "Gradients",
    "minmax_gradients": "MinMax-Gradients",
    "smooth_grad": "SmoothGrad",
    "minmax_smooth_grad": "MinMax-SmoothGrad",
    "integrated_gradients": "Integrated Gradients",
    "minmax_integrated_gradients": "MinMax-Integrated Gradients",
    "guided_backpropagation": "Guided Backpropagation",
    "full_grad": "FullGrad",
}
# By what a reader sees a map made of. Many methods are shown in this order, under these headings.
FAMILIES = {
    "Weights of the head": ("cam", "minmax_cam", "d_minmax_cam", "acol_cam"),
    "Gradients at a layer": (
        "grad_cam",
        "minmax_grad_cam",
        "d_minmax_grad_cam",
        "grad_cam_plus_plus",
        "hires_cam",
        "minmax_hires_cam",
        "xgrad_cam",
        "minmax_xgrad_cam",
        "layer_cam",
        "relevance_cam",
        "minmax_relevance_cam",
    ),
    "Channel by channel": (
        "score_cam",
        "minmax_score_cam",
        "softmax_score_cam",
        "ablation_cam",
        "minmax_ablation_cam",
    ),
    "Activations alone": ("eigen_cam",),
    "Gradients at the image": (
        "gradients",
        "minmax_gradients",
        "smooth_grad",
        "minmax_smooth_grad",
        "integrated_gradients",
        "minmax_integrated_gradients",
        "guided_backpropagation",
        "full_grad",
    ),
}
OTHER_FAMILY = "Other methods"
MANY = 10  # methods, more of which are shown family by family
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
    "insertion": Metric(
        "Ins",
        "Insertion",
        "high",
        "Reveal a blurred photo pixel by pixel, the map's highest first: how soon does the label's "
        "probability rise? The area under that curve.",
    ),
    "deletion": Metric(
        "Del",
        "Deletion",
        "low",
        "Hide the photo pixel by pixel, the map's highest first: how soon does the label's "
        "probability fall? The area under that curve.",
    ),
}
# What is told first.
HEADLINE = (
    "f1_minus",
    "f1_plus",
    "average_drop_of_others",
    "average_retention_of_others",
    "energy_on_object",
    "insertion",
    "deletion",
)


def method_title(name: str) -> str:
    """A method's name as the papers write it; of unknown methods the name itself."""
    return METHOD_TITLES.get(name, name)


def family_title(name: str) -> str:
    """The heading under which a method stands among many."""
    return next((title for title, own in FAMILIES.items() if name in own), OTHER_FAMILY)


def by_family(names: Iterable[str]) -> dict[str, list[str]]:
    """The different `names` under the headings of their families."""
    names = ordered(names, METHOD_TITLES)
    groups = {title: [name for name in own if name in names] for title, own in FAMILIES.items()}
    groups[OTHER_FAMILY] = [name for name in names if family_title(name) == OTHER_FAMILY]
    return {title: own for title, own in groups.items() if own}


def method_order(names: Iterable[str]) -> list[str]:
    """The different `names` as they are shown: many by family, few in the order of the papers."""
    names = ordered(names, METHOD_TITLES)
    if len(names) <= MANY:
        return names
    return [name for own in by_family(names).values() for name in own]


def metric(name: str) -> Metric:
    """What is known of a metric; an unknown one has no good direction."""
    return METRICS.get(name, Metric(name, name))


def ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The different `names`, the known ones first and in their order."""
    names = list(dict.fromkeys(names))
    first = [name for name in known if name in names]
    return first + [name for name in names if name not in first]
