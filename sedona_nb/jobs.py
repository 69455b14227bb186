"""What the processes of an asynchronous run are told, as a value that travels in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from sedona_nb.decoding import decode
from sedona_nb.records import RunSpec


@dataclass(frozen=True)
class Job:
    """What all processes of a run are told.

    Attributes:
        spec: the run.
        data: name or path of the data set.
        folder: for the blocks' checkpoints; on several machines a shared one, or each its own if all
            replicas of a block are on one machine.
        depth: slots of a queue.
        device: type of the device, "cpu" or "cuda".
        threads: of each process.
        timeline: write what each process did when.
        replicas: processes a block, each with its part of every batch.
    """

    spec: RunSpec
    data: str
    folder: str
    depth: int = 4
    device: str = "cpu"
    threads: int = 1
    timeline: bool = False
    replicas: int = 1

    def to_json(self) -> str:
        """All fields as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` wrote."""
        return decode(cls, json.loads(text))
