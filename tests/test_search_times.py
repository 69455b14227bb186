"""The pieces of a search, timed at full size: as values, in records, and against a search as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_budget import noise, search_config
from test_search import CONFIG, NETWORK

from sedona_nb import bilevel, runs, search, search_times, timing_runs
from sedona_nb.bilevel import InnerConfig
from sedona_nb.errors import SedonaError
from sedona_nb.networks import NetworkConfig
from sedona_nb.records import SearchTimingSpec, protocol, spec_hash
from sedona_nb.search_config import SearchConfig
from sedona_nb.search_pieces import Pieces
from sedona_nb.search_times import SearchTimes

SMALL = NetworkConfig("vgg11", 1 / 16)
SPEC = SearchTimingSpec(SMALL, 10, 32, batch_size=8, outer_batch_size=16, inner_steps=(1, 3), in_channels=1)


def pieces(backend: str, objective: str = "validation") -> Pieces:
    config = SearchConfig(backend=backend, objective=objective, inner=InnerConfig(batch_size=8))
    return Pieces(SMALL, 10, (1, 32, 32), config)


class TestPieces:
    @pytest.mark.parametrize("objective", bilevel.OBJECTIVES)
    def test_all_backends_answer_the_same_question(self, objective: str) -> None:
        found = {name: pieces(name, objective).hypergradient(8, 16, 3)() for name in bilevel.BACKENDS}
        for name, gradient in found.items():
            torch.testing.assert_close(gradient.alpha, found["functional"].alpha, rtol=1e-3, atol=1e-7, msg=name)
            torch.testing.assert_close(gradient.beta, found["functional"].beta, rtol=1e-3, atol=1e-7, msg=name)
        assert found["functional"].alpha.abs().max() > 1e-5

    def test_a_step_is_the_same_step_with_and_without_the_program(self) -> None:
        one, other = (pieces(name).step(8)()[0].parameters for name in ("adjoint", "functional"))
        for name, value in other.items():
            torch.testing.assert_close(one[name], value.detach(), rtol=1e-4, atol=1e-6, msg=name)

    @pytest.mark.parametrize("backend", ["adjoint", "functional"])
    def test_pieces_leave_weights_and_network_as_they_were(self, backend: str, tmp_path: Path) -> None:
        made = pieces(backend)
        before = {name: value.detach().clone() for name, value in made.weights.parameters.items()}
        for work in (made.step(8), made.hypergradient(8, 16, 2), made.evaluation(16), made.memory(tmp_path)):
            work()
            work()
        assert made.relaxed.training
        assert all(torch.equal(before[name], value) for name, value in made.weights.parameters.items())

    def test_the_memory_reads_one_set_and_writes_one(self, tmp_path: Path) -> None:
        work = pieces("adjoint").memory(tmp_path)
        (first,) = tmp_path.glob("set-*.pt")
        work()
        (second,) = tmp_path.glob("set-*.pt")
        assert first.name != second.name


class TestTimes:
    TIMES = SearchTimes((1, 5), step=2.0, hypergradients=(3.0, 7.0), evaluation=0.5, memory=0.25, peaks=(10, 20))

    def test_a_whole_search_is_the_sum_of_its_pieces(self) -> None:
        found = self.TIMES.whole(5, pretrain_steps=100, outer_steps=10, evaluated=30)
        assert (found.pretraining, found.evaluations, found.search) == (200.0, 15.0, 92.5)
        without = self.TIMES.whole(1, pretrain_steps=0, outer_steps=10, evaluated=0, memory=False)
        assert without.total == 50.0

    def test_a_number_of_steps_that_was_not_timed(self) -> None:
        with pytest.raises(SedonaError, match=r"^no time .* through 2 inner steps; there are 1, 5$"):
            self.TIMES.whole(2, 1, 1, 1)

    def test_unrolling_pays_with_memory_and_the_adjoint_does_not(self) -> None:
        found = {
            name: search_times.measure(SMALL, 10, 32, 1, 4, 4, (1, 3), name) for name in ("functional", "adjoint")
        }
        growth = {name: times.peaks[1] / times.peaks[0] for name, times in found.items()}
        assert growth["functional"] > 1.8
        assert growth["adjoint"] < 1.4

    @pytest.mark.alone
    def test_three_inner_steps_take_longer_than_one(self) -> None:
        found = search_times.measure(SMALL, 10, 32, 1, 4, 4, (1, 3), "adjoint")
        assert found.hypergradient(3) > 1.5 * found.hypergradient(1)

    def test_unknown_backend(self) -> None:
        with pytest.raises(SedonaError, match="unknown backend 'magic'"):
            search_times.measure(SMALL, 10, 32, backend="magic")


class TestRecords:
    def test_found_again_and_whole(self, tmp_path: Path) -> None:
        store = runs.RunStore(tmp_path)
        times = timing_runs.search_times_of(timing_runs.find_or_time(SPEC, store))
        assert timing_runs.search_times_of(timing_runs.find_or_time(SPEC, store)) == times
        assert timing_runs.search_times_of(store.records()[0]) == times
        assert store.records()[0].provenance.threads == 1
        assert times.inner_steps == (1, 3)
        assert min(times.step, times.evaluation, times.memory, *times.hypergradients, *times.peaks) > 0
        assert protocol(SPEC) == "vgg11 0.0625x, 1x32x32, batch 8, validation batch 16, backend adjoint"

    def test_every_field_counts(self) -> None:
        others = (
            {"batch_size": 4},
            {"outer_batch_size": 8},
            {"inner_steps": (1,)},
            {"backend": "higher"},
            {"device": "cuda"},
        )
        assert len({spec_hash(SPEC), *(spec_hash(replace(SPEC, **change)) for change in others)}) == 6

    def test_device_of_the_spec(self, tmp_path: Path) -> None:
        with pytest.raises(SedonaError, match="the spec is for device 'cuda', not 'cpu'"):
            timing_runs.find_or_time(replace(SPEC, device="cuda"), runs.RunStore(tmp_path))
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("backend", ["adjoint", "higher"])
def test_a_real_search_takes_as_long_as_its_pieces(backend: str) -> None:
    config, network = replace(search_config(64, 256, 2, backend), outer_steps=4), NetworkConfig("vgg11", 0.25)
    search.run(noise(), NETWORK, replace(CONFIG, pretrain_steps=0, outer_steps=1))  # what loads at the first step
    for _ in range(2):  # another process may have disturbed one
        times = search_times.measure(network, 10, 32, 3, 64, 256, (2,), backend)
        foretold = times.whole(2, config.pretrain_steps, config.outer_steps, evaluated=2 * 256).total
        took = search.run(noise(), network, config).seconds
        if 1 / 1.5 < foretold / took < 1.5:
            return
    raise AssertionError(f"foretold {foretold:.1f} s, took {took:.1f} s")
