"""Which runs stand behind each table and figure: how many, of what, and what they wait for."""

from __future__ import annotations

import dataclasses

import pytest
from toys import made_record, save_made

from sedona_nb import baselines, experiments, paper, protocols
from sedona_nb.decoupling import Decoupling
from sedona_nb.entries import Entry, random_splits
from sedona_nb.errors import SedonaError
from sedona_nb.experiments import EXPERIMENTS
from sedona_nb.heads import HEADS
from sedona_nb.protocols import Protocol
from sedona_nb.records import SearchSpec, spec_hash
from sedona_nb.runs import RunStore, search_result

NETWORKS = {
    "short": ("vgg19", "resnet50"),
    "smoke": ("vgg19", "resnet50"),
    "paper": ("vgg19", "resnet50", "resnet101", "resnet152"),
}
EVERY = [(name, network) for name, networks in NETWORKS.items() for network in networks]
OTHERS = [(name, network) for name in ("short", "smoke") for network in ("resnet18", "transformer20")]
RELEASED = "own search (released objective)"
VARIANTS = {
    "table02": [
        "backprop",
        "predsim",
        "dgl",
        "sedona",
        "own search",
        RELEASED,
        "even cost",
    ],
    "figure03": ["backprop", *["predsim"] * 5, *["dgl"] * 5, *["sedona"] * 5],
    "table04": ["sedona", "random alpha", "random beta"],
    "table06": ["backprop", "continuous", "own search"],
    "table03": [],  # on other protocols, see below
    "table05": [],
    "table07": ["backprop", "dgl", "sedona"],
    "table08": ["sedona", "- extra inner steps", "- weight sampling", "- pretraining"],
    "figure06": ["backprop", "sedona", "random"],
    "figure07": ["backprop", *["features-replay"] * 5, *["predsim"] * 5, *["dgl"] * 5, *["sedona"] * 5],
    "figure08": ["dgl", "sedona"],
    "first_head": [f"{cut} + {head}" for cut in ("printed", "even cost") for head in HEADS],
    "poster_table1": ["backprop", "feedback-alignment", "predsim", "block-local"],
    "poster_figure3": ["backprop", *["block-local"] * 4],
}
POSTERS = {"poster_table1": ("resnet18", "resnet50"), "poster_figure3": ("resnet50", "transformer20")}
every_protocol = pytest.mark.parametrize(("protocol_name", "network"), EVERY)


@pytest.fixture(autouse=True)
def without_released_files(monkeypatch, tmp_path):
    monkeypatch.setenv("SEDONA_RELEASED", str(tmp_path / "absent"))


def fill(name: str, protocol: Protocol, store: RunStore) -> list[Entry]:
    """The entries once all that they need has a (made) record: searches, then choices of a rate."""
    for _ in range(2):
        for entry in experiments.load(name, protocol, store):
            save_made(store, *(spec for spec in entry.needs if store.load(spec) is None))
    return experiments.load(name, protocol, store)


def named(entries: list[Entry]) -> dict[str, Entry]:
    assert len({entry.variant for entry in entries}) == len(entries)
    return {entry.variant: entry for entry in entries}


def hashes(entry: Entry) -> set[str]:
    assert len({spec_hash(spec) for spec in entry.runs}) == len(entry.runs)
    return {spec_hash(spec) for spec in entry.runs}


# -- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol_name", "network"), EVERY + OTHERS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_its_entries_under_every_protocol(name, protocol_name, network, tmp_path):
    protocol, store = protocols.load(protocol_name, network), RunStore(tmp_path)
    if network not in POSTERS.get(name, NETWORKS["paper"]):
        assert experiments.load(name, protocol, store) == []  # another source's network
        return
    for entries in (experiments.load(name, protocol, store), fill(name, protocol, store)):
        assert [entry.variant for entry in entries] == VARIANTS[name]
        assert {(entry.network, entry.protocol) for entry in entries} <= {(network, protocol_name)}
    for entry in entries:
        lacking = entry.variant == "random alpha" and network in ("resnet101", "resnet152")
        assert bool(entry.lacks) == lacking == (not entry.runs)
        many = {"random": 30}.get(entry.variant, 10) if name == "figure06" else len(protocol.seeds)
        assert len(hashes(entry)) == (0 if lacking else many)
        for spec in entry.runs:
            assert (spec.network, spec.data) == (protocol.profile.network, protocol.profile.data)
            assert spec.fingerprint == protocol.fingerprint
            same = {"lr": 0.1, "warmup_steps": 0, "alignment_every": 0, "loss": protocol.profile.train.loss}
            wanted = dataclasses.replace(protocol.profile.train, **same)
            assert dataclasses.replace(spec.train, **same) == wanted
            if spec.decoupling:
                assert spec.decoupling.num_blocks == entry.num_blocks
                assert spec.decoupling.num_layers == protocol.num_layers
        if entry.variant != "random" and entry.runs:
            assert [spec.seed for spec in entry.runs] == list(range(many))


