"""A sample of the GPUs of a node as a message: packed on the node, unpacked where it is shown.

Every node sends one every few seconds, and one process receives all. That process keeps them as
bytes until a view reads them, and builds each value once, under its name in the run.
"""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from operator import attrgetter
from typing import NamedTuple

from virnucpro_exporter.snapshot import GpuDevice, GpuSample, GpuSnapshot


class Look(NamedTuple):
    """A packed sample of the GPUs of a node.

    Attributes:
        now: Unix seconds on the node's clock when it was packed.
        content: The pickled values of the GPUs.
    """

    now: float
    content: bytes


# A node cannot tell which processes belong to the run.
_UNKNOWN = "foreign_processes"
_MOVED = ("gpu", "node", "sample", "last_answer_timestamp", "xids")
_OF_SAMPLE = tuple(f.name for f in fields(GpuSample) if f.name not in ("timestamp", _UNKNOWN))
_OF_DEVICE = tuple(f.name for f in fields(GpuDevice) if f.name not in _MOVED)
_get_of_sample, _get_of_device = attrgetter(*_OF_SAMPLE), attrgetter(*_OF_DEVICE)


def pack(now: float, snapshot: GpuSnapshot) -> Look:
    """Pack the GPUs of a node.

    Args:
        now: Unix seconds on the clock of that node.
        snapshot: The GPUs, by their numbers there, with times on its clock.
    """
    devices = [
        (
            device.gpu,
            _get_of_device(device),
            sample and (sample.timestamp, _get_of_sample(sample)),
            device.last_answer_timestamp,
            device.xids,
        )
        for device in snapshot.devices
        for sample in (device.sample,)
    ]
    bare = replace(snapshot, devices=())
    return Look(now, pickle.dumps((bare, devices), pickle.HIGHEST_PROTOCOL))


def unpack(look: Look, node: str, now: float) -> GpuSnapshot:
    """Unpack a sample; its sender is a member of the Dask cluster, which is trusted anyway.

    Args:
        look: The packed sample.
        node: The name of the node, which becomes part of the names of its GPUs.
        now: Unix seconds on the local clock at arrival; all times are converted to this clock.
    """
    ahead = look.now - now
    bare: GpuSnapshot
    bare, devices = pickle.loads(look.content)  # noqa: S301 - see above
    opened = []
    for gpu, values, sample, answered, xids in devices:
        if sample is not None:
            at, rest = sample
            sample = GpuSample(at - ahead, **dict(zip(_OF_SAMPLE, rest, strict=True)))  # noqa: PLW2901
        opened.append(
            GpuDevice(
                f"{node}/{gpu}",
                node=node,
                sample=sample,
                last_answer_timestamp=None if answered is None else answered - ahead,
                xids=tuple(replace(x, last_timestamp=x.last_timestamp - ahead) for x in xids),
                **dict(zip(_OF_DEVICE, values, strict=True)),
            )
        )
    return replace(bare, timestamp=bare.timestamp - ahead, devices=tuple(opened))
