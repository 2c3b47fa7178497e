"""Runs the task of a config: an experiment, pairs of classes, photos, or the papers' tables.

    python launch.py --config experiments/scenes.py --workdir runs/scenes

Fields of the config are overridden by `--config.FIELD=VALUE`; a repeated command goes on where the
last one stopped. All devices of the machine are used; how to start one process on each of several
machines (Slurm, TPU pods, by hand) is told in docs/launch.md. SIGTERM saves and ends with 0.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from minmax_jax import lifeline, preemption
from minmax_jax.run import run

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="FILE[:VARIANT] of the experiment.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results; a rerun goes on there.")
CHOSEN = flags.DEFINE_list(
    "stages", None, "Which of the task's stages; by default all but masks, sanity and analyze."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of many processes; Slurm, TPU pods, Open MPI tell which."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if nobody tells.")
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
PROCESS = flags.DEFINE_integer("process", None, "Number of this one from 0, with --coordinator.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.FATAL)  # Libraries log what they also raise.
    try:
        join_processes()
        preemption.install()
        run(CONFIG.value, WORKDIR.value, stages=CHOSEN.value)
    except preemption.Preempted:
        print("saved after SIGTERM; the same command goes on", file=sys.stderr)
    except (ValueError, FloatingPointError, OSError, jax.errors.JaxRuntimeError) as error:
        lifeline.settle(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise
        sys.exit(f"error: {last_line(error)}")
    lifeline.leave()


def join_processes() -> None:
    """Waits for the other processes, if there are any; none of them is then lost unnoticed."""
    by_hand = {
        "coordinator_address": COORDINATOR.value,
        "num_processes": PROCESSES.value,
        "process_id": PROCESS.value,
    }
    given = [value for value in by_hand.values() if value is not None]
    if given and len(given) < len(by_hand):
        raise ValueError("--coordinator, --processes and --process are given together")
    if given or DISTRIBUTED.value:
        jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours
        lifeline.join(**by_hand)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; what it asks for and does not exist ends in one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:
        sys.exit(f"error: {last_line(error)}")
    except Exception as error:  # of a field that is not there, or anything of a config file
        sys.exit(f"error: {unknown_field(argv) or last_line(error)}")


def last_line(error: Exception) -> str:
    """A config file's own error comes with its traceback, whose last line tells."""
    return str(error).strip().splitlines()[-1].strip()


def unknown_field(argv: Sequence[str]) -> str | None:
    """What the config file raises, or the first `--config.FIELD` that the config does not have."""
    lines = "\n".join(argv)
    file, _, variant = re.search(r"^--?config[=\n](.+)$", lines, re.MULTILINE)[1].partition(":")
    try:
        config = runpy.run_path(file)["get_config"](*filter(None, [variant]))
    except Exception as error:
        return f"cannot load the config {file}: {type(error).__name__}: {error}"
    for path in re.findall(r"^--?config\.([^=\n]+)", lines, re.MULTILINE):
        node = config
        for part in re.findall(r"[^.\[\]]+", path):
            is_list = isinstance(node, list | tuple)
            valid = [str(i) for i in range(len(node))] if is_list else list(node)
            if part not in valid:
                return f"the config has no field {path!r}; fields there: {', '.join(valid)}"
            node = node[int(part)] if is_list else node[part]
    return None


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
