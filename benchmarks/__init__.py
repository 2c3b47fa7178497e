"""What is fast, measured: `python -m benchmarks.NAME [--json FILE]`.

Each prints a table of ratios, measured in one process, to the bare forward pass.
"""
