"""Convolutions that are as fast within loops on CPU as outside.

XLA's CPU backend has a fast convolution for one layout, channels last with `HWIO` kernels, and
brings others into it, but not within loops. Gradients have kernels with inputs and outputs
exchanged, so there they run several times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

from minmax_jax.rules.interpret import bind_equation, called


def for_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, to be the body of a loop.

    On CPU its convolutions are computed in XLA's layout, whatever theirs; other platforms compute
    them as they are. Its own conditions and loops, and functions with a derivative of their own or
    that compute forward again (`jax.checkpoint`), stay as they are.

    Args:
      function: of trees of arrays to a tree of arrays. What is differentiated within it, as a
        pullback, counts; what is differentiated later does not.

    Returns:
      A function of the same, with the same derivatives.
    """

    def run(*args):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _evaluate(jaxpr, consts, arrays):
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arrays, strict=True))

    def read(atom):
        if isinstance(atom, core.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        return known[atom]

    for equation in jaxpr.eqns:
        operands = map(read, equation.invars)
        name = equation.primitive.name
        if name == "jit":
            results = _evaluate(*called(equation), operands)
        elif name == "conv_general_dilated":
            results = [_convolve(*operands, bind_equation(jaxpr, equation), equation.params)]
        else:
            results = bind_equation(jaxpr, equation)(*operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _convolve(x, kernel, bind, params):
    """A convolution, on CPU in XLA's layout."""
    given, fast = params["dimension_numbers"], _channels_last(x.ndim)
    if given == fast or params["out_sharding"] is not None:
        return bind(x, kernel)[0]

    def in_layout(x, kernel):
        x, kernel = (
            lax.transpose(array, [dim for _, dim in sorted(zip(after, before, strict=True))])
            for array, before, after in zip((x, kernel), given[:2], fast[:2], strict=True)
        )
        result = lax.conv_general_dilated(x, kernel, **params | {"dimension_numbers": fast})
        places = sorted(zip(given.out_spec, fast.out_spec, strict=True))
        return lax.transpose(result, [dim for _, dim in places])

    return lax.platform_dependent(x, kernel, cpu=in_layout, default=lambda *both: bind(*both)[0])


def _channels_last(rank):
    """Where XLA has batch and channels, or outputs and inputs, then the sides."""
    sides = tuple(range(rank - 2))
    around = (0, rank - 1, *(side + 1 for side in sides))
    return lax.ConvDimensionNumbers(around, (rank - 1, rank - 2, *sides), around)
