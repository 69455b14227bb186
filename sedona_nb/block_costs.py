"""What the blocks of a decoupling and their heads cost: layers, parameters, multiply-accumulates, time.

    costs = block_costs.of("vgg19", store)
    block_costs.blocks(costs, Decoupling.published("vgg19", 4))   # a BlockCost a block
    block_costs.speedup(costs, cut)                               # what the slowest block allows

Times are sums of recorded ones where the store has a timing of the network, else of counted memory traffic.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from sedona_nb import schedule
from sedona_nb.baselines import layer_operations
from sedona_nb.costs import build_on_meta, multiply_accumulates, parameter_count, traffic
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import choose
from sedona_nb.heads import build_head
from sedona_nb.layer_times import LayerTimes, counted
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import TimingSpec, protocol
from sedona_nb.store import RunStore
from sedona_nb.timing_runs import layer_times_of

QUANTITIES = ("layers", "parameters", "operations", "time")
# The form in which each network is counted: the one whose layers are timed in the repository's records. That is
# CIFAR-10 at a quarter of the width for two of them, and ImageNet for the two whose speed-ups Table 3 prints.
FORMS = {
    "vgg19": TimingSpec(NetworkConfig("vgg19"), 10, 32, 128),
    "resnet50": TimingSpec(NetworkConfig("resnet50"), 10, 32, 128),
    "resnet101": TimingSpec(NetworkConfig("resnet101", 1.0), 1000, 224, 8),
    "resnet152": TimingSpec(NetworkConfig("resnet152", 1.0), 1000, 224, 8),
}


@dataclass(frozen=True)
class LayerCosts:
    """Of a network of L layers.

    Attributes:
        form: network and pictures that were counted.
        parameters, operations: of each layer, (L,); the classifier's are with the last.
        shapes: (channels, side) of the map behind each layer, (L,).
        times: of each layer and head; of one picture and without a unit where they are counted.
        measured: where they were taken; "": they are counted.
    """

    form: TimingSpec
    parameters: tuple[int, ...]
    operations: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    times: LayerTimes
    measured: str

    @property
    def basis(self) -> str:
        """In words: what times are made of."""
        if self.measured:
            return f"from recorded layer times ({protocol(self.form)}; {self.measured})"
        form = self.form
        about = (
            f"{form.network.name} {form.network.width:g}x, {form.in_channels}x{form.image_size}x{form.image_size}"
        )
        return f"from counted memory traffic ({about}); these records have no layer times"


@dataclass(frozen=True)
class BlockCost:
    """Of one block and the head that teaches it; the last block's head, the classifier, is part of its last layer.

    Attributes:
        first, last: layers, 1-based.
        head: its name, or "classifier".
        own: by `QUANTITIES`: of the block's layers; time in seconds a step, or without a unit if counted.
        of_head: by `QUANTITIES`: of the head; 0 layers. Of a classifier only its time is apart.
    """

    first: int
    last: int
    head: str
    own: dict[str, float]
    of_head: dict[str, float]


def of(network: str, store: RunStore) -> LayerCosts:
    """Costs of a network's layers in the form that `FORMS` says.

    Raises:
        SedonaError: another network, or a damaged record.
    """
    form = FORMS[choose(network, FORMS, "network")]
    record = store.load(form)
    if record is None:
        return LayerCosts(form, *_counted(form), _traffic(form), "")
    return LayerCosts(form, *_counted(form), layer_times_of(record), record.provenance.device)


def blocks(costs: LayerCosts, cut: Decoupling) -> list[BlockCost]:
    """Costs of every block.

    Raises:
        SedonaError: a decoupling of another number of layers, or a head whose times are not known.
    """
    times = costs.times.of(cut)
    found = []
    for (first, last), head, time in zip(cut.blocks, (*cut.heads, None), times, strict=True):
        inside = slice(first - 1, last)
        own = {
            "layers": last - first + 1,
            "parameters": sum(costs.parameters[inside]),
            "operations": sum(costs.operations[inside]),
            "time": time.training - time.head,
        }
        size, work = (0, 0) if head is None else _head(costs.form, head, *costs.shapes[last - 1])
        of_head = {"layers": 0, "parameters": size, "operations": work, "time": time.head}
        found.append(BlockCost(first, last, head or "classifier", own, of_head))
    return found


def layer_sizes(costs: LayerCosts, quantity: str) -> tuple[float, ...]:
    """One of `QUANTITIES` by layer, (L,); time is forward, backward and update.

    Raises:
        SedonaError: another quantity.
    """
    choose(quantity, QUANTITIES, "quantity")
    if quantity in ("parameters", "operations"):
        return getattr(costs, quantity)
    if quantity == "layers":
        return (1,) * len(costs.parameters)
    times = costs.times
    return tuple(map(sum, zip(times.forward, times.backward, times.update, strict=True)))


def speedup(costs: LayerCosts, cut: Decoupling) -> float:
    """Of a device a block over backprop on one, as the slowest block allows it (`schedule.limit`)."""
    return schedule.limit(costs.times.of(cut))


@functools.lru_cache(maxsize=16)
def _counted(form: TimingSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Parameters, multiply-accumulates and maps of the layers."""
    base = build_on_meta(lambda: form.network.build(form.num_classes, form.image_size, form.in_channels))
    parameters = [parameter_count(layer) for layer in base.layers]
    parameters[-1] += parameter_count(base.classifier)
    operations = layer_operations(base, (form.in_channels, form.image_size, form.image_size))
    return tuple(parameters), tuple(operations), tuple((channels, size) for channels, size, _ in base.cut_shapes)


@functools.lru_cache(maxsize=16)
def _traffic(form: TimingSpec) -> LayerTimes:
    return counted(form.network, form.num_classes, form.image_size, traffic, form.in_channels, form.heads)


@functools.lru_cache(maxsize=1024)
def _head(form: TimingSpec, name: str, channels: int, size: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a head behind a map of this form."""
    width = form.network.width
    head = build_on_meta(lambda: build_head(name, channels, size, form.num_classes, width, form.heads))
    return parameter_count(head), multiply_accumulates(head, (channels, size, size))
