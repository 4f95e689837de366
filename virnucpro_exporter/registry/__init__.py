"""The runs of this machine: how one announces itself, and how the exporter of the machine finds it.

A run puts two files into a folder of the machine: `ID.sock`, a socket that gives its newest state
to those who may know it, and `ID.json`, which says what it is and, in the end, how it ended. Other
users write there, too, so that nothing in it is trusted: see `folder` and `record`.
"""
