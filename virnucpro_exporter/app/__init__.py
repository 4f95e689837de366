"""Composition root: puts a run together, owns signals, closes it all.

`run` puts a run together from its devices, inputs, processor and views; `node` serves the GPUs of a
node. A function that builds something here also closes it, in the reverse order.
"""