def test_several_protocols_stand_one_behind_the_other(tmp_path):
    both = [protocols.load("short", network) for network in ("vgg19", "resnet50")]
    entries = experiments.load("table04", both, RunStore(tmp_path))
    assert [entry.network for entry in entries] == ["vgg19"] * 3 + ["resnet50"] * 3
    with pytest.raises(
        SedonaError, match="unknown experiment 'table2'; allowed: table02, .*; did you mean 'table02'"
    ):
        experiments.load("table2", both, RunStore(tmp_path))


def test_nothing_is_trained_or_written(tmp_path):
    for name in EXPERIMENTS:
        experiments.load(name, protocols.load("smoke"), RunStore(tmp_path))
    assert not list(tmp_path.iterdir())


# -- the paper's numbers -----------------------------------------------------------------------------------------


@every_protocol
def test_printed_numbers_are_the_papers_cells(protocol_name, network, tmp_path):
    protocol, store = protocols.load(protocol_name, network), RunStore(tmp_path)
    printed = {}
    for name in EXPERIMENTS:
        with_numbers = [e for e in experiments.load(name, protocol, store) if e.printed is not None]
        assert {e.num_blocks for e in with_numbers} <= {1, 4}  # no table has an error at another K
        printed[name] = {e.variant: e.printed for e in with_numbers}
        assert len(printed[name]) == len(with_numbers)
    if protocol_name == "smoke":  # digits
        assert set(map(str, printed.values())) == {"{}"}
        return

    def cells(frame, key: str, number: str = "error", **only) -> dict[str, float]:
        for column, value in {"network": network, **only}.items():
            frame = frame[frame[column] == value] if column in frame else frame
        return dict(zip(frame[key], frame[number], strict=True))

    table2 = cells(paper.table2(), "method", data="cifar10")
    for name in ("table02", "figure03", "figure07"):
        assert printed.pop(name) == table2, name
    assert printed.pop("table04") == cells(paper.table4(), "variant")
    table6 = cells(paper.table6(), "method")
    assert printed.pop("table06") == {
        **{m: table6[m] for m in ("backprop", "continuous")},
        "own search": table6["sedona"],
    }
    table8 = {
        key: value
        for key, value in cells(paper.table8(), "variant", "cifar10_error").items()
        if key in VARIANTS["table08"]
    }
    assert printed.pop("table08") == (table8 if network == "resnet101" else {})
    data = "cifar10" if protocol.profile.data.startswith("cifar10") else protocol.profile.data
    poster = cells(paper.poster_table1(), "method", "accuracy", data=data)
    assert printed.pop("poster_table1") == {method: 100 - value for method, value in poster.items()}
    assert set(map(str, printed.values())) == {"{}"}  # the other figures, and Table 7, which is on ImageNet


