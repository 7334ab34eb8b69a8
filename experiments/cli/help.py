# SPDX-License-Identifier: Apache-2.0
"""What the command line says of itself."""

from experiments.config.loading import available

HELP = """\
usage: python -m experiments COMMAND ...

  train CONFIG [--workdir DIR] [--overwrite] [--FIELD.SUBFIELD VALUE ...]
      Trains what a config file says, or goes on where that run stopped. Any field can
      be changed on the command line; `train CONFIG --help` lists them all.
  study CONFIG [--workdir DIR] [--num-seeds N] [--overwrite]
      Puts a claim to the test: trains what it compares, or what is missing of it, and
      applies the rule that the config has.
  lab [--workdir DIR] [--overwrite]
      Runs all studies in configs/studies, and writes one report of their verdicts.
  report RUN [RUN ...] [--output FILE]
      Draws the curves of one or several runs' folders side by side, on one page.
  launch --num-processes N train CONFIG ...
      The same by N processes on this machine, which train as one. On a cluster, start
      `train CONFIG --processes.detect` by srun or mpirun, or on each host of a TPU.
  bench CONFIG [--workdir DIR] [--FIELD VALUE ...]
      Times a layer, a network or whole runs in jaxbn and its peers, in turn.
  demo [--workdir DIR]
      Trains two networks on handwritten digits with and without batch norm, prints a
      table and writes a report.

examples:
  python -m experiments train configs/digits_dense.py
  python -m experiments train configs/digits_conv.py --norm.kind none --seed 1
  python -m experiments train configs/digits_dense.py --optimizer.learning-rate 0.01
  python -m experiments train configs/digits_conv.py --parallel.num-devices 4
  python -m experiments study configs/studies/learning_rate.py
  python -m experiments bench configs/bench_layer.py --rounds 50

configs:
"""


def help_text() -> str:
    """Returns the help, with the configs there are."""
    lines = [f"  {path}: {line}" for path, line in available()]
    return HELP + "\n".join(lines or ["  (none in configs/)"])
