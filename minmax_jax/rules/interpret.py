"""Evaluates a function's jaxpr equation by equation, so that some can be given another derivative.

A jaxpr is a list of equations, each a primitive, its operands and its results. Along with every
array goes what is known of it without looking at its numbers, a `Value`. Calls (`jit` and the like)
are entered. So are functions with a derivative of their own, where that can matter. Where code
depends on the platform, the default says what is computed; whatever the platform prefers computes
it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"}
_OWN_DERIVATIVE = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_WEIGHTED = {"conv_general_dilated", "dot_general"}
_COMPARISONS = {"gt", "ge", "lt", "le"}
_SAME_NUMBERS = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "expand_dims",
    "pad",
    "reshape",
    "slice",
    "squeeze",
    "stack",
    "transpose",
}
_NEVER_NEGATIVE = {"abs", "exp", "logistic", "sqrt", "square"}
_NOT_NEGATIVE_OF_SUCH = _SAME_NUMBERS | {
    "add",
    "div",
    "min",
    "mul",
    "reduce_max",
    "reduce_sum",
    "reduce_window_max",
    "reduce_window_sum",
}


@dataclasses.dataclass(frozen=True)
class Value:
    """An array and what is known of it.

    Attributes:
      array: its numbers.
      depends: whether it depends, differentiably, on what the function was given.
      given: whether it is one of the arrays that the function was given, perhaps reshaped.
      zero: whether it is 0 by construction.
      once: whether only one equation uses it.
      nonnegative: whether it is never negative.
      gate: whether it is what a logistic function gave, perhaps reshaped.
      sign: of `x > 0` and the like, `x` and True; of `x < 0`, `x` and False; whatever 0 itself is.
    """

    array: Any
    depends: bool = False
    given: bool = False
    zero: bool = False
    once: bool = True
    nonnegative: bool = False
    gate: bool = False
    sign: tuple[Any, bool] | None = None


Bind = Callable[..., list[jax.Array]]


@dataclasses.dataclass(frozen=True)
class Visitor:
    """What to do with equations that depend on what the function was given.

    Attributes:
      names: primitives that it may change, None for all of them.
      visit: `(primitive, operands, bind) -> array`, the only result of the equation, or None to
        leave it as it is. `bind(*arrays)` gives the list of its results.
      seen: further primitives that it is shown; their numbers and derivatives stay.
    """

    names: frozenset[str] | None
    visit: Callable[[str, Sequence[Value], Bind], jax.Array | None]
    seen: frozenset[str] = frozenset()

    def concerns(self, jaxpr: core.Jaxpr) -> bool:
        """Whether it may change anything in the jaxpr."""
        return self.names is None or not self.names.isdisjoint(_primitives(jaxpr))

    def comprises(self, jaxpr: core.Jaxpr) -> bool:
        """Whether it may change all that computes in the jaxpr."""
        return self.names is None or self.names >= _primitives(jaxpr) - _SAME_NUMBERS


def evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], values: Sequence[Value], visitor: Visitor
) -> list[Value]:
    """Results of a jaxpr, with those equations changed that the visitor changes.

    Raises:
      ValueError: a condition, a loop or a layer with a derivative of its own that depends on what
        the function was given holds something that the visitor may change.
    """
    uses = collections.Counter(_variables(jaxpr.outvars))
    for equation in jaxpr.eqns:
        uses.update(_variables(equation.invars))
    known = dict(zip(jaxpr.constvars, map(_of_outside, consts), strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))

    def read(atom):
        if not isinstance(atom, core.Literal):
            return dataclasses.replace(known[atom], once=known[atom].once and uses[atom] == 1)
        array = np.asarray(atom.val, atom.aval.dtype)
        return Value(array, zero=bool(array == 0), nonnegative=bool(array >= 0))

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = _evaluate_equation(equation, operands, bind_equation(jaxpr, equation), visitor)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _evaluate_equation(equation, operands, bind, visitor) -> list[Value]:
    name = equation.primitive.name
    if not _differentiable(equation, operands):
        results = bind(*(operand.array for operand in operands))
        return [_of_constants(name, operands, array) for array in results]

    if name in _CALLS or (name in _OWN_DERIVATIVE and visitor.comprises(called(equation)[0])):
        return evaluate(*called(equation), operands, visitor)
    default = _platform_default(equation)
    if default:
        index, *operands = operands
        name = _only_primitive(default.jaxpr)
        if name is None and visitor.concerns(default.jaxpr):
            return evaluate(default.jaxpr, default.consts, operands, visitor)
        bind = functools.partial(bind, index.array)
    elif any(map(visitor.concerns, _not_entered(equation))):
        raise ValueError(f"derivatives cannot be replaced within {name!r}, only in plain calls.")

    replaced = None
    if visitor.names is None or name in visitor.names | visitor.seen:
        replaced = visitor.visit(name, operands, bind)
    if replaced is None:
        results = bind(*(operand.array for operand in operands))
    else:
        results = [replaced]
    return [_of_dependent(name, operands, array) for array in results]


def _differentiable(equation, operands) -> bool:
    """Whether a derivative can flow from the results to what the function was given."""
    return (
        equation.primitive.name != "stop_gradient"
        and any(operand.depends for operand in operands)
        and any(jnp.issubdtype(result.aval.dtype, jnp.inexact) for result in equation.outvars)
    )


def _of_outside(const) -> Value:
    """A constant that the function closes over; of scalars it is known whether they are 0."""
    known = isinstance(const, np.ndarray | jax.Array) and not isinstance(const, jax.core.Tracer)
    scalar = known and const.shape == () and jnp.issubdtype(const.dtype, jnp.number)
    return Value(const, zero=bool(scalar and np.asarray(const) == 0))


def _of_constants(name, operands, array) -> Value:
    same = name in _SAME_NUMBERS
    return Value(
        array,
        zero=same and all(operand.zero for operand in operands),
        nonnegative=same and all(operand.nonnegative for operand in operands),
        sign=_sign(name, operands),
    )


def _of_dependent(name, operands, array) -> Value:
    same = name in _SAME_NUMBERS
    return Value(
        array,
        depends=jnp.issubdtype(array.dtype, jnp.inexact),
        given=same and all(operand.given for operand in operands),
        nonnegative=_is_nonnegative(name, operands),
        gate=name == "logistic" or (same and all(operand.gate for operand in operands)),
    )


def _sign(name, operands) -> tuple[Any, bool] | None:
    if name not in _COMPARISONS:
        return None
    first, second = operands
    if second.zero:
        return first.array, name in ("gt", "ge")
    return (second.array, name in ("lt", "le")) if first.zero else None


def bind_equation(jaxpr: core.Jaxpr, equation: core.JaxprEqn) -> Bind:
    """What an equation computes of arrays in the place of its operands."""
    variable = [not isinstance(atom, core.Literal) for atom in equation.invars]
    alone = jaxpr.replace(
        constvars=[],
        invars=[*itertools.compress(equation.invars, variable)],
        outvars=equation.outvars,
        eqns=[equation],
        effects=equation.effects,
    )
    run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
    return lambda *arrays: run(*itertools.compress(arrays, variable))


def called(equation: core.JaxprEqn) -> tuple[core.Jaxpr, Sequence[Any]]:
    """Jaxpr and constants of what a call calls."""
    keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    inner = next(equation.params[key] for key in keys if key in equation.params)
    if isinstance(inner, core.ClosedJaxpr):
        return inner.jaxpr, inner.consts
    return inner, ()


def _not_entered(equation) -> list[core.Jaxpr]:
    """What an equation computes as a whole: all but functions such as softplus, which have no
    weights and a derivative of their own."""
    inner = list(core.jaxprs_in_params(equation.params))
    if equation.primitive.name not in _OWN_DERIVATIVE:
        return inner
    return [jaxpr for jaxpr in inner if not _WEIGHTED.isdisjoint(_primitives(jaxpr))]


def _variables(atoms):
    return (atom for atom in atoms if not isinstance(atom, core.Literal))


def _platform_default(equation) -> core.ClosedJaxpr | None:
    """What `lax.platform_dependent` computes by default; None for any other equation."""
    platforms = equation.params.get("branches_platforms") or ()
    return equation.params["branches"][platforms.index(None)] if None in platforms else None


def _only_primitive(jaxpr) -> str | None:
    """The primitive that does just what a jaxpr does, to the same operands."""
    if len(jaxpr.eqns) != 1:
        return None
    (only,) = jaxpr.eqns
    if only.invars != jaxpr.invars or any(core.jaxprs_in_params(only.params)):
        return None
    return only.primitive.name


def _primitives(jaxpr) -> set[str]:
    """Names of all primitives in a jaxpr but for the calls."""
    names = {equation.primitive.name for equation in jaxpr.eqns} - _CALLS
    return names.union(*map(_primitives, core.subjaxprs(jaxpr)))


def _is_nonnegative(name, operands) -> bool:
    if name == "add" and any(operand.given for operand in operands):
        return all(operand.nonnegative or operand.given for operand in operands)
    if name == "max":
        return any(operand.nonnegative for operand in operands)
    return name in _NEVER_NEGATIVE or (
        name in _NOT_NEGATIVE_OF_SUCH and all(operand.nonnegative for operand in operands)
    )