def test_printed_numbers_read_off_the_paper(tmp_path):
    store = RunStore(tmp_path)
    vgg, resnet = protocols.load("short"), protocols.load("paper", "resnet101")
    numbers = {e.variant: e.printed for e in experiments.load("table02", vgg, store)}
    assert numbers == {
        "backprop": 12.31, "predsim": 13.87, "dgl": 12.19, "sedona": 11.58,
        "own search": None, RELEASED: None, "even cost": None,
    }  # fmt: skip
    points = {(e.variant, e.num_blocks): e.printed for e in experiments.load("figure03", resnet, store)}
    assert [points["backprop", 1], points["predsim", 4], points["sedona", 4]] == [7.14, 7.93, 6.59]
    assert [points[method, 2] for method in ("predsim", "dgl", "sedona")] == [None] * 3
    assert [e.printed for e in experiments.load("table04", resnet, store)] == [6.59, 7.49, 7.07]
    assert [e.printed for e in experiments.load("table06", vgg, store)] == [12.31, 12.02, 11.58]
    assert [e.printed for e in experiments.load("table08", resnet, store)] == [6.59, 6.62, 6.76, 6.89]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_nothing_printed_for_cifar10_stands_beside_other_pictures(name, tmp_path):
    store = RunStore(tmp_path)
    asked = [("short", "resnet50"), ("paper", "resnet50"), ("paper", "resnet101")]
    for protocol, network in asked:
        if network in experiments.networks(name):
            for data in ("tiny-imagenet", "cifar100", "digits"):
                entries = experiments.load(name, protocols.load(protocol, network, store, data), store)
                assert [entry.printed for entry in entries] == [None] * len(entries)
            as_jpeg = experiments.load(name, protocols.load(protocol, network, store, "cifar10-jpeg"), store)
            original = experiments.load(name, protocols.load(protocol, network, store, "cifar10"), store)
            assert [entry.printed for entry in as_jpeg] == [entry.printed for entry in original]
    fashion = protocols.load("short", "resnet50", store, "fashion-mnist")
    assert {e.printed for e in experiments.load("table02", fashion, store)} == {None}
    on_poster = {e.variant: e.printed for e in experiments.load("poster_table1", fashion, store)}
    assert on_poster["block-local"] == pytest.approx(5.7)


LARGE = {
    ("table02", "tiny-imagenet", "resnet101"): [44.50, 46.08, 46.20, 40.88],
    ("table03", "imagenet", "resnet101"): [21.34, 21.53, 23.13, 20.72, 21.32],
    ("table03", "imagenet", "resnet152"): [21.22, 21.45, 22.89, 20.69, 21.09],
    ("table05", "imagenet-dgl", "resnet152"): [25.6, 25.5, 24.95],
    ("table07", "imagenet", "resnet152"): [21.22, 22.89, 21.09],
}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("protocol_name", protocols.LARGE)
def test_the_papers_other_pictures_have_entries_of_their_own_and_no_others(protocol_name, name, tmp_path):
    store = RunStore(tmp_path)
    for network in ("resnet101", "resnet152"):
        if (protocol_name, network) == ("imagenet-dgl", "resnet101"):
            continue
        protocol = protocols.load(protocol_name, network)
        entries = experiments.load(name, protocol, store)
        known = LARGE.get((name, protocol_name, network))
        if known is None:
            about = {key[:2] for key in LARGE}
            assert bool(entries) == ((name, protocol_name) in about)
            continue
        assert [entry.printed for entry in entries] == known
        for entry in entries:
            assert bool(entry.lacks) == (entry.variant == "predsim")
            for spec in entry.runs:
                assert (spec.data, spec.network.width) == (protocol.profile.data, 1.0)
                assert spec.decoupling.num_blocks == entry.num_blocks
                if entry.variant == "sedona":
                    assert spec.decoupling == Decoupling.published(network, entry.num_blocks)


# -- needs and runs ----------------------------------------------------------------------------------------------


def test_an_entry_has_no_runs_before_its_searches_and_choices_have_records(tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)

    def own() -> Entry:
        return named(experiments.load("table02", protocol, store))["own search"]

    searches = own().needs
    assert searches == tuple(protocol.search(seed) for seed in (0, 1, 2))
    for spec in searches:
        assert own().runs == ()
        assert own().needs == searches
        save_made(store, spec)
    choices = own().needs[3:]
    assert choices == tuple(protocol.tuning("sedona").values())
    for place, spec in enumerate(choices):
        assert own().runs == ()
        assert own().needs == (*searches, *choices)
        save_made(store, spec, validation=50 - place)
    runs = own().runs
    assert {(run.train.lr, run.train.warmup_steps) for run in runs} == {
        (0.03, 200)
    }  # the last had the lowest error
    for spec, run in zip(searches, runs, strict=True):
        found = search_result(store.load(spec))
        assert run.decoupling == Decoupling.from_search(found.alpha, found.beta, 4)
        assert run.seed == spec.seed
    assert len({run.decoupling for run in runs}) == 3


def test_under_the_papers_protocol_only_searches_are_waited_for(tmp_path):
    protocol, store = protocols.load("paper", "resnet152"), RunStore(tmp_path)
    for name in EXPERIMENTS:
        for entry in experiments.load(name, protocol, store):
            assert all(isinstance(spec, SearchSpec) for spec in entry.needs)
            assert not (entry.needs and entry.runs)


