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

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minmax_jax.rules import relevance
from minmax_jax.rules.interpret import Value, Visitor, evaluate

RULES = ("gradient", "guided", "relevance", "biases")


def with_rule(function: Callable[[Any], Any], rule: str) -> Callable[[Any], Any]:
    """The same function, whose `jax.vjp` follows a rule.

    Under "guided", `max(x, 0)` is a ReLU wherever it stands, also within `relu6` and `clip`; a
    function with a derivative of its own that holds more than these keeps it. Under "relevance"
    the cotangents are relevance: given at the results, they come back at the perturbations; nothing
    comes back to what the function closes over.

    Args:
      function: `perturbations -> results`, two pytrees of arrays, the former floating.
      rule: "gradient", "guided" or "relevance".

    Returns:
      `perturbations -> results`, the same results.

    Raises:
      ValueError: unknown rule, or "biases", which has two results (`with_biases`); when called, the
        rule cannot see into a condition or a loop, or has nothing for a primitive.
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
    is chosen (`relu6`). A perturbation that is added is none, nor is a 0 in the code. For piecewise
    linear functions without conditions a result is the sum of its gradient times the input and its
    gradients times the biases.

    Args:
      function: `perturbations -> results`, two pytrees of arrays, the former floating.
      example: perturbations, or `jax.ShapeDtypeStruct`s like them.

    Returns:
      `perturbed(perturbations, extra) -> (results, biases)` and the zeros to give as `extra`.
      `extra`, `biases` and zeros are `{name: array}`, named bias0, bias1 ... in the order of the
      computation, each of the shape of the sum at which the bias is added; `extra[name]` is added
      to that sum.

    Raises:
      ValueError: the function adds something within a condition or a loop.
    """

    def perturbed(perturbations, extra):
        biases = {}

        def visit(name, operands, bind):
            constants = [operand for operand in operands if not operand.depends]
            if len(constants) != 1 or any(operand.given for operand in operands):
                return None
            result, bias = _with_bias(name, operands, bind)
            if constants[0].zero:
                return result
            label = f"bias{len(biases)}"
            biases[label] = bias
            return result + extra.get(label, 0)

        results = _run(function, perturbations, Visitor(_BIASED, visit))
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
    del bind
    constants = [operand for operand in operands if not operand.depends]
    if name != "max" or len(constants) != 1 or not constants[0].zero:
        return None
    return _relu(*(operand.array for operand in operands if operand.depends))


# The minimum of `relu6` stays as it is, but is part of what is entered.
_GUIDED = Visitor(frozenset({"max", "min"}), _rectify)
_BIASED = frozenset({"add", "sub", "max", "min"})


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
