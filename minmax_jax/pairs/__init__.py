"""Maps of classes from classifiers of two: which classes to compare with, and the comparison.

    similarity = pairs.similarity_matrix(probabilities, labels)
    clusters = pairs.cluster_classes(jax.random.key(0), similarity, num_clusters=4)
    selection = pairs.select_classes(similarity, mode="cluster-1", clusters=clusters)
    wanted = pairs.needed_pairs([selection])
    pairs.fit_pairs(network, variables, take, labels, wanted, directory="pairs")

After Meng et al., "Class Activation Map Generation by Representative Class Selection and
Multi-Layer Feature Fusion".
"""

from minmax_jax.pairs.clustering import cluster_classes
from minmax_jax.pairs.evaluate import evaluate_method, evaluate_pairs
from minmax_jax.pairs.files import PairClassifier, pair_path, read_pair
from minmax_jax.pairs.maps import PairMaps
from minmax_jax.pairs.selection import parse_mode, rank_classes, select_classes
from minmax_jax.pairs.similarity import network_similarity, similarity_matrix
from minmax_jax.pairs.training import fit_pairs, needed_pairs

__all__ = [
    "PairClassifier",
    "PairMaps",
    "cluster_classes",
    "evaluate_method",
    "evaluate_pairs",
    "fit_pairs",
    "needed_pairs",
    "network_similarity",
    "pair_path",
    "parse_mode",
    "rank_classes",
    "read_pair",
    "select_classes",
    "similarity_matrix",
]
