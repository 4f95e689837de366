"""The composition root: the one place where the parts of the program are put together.

`run` puts a run together from its devices, inputs, processor and views; `node` serves the GPUs of a
node. Whoever builds something here also closes it, in the reverse order.
"""
