"""Representative classes on COCO 2017: Table 5 and Figure 8 of the second paper.

    python launch.py --config experiments/pairs_coco17.py --workdir runs/pairs_coco17 \
        --config.pairs.modes="('cluster-1',)"

With the paper's one mode for this data set, resnet101, and vgg19 for the similarity;
`minmax_jax/pairs/recipe.py` lists the variants and the settings. Four representatives of each of 80
classes are up to 320 networks.

Needs the official files in `data` (docs/reproduce.md), pycocotools, and torchvision's weights in
`weights`.

Trained in full nowhere yet; time and memory on an accelerator are not measured.
"""

from minmax_jax.pairs.recipe import paper_config


def get_config(variant=None):
    return paper_config("coco17", variant)
