"""Ask for a run, get its record: what exists is not trained again, what was interrupted continues.

    store = RunStore("results")
    record = find_or_train(spec, pictures, store)
    print(record.result["best"]["test"]["top1"])

`python -m sedona_nb.runs` does so for all runs behind a table or figure: see `run_commands`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from sedona_nb import devices, provenance, search, training
from sedona_nb import relaxed as relax
from sedona_nb.block_local import divide
from sedona_nb.blocks import decouple
from sedona_nb.continuous import ContinuousNetwork
from sedona_nb.data import ImageData, Pictures
from sedona_nb.errors import Diverged, SedonaError
from sedona_nb.features_replay import ReplayNetwork
from sedona_nb.feedback_alignment import align
from sedona_nb.records import Record, RunSpec, SearchSpec, Spec
from sedona_nb.search_config import SearchResult
from sedona_nb.seeds import mix
from sedona_nb.store import RunStore
from sedona_nb.train_config import TrainOutcome

Made = tuple[dict, float, float | None]  # a result, its seconds, and those of the processor

__all__ = ["RunStore", "find_or_search", "find_or_train", "search_result"]


def find_or_search(
    spec: SearchSpec,
    pictures: ImageData,
    store: RunStore,
    device: torch.device | str = "cpu",
    profile: str = "",
    pause: Callable[[], bool] | None = None,
    wait: bool = True,
    watch: search.Watch | None = None,
) -> Record:
    """The record of a search; searched, or continued, if the store has none.

    Its result holds the fields of `SearchResult`, tensors as nested lists; `search_result` gives it back.

    `pause`: asked after each step whether to stop there and go on another time. `wait`: if another process is at
    work on this very search, wait for its record. `watch`: shown the state after each step, see `search.run`.

    Raises:
        SedonaError: the pictures are not the spec's, or as in `search.run`.
        Paused: `pause` said so.
        Busy: another process is at work on it, and `wait` is false.
    """
    device = torch.device(device)

    def searched() -> Made:
        network, config = spec.network, spec.search
        folder = store.checkpoints(spec)
        found = search.run(
            pictures, network, config, spec.heads, spec.seed, device, folder, pause=pause, watch=watch
        )
        values = {part.name: getattr(found, part.name) for part in dataclasses.fields(found)}
        del values["processor_seconds"]  # the provenance has them
        tensors = {name: _rows(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return values | tensors, found.seconds, found.processor_seconds

    return _found_or_made(spec, pictures, store, device, profile, wait, searched)


def _rows(tensor: torch.Tensor) -> list:
    """A float32 tensor as nested lists, with the fewest digits that give the very same numbers back."""
    values = tensor.cpu().numpy()
    return np.array([float(str(value)) for value in values.flat]).reshape(values.shape).tolist()


def search_result(record: Record) -> SearchResult:
    """The `SearchResult` of a search's record; float32 tensors, exactly as they were."""
    tensors = ("alpha", "beta", "alpha_history", "beta_history", "alpha_gradients", "outer_losses")
    values = {**record.result, "processor_seconds": record.provenance.processor_seconds}
    values.update({name: torch.tensor(values[name]) for name in tensors})
    values["pretraining"] = [tuple(row) for row in values["pretraining"]]
    return SearchResult(**values)


def find_or_train(
    spec: RunSpec,
    pictures: Pictures,
    store: RunStore,
    device: torch.device | str = "cpu",
    profile: str = "",
    pause: Callable[[], bool] | None = None,
    wait: bool = True,
) -> Record:
    """The record of a training run; trained, or continued, if the store has none.

    A run that diverges leaves a record too, so that it is not trained to the same end again.

    Its result: "best" and "last" ({"step", "validation", "test", "train"}, errors as in `evaluate.Errors`),
    "curve", and, where the spec asks for it, "alignment". `pause`: asked after each step whether to stop there and
    go on another time. `wait`: if another process is at work on this very run, wait for its record.

    Raises:
        SedonaError: the pictures are not the spec's, or as in `training.train`.
        Diverged: a loss is not finite, or was not when the store's record was made.
        Paused: `pause` said so.
        Busy: another process is at work on it, and `wait` is false.
    """
    device = torch.device(device)

    def trained() -> Made:
        network, folder = build(spec, pictures), store.checkpoints(spec)
        label, began = f"{spec.method}, seed {spec.seed}", time.perf_counter()
        try:
            found = training.train(
                network, pictures, spec.train, spec.seed, device, folder, label=label, pause=pause
            )
        except Diverged as error:
            return {"diverged": str(error)}, time.perf_counter() - began, None
        return _result(found), found.seconds, found.processor_seconds

    record = _found_or_made(spec, pictures, store, device, profile, wait, trained)
    if record.diverged:
        raise Diverged(record.diverged)
    return record


def keep(spec: RunSpec, outcome: TrainOutcome, store: RunStore, device: torch.device, profile: str = "") -> Record:
    """The record of a run that the asynchronous trainer made, put into `store`; one that is there stays.

    Its provenance is that of this process: the device of one block, as others are.
    """
    with store.claimed(spec):
        found = store.load(spec)
        if found is None:
            peak = devices.peak_memory(device)
            found = Record(
                spec, as_json(_result(outcome)), provenance.here(device, outcome.seconds, peak, profile)
            )
            store.save(found)
    return found


def _result(outcome: TrainOutcome) -> dict:
    result = {"best": dataclasses.asdict(outcome.best), "last": dataclasses.asdict(outcome.last)}
    return {**result, "curve": outcome.curve, **({"alignment": outcome.alignment} if outcome.alignment else {})}


def _found_or_made(
    spec: SearchSpec | RunSpec,
    pictures: ImageData,
    store: RunStore,
    device: torch.device,
    profile: str,
    wait: bool,
    make: Callable[[], Made],
) -> Record:
    """The record of `spec`; if there is none, of what `make` gives."""
    found = store.load(spec)
    if found is not None:
        return found
    check_pictures(spec, pictures)
    with store.claimed(spec, wait):
        found = store.load(spec)  # by whoever had the claim before
        if found is None:
            result, seconds, processor = make()
            peak = devices.peak_memory(device)
            found = Record(spec, as_json(result), provenance.here(device, seconds, peak, profile, processor))
            store.save(found)
    return found


def as_json(result: dict) -> dict:
    """`result` as reading its file gives it: tuples become lists."""
    return json.loads(json.dumps(result))


def build(spec: RunSpec, pictures: Pictures) -> torch.nn.Module:
    """The network that a run of `spec` starts with; methods of one seed share the base network's weights."""
    network = spec.network.build(
        pictures.num_classes, pictures.image_size, pictures.in_channels, mix(spec.seed, "network")
    )
    if spec.method == "features-replay":
        return ReplayNetwork(network, spec.decoupling)
    if spec.method == "block-local":
        return divide(network, spec.decoupling, pictures.num_classes, spec.block_local, mix(spec.seed, "feedback"))
    if spec.method == "feedback-alignment":
        align(network, mix(spec.seed, "backward weights"))
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


if __name__ == "__main__":
    from sedona_nb.run_commands import main  # not at the top: it imports this module

    sys.exit(main())
