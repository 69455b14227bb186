"""Ask for a run, get its record: what exists is not trained again, what was interrupted continues.

store = RunStore("results")
record = find_or_train(spec, pictures, store)
print(record.result["best"]["test"]["top1"])
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import torch

from sedona_nb import devices, layer_times, provenance, search, training
from sedona_nb import relaxed as relax
from sedona_nb.atomic import write_text
from sedona_nb.blocks import decouple
from sedona_nb.continuous import ContinuousNetwork
from sedona_nb.data import ImageData, Pictures
from sedona_nb.errors import SedonaError
from sedona_nb.records import Record, RunSpec, SearchSpec, Spec, TimingSpec, decode, spec_hash
from sedona_nb.search_config import SearchResult
from sedona_nb.seeds import mix


class RunStore:
    """A folder of records, one JSON file each, named by the hash of its spec.

    Checkpoints of runs in progress lie in its subfolder `checkpoints` and go when the record is written.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def path(self, spec: Spec) -> Path:
        """Where the record of `spec` is or would be."""
        return self.folder / f"{spec_hash(spec)}.json"

    def checkpoints(self, spec: Spec) -> Path:
        """The folder for what a run in progress has to remember."""
        return self.folder / "checkpoints" / spec_hash(spec)

    def load(self, spec: Spec) -> Record | None:
        """The record of `spec`, or None.

        Raises:
            SedonaError: there is a file, but it is no record of this spec.
        """
        path = self.path(spec)
        if not path.is_file():
            return None
        record = self._read(path)
        if spec_hash(record.spec) != spec_hash(spec):
            raise SedonaError(f"{path} holds the record of another spec; remove it")
        return record

    def save(self, record: Record) -> Path:
        """Write `record`, atomically, and drop its checkpoints; returns the file."""
        path = write_text(self.path(record.spec), record.to_json())
        shutil.rmtree(self.checkpoints(record.spec), ignore_errors=True)
        return path

    def forget(self, spec: Spec) -> None:
        """Remove the record and checkpoints of `spec`, so that it is run anew."""
        self.path(spec).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints(spec), ignore_errors=True)

    def records(self) -> list[Record]:
        """All records, in the order of their names.

        Raises:
            SedonaError: a file that is no record (which, and why).
        """
        return [self._read(path) for path in sorted(self.folder.glob("*.json"))]

    def _read(self, path: Path) -> Record:
        try:
            return Record.from_json(path.read_text(encoding="utf-8"))
        except (SedonaError, TypeError, UnicodeDecodeError) as error:
            raise SedonaError(f"{path} is no record: {error}; mend or remove it") from None


def find_or_search(
    spec: SearchSpec,
    pictures: ImageData,
    store: RunStore,
    device: torch.device | str = "cpu",
    profile: str = "",
) -> Record:
    """The record of a search; searched, or continued, if the store has none.

    Its result holds every field of `SearchResult`, tensors as nested lists; `search_result` gives it back.

    Raises:
        SedonaError: the pictures are not the spec's, or as in `search.run`.
    """
    found = store.load(spec)
    if found is not None:
        return found
    check_pictures(spec, pictures)
    device = torch.device(device)
    outcome = search.run(
        pictures, spec.network, spec.search, spec.heads, spec.seed, device, store.checkpoints(spec)
    )
    result = {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in ((part.name, getattr(outcome, part.name)) for part in dataclasses.fields(outcome))
    }
    origin = provenance.here(device, outcome.seconds, devices.peak_memory(device), profile)
    record = Record(spec, as_json(result), origin)
    store.save(record)
    return record


def search_result(record: Record) -> SearchResult:
    """The `SearchResult` of a search's record; float32 tensors, exactly as they were."""
    tensors = ("alpha", "beta", "alpha_history", "beta_history", "alpha_gradients", "outer_losses")
    values = dict(record.result)
    values.update({name: torch.tensor(values[name]) for name in tensors})
    values["pretraining"] = [tuple(row) for row in values["pretraining"]]
    return SearchResult(**values)


def find_or_train(
    spec: RunSpec,
    pictures: Pictures,
    store: RunStore,
    device: torch.device | str = "cpu",
    profile: str = "",
) -> Record:
    """The record of a training run; trained, or continued, if the store has none.

    Its result: "best" and "last" ({"step", "validation", "test"}, errors as in `evaluate.Errors`), "curve".

    Raises:
        SedonaError: the pictures are not the spec's, or as in `training.train`.
    """
    found = store.load(spec)
    if found is not None:
        return found
    check_pictures(spec, pictures)
    device = torch.device(device)
    outcome = training.train(
        build(spec, pictures),
        pictures,
        spec.train,
        spec.seed,
        device,
        store.checkpoints(spec),
        label=f"{spec.method}, seed {spec.seed}",
    )
    result = {
        "best": dataclasses.asdict(outcome.best),
        "last": dataclasses.asdict(outcome.last),
        "curve": [[step, list(losses), error] for step, losses, error in outcome.curve],
    }
    record = Record(
        spec, as_json(result), provenance.here(device, outcome.seconds, devices.peak_memory(device), profile)
    )
    store.save(record)
    return record


def find_or_time(
    spec: TimingSpec, store: RunStore, device: torch.device | str = "cpu", profile: str = ""
) -> Record:
    """The record of a network's layers, timed if the store has none; `layer_times_of` gives the times back.

    On a CPU everything is timed with one thread and in processor time, which other work disturbs least.

    Raises:
        SedonaError: the device is not of the spec's type.
    """
    found = store.load(spec)
    if found is not None:
        return found
    device = torch.device(device)
    if device.type != spec.device:
        raise SedonaError(f"the spec is for device {spec.device!r}, not {device.type!r}")
    threads, began = torch.get_num_threads(), time.perf_counter()
    clock = time.perf_counter
    if device.type == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    try:
        times = layer_times.measure(
            spec.network,
            spec.num_classes,
            spec.image_size,
            spec.in_channels,
            spec.batch_size,
            spec.heads,
            device,
            clock=clock,
        )
        origin = provenance.here(device, time.perf_counter() - began, devices.peak_memory(device), profile)
    finally:
        torch.set_num_threads(threads)
    record = Record(spec, as_json(dataclasses.asdict(times)), origin)
    store.save(record)
    return record


def layer_times_of(record: Record) -> layer_times.LayerTimes:
    """The `LayerTimes` of a timing's record."""
    return decode(layer_times.LayerTimes, record.result)


def as_json(result: dict) -> dict:
    """`result` as reading its file gives it: tuples become lists."""
    return json.loads(json.dumps(result))


def build(spec: RunSpec, pictures: Pictures) -> torch.nn.Module:
    """The network that a run of `spec` starts with; methods of one seed share the base network's weights."""
    network = spec.network.build(
        pictures.num_classes, pictures.image_size, pictures.in_channels, mix(spec.seed, "network")
    )
    seed = mix(spec.seed, "heads")
    if spec.decoupling is not None:
        return decouple(network, spec.decoupling, pictures.num_classes, spec.network.width, spec.heads, seed)
    relaxed = relax.relax(network, pictures.num_classes, spec.network.width, config=spec.heads, seed=seed)
    return ContinuousNetwork(relaxed, torch.tensor(spec.alpha), torch.tensor(spec.beta))


def check_pictures(spec: Spec, pictures: Pictures) -> None:
    """Refuse pictures that are not the spec's."""
    if (spec.data, spec.fingerprint) != (pictures.name, pictures.fingerprint):
        raise SedonaError(
            f"the spec is for {spec.data} ({spec.fingerprint}), the pictures are {pictures.name} "
            f"({pictures.fingerprint})"
        )
