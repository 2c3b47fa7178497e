"""Layer-wise relevance propagation by the z+ rule: one backward rule for each kind of primitive.

What goes back is relevance. Every rule hands all that reaches a result on to its operands, so sums
are conserved where no denominator is 0:

- convolutions and matrix products by weights: `z+ = x+ W+ + x- W-`, and each `x_i` gets its share
  of z+, the z+ or alpha-1-beta-0 rule (Bach et al., "On Pixel-Wise Explanations for Non-Linear
  Classifier Decisions by Layer-Wise Relevance Propagation", 2015) that Relevance-CAM uses (Lee et
  al., "Relevance-CAM: Your Model Already Knows Where to Look", 2021);
- sums of what depends on the perturbations: each term its share of the sum, so terms that nearly
  cancel each other, as in layer and group normalisation, get large shares of both signs. A
  perturbation and what it is added to both get all: that is how relevance is read;
- products of two such: all to the factor that is no gate of a logistic function (squeeze-and-
  excitation, swish, attention), or a half each;
- what works element by element, biases and batch normalisation included: all to the operand;
- maxima, and what only moves numbers: where the number came from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from minmax_jax.rules.interpret import Visitor

_ELEMENTWISE = frozenset(
    "abs acos acosh add add_any asin asinh atan atanh cbrt ceil clamp convert_element_type cos cosh"
    " div erf erfc erf_inv exp exp2 expm1 floor integer_pow lgamma log log1p logistic max min mul"
    " neg pow reduce_precision round rsqrt sign sin sinh sqrt square sub tan tanh".split()
)
_MOVES = frozenset(
    "broadcast_in_dim concatenate copy cummax cummin dynamic_slice dynamic_update_slice expand_dims"
    " gather max min optimization_barrier pad reduce_max reduce_min reduce_window_max"
    " reduce_window_min reshape rev scatter select_n sharding_constraint slice sort split squeeze"
    " stack tile transpose unstack".split()
)
_SUMS = frozenset({"cumsum", "reduce_sum", "reduce_window_sum"})
_WEIGHTED = frozenset({"conv_general_dilated", "dot_general"})


def _visit(name, operands, bind):
    of_perturbations = [i for i, operand in enumerate(operands) if operand.depends]
    first, both = of_perturbations[0], len(of_perturbations) == 2
    if name in _ELEMENTWISE and len(of_perturbations) == 1:
        rule = _give_all(of_perturbations)
    elif name in _MOVES:
        return None
    elif name in _SUMS:
        rule = _share_by_vjp(bind)
    elif name in _WEIGHTED and not both:
        rule = _share_positive(bind, first, operands[first].nonnegative)
    elif name in ("add", "add_any", "sub") and both:
        given = any(operand.given for operand in operands)
        rule = _give_all(of_perturbations) if given else _share_terms(-1 if name == "sub" else 1)
    elif name == "mul" and both:
        factors = [i for i in of_perturbations if not operands[i].gate] or of_perturbations
        rule = _give_all(factors, 1 / len(factors))
    else:
        several = " of two operands that depend on the perturbations" if both else ""
        raise ValueError(f"relevance has no rule for the primitive {name!r}{several}.")
    return _pulled_back_by(rule, bind, [operand.array for operand in operands])


VISITOR = Visitor(None, _visit)


def _pulled_back_by(rule, bind, arrays):
    """`bind(*arrays)`, pulled back by `rule(arrays, result, relevance) -> {operand: relevance}`."""

    @jax.custom_vjp
    def call(*arrays):
        return bind(*arrays)[0]

    def forward(*arrays):
        result = call(*arrays)
        return result, (arrays, result)

    def backward(saved, relevance):
        arrays, result = saved
        shares = rule(arrays, result, relevance)
        return tuple(
            _like(shares[i], array) if i in shares else None for i, array in enumerate(arrays)
        )

    call.defvjp(forward, backward)
    return call(*arrays)


def _like(relevance, array):
    """Relevance of an operand, which may be broadcast: the sum over what it stands for."""
    _, vjp = jax.vjp(lambda array: jnp.broadcast_to(array, relevance.shape), array)
    return vjp(relevance.astype(array.dtype))[0]


def _divide(relevance, total):
    """Relevance per unit of the total; 0 where there is none."""
    usable = jnp.abs(total) > jnp.finfo(total.dtype).tiny
    return jnp.where(usable, relevance / jnp.where(usable, total, 1), 0)


def _give_all(operands, part=1.0):
    return lambda arrays, result, relevance: {i: part * relevance for i in operands}


def _share_terms(sign):
    def rule(arrays, result, relevance):
        quotient = _divide(relevance, result)
        return {0: arrays[0] * quotient, 1: sign * arrays[1] * quotient}

    return rule


def _share_by_vjp(bind):
    def rule(arrays, result, relevance):
        (x,) = arrays
        _, vjp = jax.vjp(lambda x: bind(x)[0], x)
        return {0: x * vjp(_divide(relevance, result))[0]}

    return rule


def _share_positive(bind, position, nonnegative):
    clips = [_positive] if nonnegative else [_positive, _negative]

    def rule(arrays, result, relevance):
        def total(parts):
            sums = 0
            for clip, part in zip(clips, parts, strict=True):
                weighted = [clip(array) for array in arrays]
                weighted[position] = part
                sums = sums + bind(*weighted)[0]
            return sums

        parts = [clip(arrays[position]) for clip in clips]
        z, vjp = jax.vjp(total, parts)
        shares = vjp(_divide(relevance, z))[0]
        return {position: sum(x * share for x, share in zip(parts, shares, strict=True))}

    return rule


def _positive(array):
    return jnp.maximum(array, 0)


def _negative(array):
    return jnp.minimum(array, 0)
