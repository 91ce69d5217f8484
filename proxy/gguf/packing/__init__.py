"""Weights that are stored quantized: each module turns one scheme's tensors into rows of F32. Pure.

A scheme finds its tensors by their names, types and shapes, and puts a `PackedRows` or `PackedMatrix` (`packed.py`) in
their place, which says what bytes its rows are made from. `coded_rows.py` makes the numbers of most schemes. Families
see the F32 tensor and know nothing of schemes.

Decoders use numpy, whose import takes 0.1 s: `proxy/gguf/unpacking.py` imports this package where a repository has such
tensors.
"""
