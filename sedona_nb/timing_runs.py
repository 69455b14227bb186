"""Ask for the times of a network's layers or of a search's pieces, get their record: taken once, then found.

record = find_or_time(TimingSpec(NetworkConfig("vgg19"), 10, 32, 128), store)
layer_times_of(record).forward
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch

from sedona_nb import devices, layer_times, provenance, search_times
from sedona_nb.decoding import decode
from sedona_nb.errors import SedonaError
from sedona_nb.layer_times import LayerTimes
from sedona_nb.records import Record, Timing, TimingSpec
from sedona_nb.runs import as_json
from sedona_nb.search_times import SearchTimes
from sedona_nb.store import RunStore


def find_or_time(spec: Timing, store: RunStore, device: torch.device | str = "cpu", profile: str = "") -> Record:
    """The record of times of a network's layers or of a search's pieces, taken if the store has none.

    `layer_times_of` and `search_times_of` give the times back. On a CPU everything is timed with one thread and in
    processor time, which other work disturbs least.

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
        times = _timed(spec, device, clock)
        origin = provenance.here(device, time.perf_counter() - began, devices.peak_memory(device), profile)
    finally:
        torch.set_num_threads(threads)
    record = Record(spec, as_json(dataclasses.asdict(times)), origin)
    store.save(record)
    return record


def _timed(spec: Timing, device: torch.device, clock: Callable[[], float]) -> LayerTimes | SearchTimes:
    shape = spec.network, spec.num_classes, spec.image_size, spec.in_channels, spec.batch_size
    if isinstance(spec, TimingSpec):
        return layer_times.measure(*shape, spec.heads, device, clock=clock)
    return search_times.measure(
        *shape, spec.outer_batch_size, spec.inner_steps, spec.backend, spec.heads, device, clock
    )


def layer_times_of(record: Record) -> LayerTimes:
    """The `LayerTimes` of a timing's record."""
    return decode(LayerTimes, record.result)


def search_times_of(record: Record) -> SearchTimes:
    """The `SearchTimes` of the record of a search's pieces."""
    return decode(SearchTimes, record.result)
