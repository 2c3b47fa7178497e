"""The MinMax-CAM paper's Tables 1 to 4 beside the numbers of runs of one's own.

    python launch.py --config experiments/tables.py --workdir runs/tables \
        --config.runs='runs/voc07*,runs/coco17*'

Needs finished runs of experiments/voc07.py, voc12.py, coco17.py or planet.py: any of them, cells
without a run stay empty. `runs` holds their workdirs, or folders of single variants, as paths or
patterns with commas between.

`DIR/report/index.html` shows each table in the paper's layout, published, ours and the difference
in every cell; `DIR/report/table_1.csv`, `.md` and `.tex` and so on hold the same. What the marks
mean is told in docs/tables.md.
"""

from minmax_jax.config import tables_config


def get_config():
    config = tables_config()
    config.lock()
    return config
