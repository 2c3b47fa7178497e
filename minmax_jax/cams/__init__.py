"""Arithmetic of class activation maps, written for one example.

Layout: activations are `(h w k)`, gradients have the shape of the activations, kernels of linear
heads are `(k c)`, maps are `(h w)`; `present (c,)` says which labels are in the image. Everything
is floating point, `float32` unless the caller chose otherwise. Labels and examples are batched by
the caller's `jax.vmap`; nothing here imports the rest of the package.
"""
