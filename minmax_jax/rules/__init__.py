"""Other backward passes than the gradient's, for any JAX function.

A function is rewritten equation by equation (`interpret`), so layers need neither hooks nor special
forms: Linen, NNX, Equinox or plain `jnp` alike. It takes one pytree of perturbations, floating
arrays that are 0 when it is called, and closes over everything else. A perturbation that is added
to an activation reads what comes back to that activation.

- "gradient": the chain rule.
- "guided": what goes back through a ReLU is rectified too (Springenberg et al., "Striving for
  Simplicity: The All Convolutional Net", 2015).
- "relevance": layer-wise relevance propagation, see `relevance`.
- "biases": the gradient, also in what the layers add, for FullGrad (Srinivas and Fleuret,
  "Full-Gradient Representation for Neural Network Visualization", 2019).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax.rules import relevance
from minmax_jax.rules.interpret import Value, Visitor, evaluate

RULES = ("gradient", "guided", "relevance", "biases")


def with_rule(function: Callable[[Any], Any], rule: str) -> Callable[[Any], Any]:
    """The same function, whose `jax.vjp` follows a rule.

    Under "guided", `max(x, 0)` is a ReLU wherever it stands, also within `relu6`, `clip` and
    `clamp`; so is, outside loops, `where(x > 0, x, 0)`. All else keeps its gradient, also a
    function without weights that has a derivative of its own and holds more than these, as softplus
    does. Under "relevance" the cotangents are relevance: given at the results, they come back at
    the perturbations; nothing comes back to what the function closes over.

    Args:
      function: `perturbations -> results`, two pytrees of arrays, the former floating.
      rule: "gradient", "guided" or "relevance".

    Returns:
      `perturbations -> results`, the same results.

    Raises:
      ValueError: unknown rule, or "biases", which has two results (`with_biases`); when called, the
        rule cannot see into a condition, a loop or a layer with a derivative of its own, or has
        nothing for a primitive.
    """
    if rule == "gradient":
        return function
    visitors = {"guided": _GUIDED, "relevance": relevance.VISITOR}
    if rule not in visitors:
        raise ValueError(
            f"no function follows the rule {rule!r} alone; rules of one are "
            f"{['gradient', *visitors]}, with_biases is for 'biases'."
        )

    def ruled(perturbations):
        return _run(function, perturbations, visitors[rule])

    return ruled


def with_biases(
    function: Callable[[Any], Any], example: Any
) -> tuple[Callable[[Any, dict[str, jax.Array]], tuple[Any, dict[str, jax.Array]]], dict]:
    """The same function, with something added wherever it adds a bias.

    A bias is what is added to, or taken from, a value that depends on the perturbations: that of a
    convolution or a linear layer, the shift of a normalisation; also a bound other than 0 where it
    is chosen (`relu6`). A perturbation that is added is none, nor is a 0 in the code, nor what is
    put in by `where`, concatenation or padding. What is taken away and then scaled, as the mean of
    a normalisation, is part of the bias that is added next. For other piecewise linear functions a
    result is the sum of its gradient times the input and its gradients times the biases.

    Args:
      function: `perturbations -> results`, two pytrees of arrays, the former floating.
      example: perturbations, or `jax.ShapeDtypeStruct`s like them.

    Returns:
      `perturbed(perturbations, extra) -> (results, biases)` and the zeros to give as `extra`.
      `extra`, `biases` and zeros are `{name: array}`, named bias and a number that grows in the
      order of the computation, each of the shape of the sum at which the bias is added;
      `extra[name]` is added to that sum.

    Raises:
      ValueError: the function adds something within a condition, a loop or a layer with a
        derivative of its own.
    """

    def perturbed(perturbations, extra):
        biases, means, numbers = {}, {}, itertools.count()

        def visit(name, operands, bind):
            depends = [operand.depends for operand in operands]
            if depends.count(True) != 1 or any(operand.given for operand in operands):
                return None
            if name == "clamp":
                low, value, high = operands
                if not value.depends:
                    return None
                array = visit("max", (value, low), bind)
                return visit("min", (dataclasses.replace(value, array=array), high), bind)
            place = depends.index(True)
            value, constant = operands[place], operands[1 - place]
            # Of a value that is a difference, only scaled since, and used nowhere else.
            mean = means.get(id(value.array)) if value.once else None
            if name in _SCALES:
                if not mean or (name == "div" and place == 1):
                    return None
                arrays = [operand.array for operand in operands]
                result = bind(*arrays)[0]
                arrays[place] = mean[1]
                means[id(result)] = (mean[0], bind(*arrays)[0], result)
                return result
            result, bias = _with_bias(name, operands, bind)
            if constant.zero:
                return result
            if mean and (name == "add" or (name == "sub" and place == 0)):
                bias = bias + mean[1]
                del biases[mean[0]]
            label = f"bias{next(numbers)}"
            biases[label] = bias
            result = result + extra.get(label, 0)
            if name == "sub" and place == 0:
                # With the array, which keeps its `id` for itself.
                means[id(result)] = (label, bias, result)
            return result

        results = _run(function, perturbations, Visitor(_BIASED, visit, seen=_SCALES))
        return results, biases

    shapes = jax.eval_shape(lambda perturbations: perturbed(perturbations, {})[1], example)
    return perturbed, {name: jnp.zeros(bias.shape, bias.dtype) for name, bias in shapes.items()}


def _run(function, perturbations, visitor):
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(perturbations)
    given = [Value(array, depends=True, given=True) for array in jax.tree.leaves(perturbations)]
    results = evaluate(closed.jaxpr, closed.consts, given, visitor)
    return jax.tree.unflatten(jax.tree.structure(shapes), [result.array for result in results])


@jax.custom_vjp
def _relu(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0)


_relu.defvjp(
    lambda x: (_relu(x), x > 0),
    lambda positive, g: (jnp.where(positive, jnp.maximum(g, 0), 0),),
)


def _rectify(name, operands, bind) -> jax.Array | None:
    """A ReLU with the guided backward pass; None for anything else."""
    if name == "clamp":
        low, value, high = operands
        return bind(low.array, _relu(value.array), high.array)[0] if low.zero else None
    if name == "select_n":
        return _rectify_chosen(*operands) if len(operands) == 3 else None
    constants = [operand for operand in operands if not operand.depends]
    if name != "max" or len(constants) != 1 or not constants[0].zero:
        return None
    shape = jnp.broadcast_shapes(*(operand.array.shape for operand in operands))
    (value,) = (operand.array for operand in operands if operand.depends)
    return _relu(jnp.broadcast_to(value, shape))


# The minimum of `relu6` stays as it is, but is part of what is entered.
_GUIDED = Visitor(frozenset({"max", "min", "clamp"}), _rectify, seen=frozenset({"select_n"}))
_BIASED = frozenset({"add", "sub", "max", "min", "clamp"})
_SCALES = frozenset({"mul", "div"})


def _rectify_chosen(where, if_not, if_so) -> jax.Array | None:
    """The same of `where(x > 0, x, 0)`."""
    of, positive = where.sign or (None, None)
    value, other = (if_so, if_not) if positive else (if_not, if_so)
    return _relu(value.array) if other.zero and value.array is of else None


def _with_bias(name, operands, bind) -> tuple[jax.Array, jax.Array]:
    """What comes of a value and a constant, and which bias the constant is.

    Where a value equals its bound the bound is chosen: 0 is the derivative of ReLU at 0.
    """
    shape = jnp.broadcast_shapes(*(operand.array.shape for operand in operands))
    first, second = (jnp.broadcast_to(operand.array, shape) for operand in operands)
    value, constant = (first, second) if operands[0].depends else (second, first)
    if name in ("max", "min"):
        bounded = value <= constant if name == "max" else value >= constant
        return jnp.where(bounded, constant, value), jnp.where(bounded, constant, 0)
    bias = -constant if name == "sub" and operands[0].depends else constant
    return bind(*(operand.array for operand in operands))[0], bias