def test_continuous_is_trained_as_its_own_search_found_it_and_tuned_as_the_first_found_it(tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    entry = named(fill("table06", protocol, store))["continuous"]
    found = [search_result(store.load(protocol.search(seed))) for seed in (0, 1, 2)]
    for spec, result in zip(entry.runs, found, strict=True):
        assert spec.alpha == tuple(map(tuple, result.alpha.tolist()))
        assert spec.beta == tuple(map(tuple, result.beta.tolist()))
        assert spec.decoupling is None
    assert entry.needs == (*map(protocol.search, range(3)), *protocol.tuning("continuous", found[0]).values())
    assert {spec.alpha for spec in entry.needs[3:]} == {entry.runs[0].alpha}


def test_a_record_of_another_protocol_is_not_what_an_entry_waits_for(tmp_path):
    short, smoke, store = protocols.load("short"), protocols.load("smoke"), RunStore(tmp_path)
    save_made(store, *(smoke.search(seed) for seed in range(3)), *(short.search(s, padding=2) for s in range(3)))
    assert named(experiments.load("table02", short, store))["own search"].needs == tuple(
        map(short.search, range(3))
    )


# -- what each one compares --------------------------------------------------------------------------------------


def test_table02_compares_four_methods_three_searches_and_even_cost(tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    entries = named(fill("table02", protocol, store))
    cuts = {variant: {run.decoupling for run in entry.runs} for variant, entry in entries.items()}
    assert cuts["backprop"] == {Decoupling.backprop(16)}
    assert cuts["predsim"] == {Decoupling.uniform(16, 4, "predsim")}
    assert cuts["dgl"] == {Decoupling.uniform(16, 4)}
    assert cuts["sedona"] == {Decoupling.published("vgg19", 4)}
    assert cuts["even cost"] == {baselines.even_cost(protocol.profile.network, 4)}
    released = entries[RELEASED].needs[:3]
    for seed, (spec, own) in enumerate(zip(released, entries["own search"].needs[:3], strict=True)):
        assert (spec.seed, spec.search.objective, own.search.objective) == (seed, "released", "validation")
        assert dataclasses.replace(spec, search=own.search) == own
        assert dataclasses.replace(spec.search, objective="validation") == own.search
    assert {entry.num_blocks for variant, entry in entries.items() if variant != "backprop"} == {4}
    assert entries["backprop"].num_blocks == 1


@pytest.mark.parametrize("name", ["figure03", "figure07"])
@every_protocol
def test_sweeps_go_through_2_4_8_12_and_16_blocks(name, protocol_name, network, tmp_path):
    protocol = protocols.load(protocol_name, network)
    entries = fill(name, protocol, RunStore(tmp_path))
    blocks = {}
    for entry in entries:
        blocks.setdefault(entry.variant, []).append(entry.num_blocks)
        for spec in entry.runs:
            assert spec.method == entry.variant
            if entry.variant == "sedona":
                assert spec.decoupling == Decoupling.published(network, entry.num_blocks)
            if entry.variant == "features-replay":
                assert set(spec.decoupling.heads) == {"none"}
                assert spec.decoupling.splits == Decoupling.uniform(protocol.num_layers, entry.num_blocks).splits
    compared = {"predsim", "dgl", "sedona"} | ({"features-replay"} if name == "figure07" else set())
    assert blocks == {"backprop": [1], **{method: [2, 4, 8, 12, 16] for method in compared}}


def test_figure07_is_figure03_and_features_replay(tmp_path):
    protocol, store = protocols.load("paper", "resnet101"), RunStore(tmp_path)
    third, seventh = (experiments.load(name, protocol, store) for name in ("figure03", "figure07"))
    assert [entry for entry in seventh if entry.variant != "features-replay"] == third


def test_table04_draws_either_the_splits_or_the_heads(tmp_path):
    for network in ("vgg19", "resnet50"):
        protocol = protocols.load("paper", network)
        entries = named(experiments.load("table04", protocol, RunStore(tmp_path)))
        learned = Decoupling.published(network, 4)
        head_of = dict(zip(*paper.LEARNED[network], strict=True))
        assert {run.decoupling for run in entries["sedona"].runs} == {learned}
        splits = {run.decoupling.splits for run in entries["random alpha"].runs}
        assert len(splits) == 3
        assert learned.splits not in splits
        for run in entries["random alpha"].runs:
            cut = run.decoupling
            assert cut.heads == tuple(f"aux{head_of[layer]}" for layer in cut.splits)
        heads = {run.decoupling.heads for run in entries["random beta"].runs}
        assert len(heads) == 3
        assert learned.heads not in heads
        assert {run.decoupling.splits for run in entries["random beta"].runs} == {learned.splits}
        methods = {variant: {run.method for run in entry.runs} for variant, entry in entries.items()}
        assert methods == {"sedona": {"sedona"}, "random alpha": {"given"}, "random beta": {"given"}}


def test_random_splits_are_drawn_with_equal_chance_and_the_same_for_the_same_seed():
    assert random_splits("vgg19", 4, 5) == random_splits("vgg19", 4, 5)
    counts = [0] * 16
    for seed in range(1500):
        for layer in random_splits("vgg19", 4, seed).splits:
            counts[layer] += 1
    assert counts[0] == 0
    assert all(abs(count - 300) < 4 * (1500 * 0.2 * 0.8) ** 0.5 for count in counts[1:])  # 3 of 15 layers a draw


@pytest.mark.filterwarnings("ignore::sedona_nb.errors.TieWarning")  # heads of upper layers tie in the files
def test_random_splits_of_deep_networks_need_the_released_heads(tmp_path, released_root, monkeypatch):
    protocol, store = protocols.load("paper", "resnet152"), RunStore(tmp_path)
    without = named(experiments.load("table04", protocol, store))["random alpha"]
    assert (without.runs, without.needs) == ((), ())
    assert without.lacks == "heads of all layers of resnet152 are in the authors' files alone (SEDONA_RELEASED)"
    monkeypatch.setenv("SEDONA_RELEASED", str(released_root))
    entry = named(experiments.load("table04", protocol, store))["random alpha"]
    assert (entry.lacks, len({run.decoupling for run in entry.runs})) == ("", 3)
    printed = dict(zip(*paper.LEARNED["resnet152"], strict=True))
    for run in entry.runs:
        for layer, head in zip(run.decoupling.splits, run.decoupling.heads, strict=True):
            assert layer not in printed or layer >= 31 or head == f"aux{printed[layer]}"


def test_table08_leaves_out_one_part_after_another_and_nothing_else(tmp_path):
    protocol, store = protocols.load("paper", "resnet101"), RunStore(tmp_path)
    entries = named(experiments.load("table08", protocol, store))
    whole = protocol.search(0).search

    def changed(variant: str) -> dict[str, object]:
        spec = entries[variant].needs[0]
        assert dataclasses.replace(spec, search=whole) == protocol.search(0)
        found = {}
        for part in dataclasses.fields(whole):
            before, after = getattr(whole, part.name), getattr(spec.search, part.name)
            if part.name == "inner":
                inner = {n: v for n, v in dataclasses.asdict(after).items() if v != getattr(before, n)}
                found |= {f"inner.{name}": value for name, value in inner.items()}
            elif before != after:
                found[part.name] = after
        return found

    assert changed("sedona") == {}
    assert changed("- extra inner steps") == {"inner.steps": 1}
    assert changed("- weight sampling") == {"inner.steps": 1, "memory_size": 1, "keep": "last"}
    last = {"inner.steps": 1, "memory_size": 1, "keep": "last", "pretrain_steps": 0, "outer_steps": 10_000}
    assert changed("- pretraining") == last  # 2,000 and the 8,000 more of the caption
    for entry in entries.values():
        assert [spec.seed for spec in entry.needs] == [0, 1, 2]
    full = fill("table08", protocol, store)
    assert all(len({run.decoupling for run in entry.runs}) == 3 for entry in full)


def test_figure06_trains_thirty_draws_with_one_seed_and_two_methods_with_ten(tmp_path):
    protocol = protocols.load("paper", "vgg19")
    entries = named(experiments.load("figure06", protocol, RunStore(tmp_path)))
    draws = [run.decoupling for run in entries["random"].runs]
    assert draws == [Decoupling.random(16, 4, draw) for draw in range(30)]
    assert len(set(draws)) == 30
    assert {run.seed for run in entries["random"].runs} == {0}
    for variant in ("backprop", "sedona"):
        assert [run.seed for run in entries[variant].runs] == list(range(10))
        assert len({run.decoupling for run in entries[variant].runs}) == 1


def test_experiments_share_their_runs(tmp_path):
    """What one table trains, another does not train again."""
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    entries = {name: fill(name, protocol, store) for name in EXPERIMENTS}
    table02 = named(entries["table02"])
    for name in ("figure03", "table04", "table07", "figure07", "figure08"):
        for entry in entries[name]:
            if entry.num_blocks in (1, 4) and entry.variant in ("backprop", "predsim", "dgl", "sedona"):
                assert hashes(entry) == hashes(table02[entry.variant]), (name, entry.variant)
    sixth = named(entries["table06"])
    assert hashes(sixth["own search"]) == hashes(table02["own search"])
    assert hashes(sixth["backprop"]) == hashes(table02["backprop"])
    assert hashes(named(entries["table08"])["sedona"]) == hashes(table02["own search"])
    for variant in ("backprop", "sedona"):
        assert hashes(named(entries["figure06"])[variant]) > hashes(table02[variant])
    heads = named(entries["first_head"])  # VGG-19's first printed head is Aux 4
    assert hashes(heads["printed + aux4"]) == hashes(table02["sedona"])
    assert hashes(heads["even cost + aux1"]) == hashes(table02["even cost"])


@pytest.mark.parametrize("network", ["vgg19", "resnet50"])
def test_first_head_changes_one_head_of_two_cuts_and_nothing_else(network, tmp_path):
    protocol = protocols.load("paper", network)
    entries = experiments.load("first_head", protocol, RunStore(tmp_path))
    by_cut = {
        "printed": Decoupling.published(network, 4),
        "even cost": baselines.even_cost(protocol.profile.network, 4),
    }
    for entry in entries:
        name, head = entry.variant.split(" + ")
        for spec in entry.runs:
            assert spec.decoupling.heads[0] == head
            assert spec.decoupling.splits == by_cut[name].splits
            assert spec.decoupling.heads[1:] == by_cut[name].heads[1:]
            assert spec.train == entries[0].runs[0].train


def test_figure08_looks_at_cosines_under_every_protocol(tmp_path):
    for name, looks in (("short", 50), ("smoke", 5), ("paper", 1_000)):
        protocol = protocols.load(name)
        entries = fill("figure08", protocol, RunStore(tmp_path / name))
        assert {run.train.alignment_every for entry in entries for run in entry.runs} == {looks}
    # The paper's runs do not look, so Figure 8 has runs of its own there, that differ in nothing else.
    table02 = named(fill("table02", protocol, RunStore(tmp_path / "paper")))
    for entry in entries:
        quiet = [
            dataclasses.replace(run, train=dataclasses.replace(run.train, alignment_every=0)) for run in entry.runs
        ]
        assert tuple(quiet) == table02[entry.variant].runs


def test_a_made_search_gives_back_its_decisions():
    """The test's own tool: what the entries above are made of."""
    record = made_record(protocols.load("short").search(1))
    result = search_result(record)
    assert result.alpha.shape == (15, 2)
    assert result.beta.shape == (15, 4)
    assert not result.alpha.equal(search_result(made_record(protocols.load("short").search(2))).alpha)


# -- the poster --------------------------------------------------------------------------------------------------


def test_poster_numbers_read_off_the_poster(tmp_path):
    store = RunStore(tmp_path)

    def errors(network: str, data: str | None = None) -> list[float]:
        entries = experiments.load("poster_table1", protocols.load("short", network, data=data), store)
        return [round(entry.printed, 2) for entry in entries]

    assert errors("resnet50") == [6.0, 29.7, 7.6, 7.4]
    assert errors("resnet18", "fashion-mnist") == [7.3, 12.1, 6.1, 5.8]
    assert errors("resnet50", "fashion-mnist") == [6.6, 16.9, 5.7, 5.7]


def test_figures_3a_and_3c_go_through_numbers_of_blocks(tmp_path):
    for network, blocks, layers in (("resnet50", [2, 4, 8, 16], 16), ("transformer20", [2, 4, 10, 20], 20)):
        entries = fill("poster_figure3", protocols.load("short", network), RunStore(tmp_path / network))
        assert [entry.num_blocks for entry in entries] == [1, *blocks]
        for entry, number in zip(entries[1:], blocks, strict=True):
            for spec in entry.runs:
                assert (spec.method, spec.decoupling) == (
                    "block-local",
                    Decoupling.uniform(layers, number, "none"),
                )
                assert spec.block_local is not None
    assert entries[0].runs[0].train.optimizer == "adam"
    assert entries[0].runs[0].data == "reversed-digits"
