"""The registry of the runs on this machine: runs are announced there, and `serve` finds them.

A run creates two files in a shared folder: `ID.sock`, a socket that sends its newest state to
processes of trusted users, and `ID.json`, which describes the run and, at the end, its result.
Other users can write into the folder, so its content is not trusted: see `folder` and `record`.
"""
