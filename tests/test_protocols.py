"""What all runs of a table have in common: the paper's numbers, one budget for all, a choice that sees no test."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
from toys import made_record, save_diverged, save_made

from sedona_nb import data, experiments, protocols, record_frames
from sedona_nb.decoupling import Decoupling
from sedona_nb.entries import WHOLE
from sedona_nb.errors import SedonaError
from sedona_nb.networks import NetworkConfig
from sedona_nb.protocols import BLOCKWISE, Protocol, Setting, chosen
from sedona_nb.records import METHODS, RunSpec, differences, spec_hash
from sedona_nb.runs import RunStore, search_result

NETWORKS = ("vgg19", "resnet50", "resnet101", "resnet152")
SHORT = ("vgg19", "resnet50")


def found_by(protocol: Protocol):
    """A search's result, which "continuous" needs."""
    return search_result(made_record(protocol.search(0)))


def spec_of(protocol: Protocol, method: str, seed: int = 0, setting: Setting | None = None, **more) -> RunSpec:
    name = protocol.profile.network.name
    cut = Decoupling.published(name, 4) if method in ("sedona", "given") else None
    found = found_by(protocol) if method == "continuous" else None
    return protocol.spec(method, seed, setting or protocol.settings[0], 4, cut, found, **more)


def one_line(call, *arguments) -> str:
    with pytest.raises(SedonaError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the paper's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_paper_is_appendix_e_letter_by_letter(network, method):
    protocol = protocols.load("paper", network)
    assert protocol.settings == (Setting(0.1, 0),)  # nothing to choose
    assert protocol.tuning(method, found_by(protocol)) == {}
    assert chosen(protocol, method, RunStore("nowhere")) == Setting(0.1, 0)
    spec = spec_of(protocol, method)
    train = spec.train
    assert (train.steps, train.batch_size) == (64_000, 128)
    assert (train.optimizer, train.momentum) == ("sgd", 0.9)
    assert (train.lr, train.lr_min, train.warmup_steps, train.decay_every) == (0.1, 0.001, 0, 0)
    assert (train.rate(0), train.rate(64_000)) == pytest.approx((0.1, 0.001))
    assert train.rate(32_000) == pytest.approx((0.1 + 0.001) / 2)  # cosine annealing
    assert train.weight_decay == (2e-4 if network == "resnet152" else 1e-4)
    assert (train.loss.smoothing, train.loss.convention) == (0.0 if method == "predsim" else 0.1, "uniform")
    assert train.loss.similarity_share == 0.99
    assert (train.held_out, train.padding, train.precision) == (0.1, None, "float32")
    assert (spec.network.name, spec.network.width, spec.network.variant) == (network, 0.25, "paper")
    assert (spec.data, spec.seed) == ("cifar10", 0)
    if spec.decoupling:
        assert spec.decoupling.num_blocks == (1 if method in WHOLE else 4)


def test_the_papers_search_is_appendix_e_1():
    spec = protocols.load("paper", "resnet101").search(2)
    search, inner = spec.search, spec.search.inner
    assert (search.pretrain_steps, search.snapshot_every, search.memory_size, search.keep) == (
        40_000,
        80,
        50,
        "best",
    )
    assert (search.outer_steps, search.outer_lr, search.outer_weight_decay) == (2_000, 0.01, 1e-6)
    assert (search.held_out, search.objective, search.inner_rate) == (0.4, "validation", "outer_cosine")
    assert (inner.steps, inner.batch_size, inner.lr, inner.lr_min) == (5, 128, 0.1, 0.001)
    assert (inner.momentum, inner.weight_decay, inner.smoothing) == (0.9, 1e-3, 0.1)
    assert (spec.seed, spec.data, spec.network.width) == (2, "cifar10", 0.25)


def test_the_papers_seeds_and_training_errors():
    protocol = protocols.load("paper", "vgg19")
    assert protocol.seeds == (0, 1, 2)
    assert protocol.profile.train.train_pictures == 45_000  # all that are not held out
    assert protocol.profile.train.alignment_every == 0
    assert protocol.label == "vgg19 0.25x, 64,000 steps of 128, cifar10"


@pytest.mark.parametrize(
    ("name", "network", "steps", "rates", "decay"),
    [
        ("tiny-imagenet", "vgg19", 30_000, (0.1, 0.001), 1e-4),
        ("tiny-imagenet", "resnet152", 30_000, (0.1, 0.001), 2e-4),
        ("imagenet", "resnet101", 600_000, (0.1, 1e-4), 5e-5),
        ("imagenet", "resnet152", 600_000, (0.05, 1e-5), 5e-5),
        ("imagenet-dgl", "resnet152", 50 * 5_004, (0.1, 0.1 * 1e-4), 1e-4),
    ],
)
def test_the_papers_other_protocols_are_appendix_e_2(name, network, steps, rates, decay):
    protocol = protocols.load(name, network)
    train = protocol.spec("dgl", 0, protocol.settings[0]).train
    assert (train.steps, train.batch_size, train.weight_decay) == (steps, 256, decay)
    assert (train.rate(0), train.rate(steps - 1)) == pytest.approx(rates, rel=1e-3)
    assert (train.warmup_steps, train.held_out, train.precision, train.alignment_every) == (0, 0.0, "float16", 0)
    assert protocol.profile.network == NetworkConfig(network, width=1.0)
    assert protocol.pictures == (name.removesuffix("-dgl"), "")
    assert (protocol.seeds, len(protocol.settings)) == ((0,), 1)
    assert bool(train.train_pictures) == (name == "imagenet")  # Table 7


def test_the_fingerprint_of_imagenet_is_that_of_its_runs(tmp_path):
    store, large = RunStore(tmp_path), protocols.load("imagenet", "resnet101")
    asked = replace(large.spec("dgl", 0, large.settings[0]), fingerprint="a" * 16)
    save_made(store, replace(asked, train=replace(asked.train, steps=100)))  # a try
    assert protocols.load("imagenet", "resnet101", store) == large
    save_made(store, asked)
    assert protocols.load("imagenet", "resnet101", store) == replace(large, fingerprint="a" * 16)


def test_layers_are_those_of_the_networks():
    for name, layers in protocols.NUM_LAYERS.items():
        network = NetworkConfig(name, 1 / 64).build(10, 32)
        assert network.num_layers == layers


# -- the pictures ------------------------------------------------------------------------------------------------


def test_fingerprints_are_of_the_pictures_that_a_protocol_names(real_data_root):
    cifar = data.load("cifar10", root=real_data_root)
    assert tuple(protocols.load("short").pictures) == (cifar.name, cifar.fingerprint)
    assert cifar.name == "cifar10-jpeg"


def test_smoke_is_on_the_digits_and_any_protocol_on_any_pictures():
    digits = data.load("digits")
    assert tuple(protocols.load("smoke").pictures) == (digits.name, digits.fingerprint)
    moved = protocols.load("paper", "resnet50").on(digits)
    spec = spec_of(moved, "dgl")
    assert (spec.data, spec.fingerprint) == ("digits", digits.fingerprint)
    assert replace(spec, data="cifar10", fingerprint="") == spec_of(protocols.load("paper", "resnet50"), "dgl")


@pytest.mark.parametrize("name", ["short", "smoke", "paper"])
def test_other_pictures_than_the_protocols_own_are_known_by_fingerprint_or_not_at_all(name):
    known = protocols.load(name, "resnet50", data="fashion-mnist")
    assert tuple(known.pictures) == ("fashion-mnist", protocols.FINGERPRINTS["fashion-mnist"])
    assert "fashion-mnist" in known.label
    assert tuple(protocols.load(name, "resnet50", data="my own").pictures) == ("my own", "")
    own = protocols.load(name, "resnet50")
    assert protocols.load(name, "resnet50", data=own.profile.data) == own


def test_the_papers_fingerprint_is_that_of_the_records(tmp_path):
    store = RunStore(tmp_path)
    assert protocols.load("paper", "vgg19", store).fingerprint == protocols.load("paper").fingerprint == ""
    other = spec_of(protocols.load("smoke"), "dgl")
    save_made(store, other)  # of other pictures
    assert protocols.load("paper", "vgg19", store).fingerprint == ""
    save_made(store, replace(other, data="cifar10", fingerprint="a" * 16))
    assert protocols.load("paper", "vgg19", store).fingerprint == "a" * 16
    save_made(store, replace(other, data="cifar10", fingerprint="b" * 16))
    message = one_line(protocols.load, "paper", "vgg19", store)
    assert message == "there are records of 2 different cifar10; allowed: of one"


def test_the_papers_pictures_may_be_those_of_its_runs_as_jpeg(tmp_path):
    store, jpeg = RunStore(tmp_path), protocols.FINGERPRINTS["cifar10-jpeg"]
    short, paper = protocols.load("short"), protocols.load("paper")
    save_made(store, spec_of(short, "dgl"))  # the same pictures, but a short schedule
    assert protocols.load("paper", store=store) == paper
    as_jpeg = replace(paper, profile=replace(paper.profile, data="cifar10-jpeg"), fingerprint=jpeg)
    save_made(store, spec_of(as_jpeg, "dgl"))
    assert protocols.load("paper", store=store) == as_jpeg
    assert protocols.load("paper", "resnet50", store).pictures == ("cifar10-jpeg", jpeg)
    save_made(store, replace(spec_of(paper, "dgl"), fingerprint="a" * 16))  # the original goes first
    assert protocols.load("paper", store=store).pictures == ("cifar10", "a" * 16)
    searched = RunStore(tmp_path / "searched")
    save_made(searched, as_jpeg.search(0))
    assert protocols.load("paper", store=searched) == as_jpeg


def test_gather_takes_the_pictures_at_hand_under_their_own_name(real_data_root, monkeypatch):
    monkeypatch.setenv("SEDONA_DATA", str(real_data_root))
    jpeg = protocols.FINGERPRINTS["cifar10-jpeg"]
    asked = [protocols.load("smoke"), protocols.load("paper"), protocols.load("short")]
    gathered, pictures = protocols.gather(asked)
    assert [one.name for one in gathered] == ["smoke", "paper", "short"]
    if not (real_data_root / "cifar-10-batches-py").exists():
        assert gathered[1].pictures == ("cifar10-jpeg", jpeg)
        assert gathered[1].label.endswith("64,000 steps of 128, cifar10-jpeg")
    assert (gathered[0], gathered[2]) == (asked[0], asked[2])
    assert [one.name for one in pictures] == ["digits", gathered[1].profile.data, "cifar10-jpeg"]


def test_gather_refuses_other_pictures_than_a_protocol_has(tmp_path):
    smoke = protocols.load("smoke")
    message = one_line(protocols.gather, [replace(smoke, fingerprint="a" * 16)])
    assert message.startswith(f"protocol 'smoke' has pictures digits ({'a' * 16}), at hand are digits (")
    absent = replace(smoke, profile=replace(smoke.profile, data="tiny-imagenet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDONA_DATA", str(tmp_path))
        assert one_line(protocols.gather, [absent]).startswith(f"no tiny-imagenet in {tmp_path}")


def test_the_papers_rows_stand_beside_ours_once(tmp_path):
    ours = [protocols.load("paper", "resnet101"), protocols.load("short")]
    found = protocols.beside(ours, NETWORKS, RunStore(tmp_path))
    assert [one.profile.network.name for one in found] == ["vgg19", "resnet50", "resnet152"]
    assert {one.name for one in found} == {"paper"}


def test_unknown_protocols_and_networks_are_refused_in_one_line():
    assert "unknown protocol 'shrot'; allowed: short, paper, smoke, tiny-imagenet, imagenet" in one_line(
        protocols.load, "shrot"
    )
    assert "allowed: resnet101, resnet152" in one_line(protocols.load, "imagenet", "vgg19")
    assert "allowed: vgg19, resnet50" in one_line(protocols.load, "short", "resnet152")
    message = one_line(protocols.load, "paper", "vgg11")
    assert "unknown network 'vgg11'; allowed: vgg19, resnet50, resnet101, resnet152" in message


# -- short -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", SHORT)
def test_every_method_gets_the_same_budget_under_short(network):
    protocol = protocols.load("short", network)
    assert len(protocol.settings) == len(set(protocol.settings)) == {"vgg19": 4, "resnet50": 2}[network]
    budgets = set()
    for method in METHODS:
        runs = protocol.tuning(method, found_by(protocol))
        assert tuple(runs) == protocol.settings
        for setting, spec in runs.items():
            assert (spec.train.lr, spec.train.warmup_steps) == (setting.lr, setting.warmup_steps)
            assert spec.seed == protocol.tuning_seed
            assert (spec.train.train_pictures, spec.train.alignment_every) == (
                0,
                0,
            )  # nothing that decides nothing
        trains = {
            replace(spec.train, lr=0.1, warmup_steps=0, loss=protocol.profile.train.loss) for spec in runs.values()
        }
        assert len(trains) == 1
        budgets.add((len(runs), trains.pop()))
    assert len(budgets) == 1


@pytest.mark.parametrize("network", SHORT)
def test_what_is_tuned_is_what_runs_but_for_the_seed_and_the_looks(network):
    protocol = protocols.load("short", network)
    for method in METHODS:
        for setting, tuned in protocol.tuning(method, found_by(protocol)).items():
            spec = spec_of(protocol, method, 1, setting)
            quiet = replace(spec.train, train_pictures=0, alignment_every=0)
            named = "sedona" if method == "given" else method
            assert tuned == replace(spec, train=quiet, seed=protocol.tuning_seed, method=named)


@pytest.mark.parametrize("name", ["short", "smoke", "paper"])
def test_the_tuning_seed_is_in_no_table(name, tmp_path):
    protocol, store = protocols.load(name, "vgg19"), RunStore(tmp_path)
    assert protocol.tuning_seed not in protocol.seeds
    for _ in range(3):  # searches, then choices, then runs
        entries = [entry for each in experiments.EXPERIMENTS for entry in experiments.load(each, protocol, store)]
        save_made(store, *{spec_hash(spec): spec for entry in entries for spec in entry.needs}.values())
    entries = [entry for each in experiments.EXPERIMENTS for entry in experiments.load(each, protocol, store)]
    assert all(entry.runs for entry in entries)
    seeds = {spec.seed for entry in entries for spec in entry.runs}
    assert protocol.tuning_seed not in seeds
    assert seeds == set(experiments.MANY_SEEDS)


def test_cosines_are_looked_at_where_there_are_blocks_with_losses():
    protocol = protocols.load("short")
    every = {method: spec_of(protocol, method).train.alignment_every for method in METHODS}
    assert every == {method: 50 if method in BLOCKWISE else 0 for method in METHODS}
    held_out = round(50_000 * protocol.profile.train.held_out)
    assert protocol.profile.train.train_pictures == held_out == 5_000
    assert round(50_000 * protocols.load("short", "resnet50").profile.train.held_out) == 2_000


def test_a_protocol_changes_nothing_but_what_it_was_asked_to():
    protocol = protocols.load("short")
    variant = protocol.search(1, memory_size=1, objective="released")
    assert variant == replace(
        protocol.search(1), search=replace(protocol.search(1).search, memory_size=1, objective="released")
    )
    one, other = (spec_of(protocol, "dgl", setting=setting) for setting in protocol.settings[:2])
    differences = {name for name in asdict(one) if asdict(one)[name] != asdict(other)[name]}
    assert differences == {"train"}
    assert replace(other.train, warmup_steps=one.train.warmup_steps) == one.train


# -- the choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", range(4))
@pytest.mark.parametrize("method", METHODS)
def test_the_lowest_validation_error_decides_and_no_test_error(method, best, tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    found = found_by(protocol)
    for place, spec in enumerate(protocol.tuning(method, found).values()):
        assert chosen(protocol, method, store, found) is None  # as long as one of them has no record
        wrong = (place - best) % 4
        record = made_record(
            spec, validation=40 + wrong, test=90 - 10 * wrong
        )  # the test pictures say the opposite
        store.save(record)
    assert chosen(protocol, method, store, found) == protocol.settings[best]
    for spec in protocol.tuning(method, found).values():  # whatever the test errors are
        record = store.load(spec)
        for point in ("best", "last"):
            record.result[point]["test"]["top1"] = 50.0
        store.save(record)
    assert chosen(protocol, method, store, found) == protocol.settings[best]


def test_a_setting_that_diverges_loses_and_blocks_nothing(tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    first, *others, last = protocol.tuning("dgl").values()
    for spec in (first, last):
        save_diverged(store, spec)
    for spec, error in zip(others, (60.0, 50.0), strict=True):
        assert chosen(protocol, "dgl", store) is None
        store.save(made_record(spec, validation=error))
    assert chosen(protocol, "dgl", store) == protocol.settings[2]
    (entry,) = (e for e in experiments.load("table07", protocol, store) if e.variant == "dgl")
    tried = record_frames.settings([entry], store)
    assert tried["validation"].tolist() == [math.inf, 60.0, 50.0, math.inf]
    assert tried["chosen"].tolist() == [False, False, True, False]
    for spec in others:
        save_diverged(store, spec)
    assert chosen(protocol, "dgl", store) == protocol.settings[0]


def test_the_best_checkpoint_counts_and_of_equal_settings_the_first(tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    for place, spec in enumerate(protocol.tuning("dgl").values()):
        record = made_record(spec, validation=[50, 45, 45, 60][place])
        record.result["last"]["validation"]["top1"] = [10, 45, 1, 60][place]
        store.save(record)
    assert chosen(protocol, "dgl", store) == protocol.settings[1]


def test_a_method_does_not_choose_for_another_but_sedona_for_decouplings_like_its_own(tmp_path):
    protocol, store = protocols.load("short"), RunStore(tmp_path)
    save_made(store, *protocol.tuning("sedona").values())
    assert chosen(protocol, "sedona", store) == chosen(protocol, "given", store) == protocol.settings[0]
    assert chosen(protocol, "dgl", store) is None
    assert protocol.tuning("given") == protocol.tuning("sedona")
    cuts = {spec.decoupling for spec in protocol.tuning("sedona").values()}
    assert cuts == {Decoupling.published("vgg19", 4)}
    assert str(protocol.settings[1]) == "rate 0.1, warm-up 200"


def test_differences_are_named_down_to_the_setting():
    one = protocols.load("paper", "vgg19").search(0)
    other = replace(one, seed=3, search=replace(one.search, inner=replace(one.search.inner, lr=0.5)))
    assert differences(one, one) == {}
    assert differences(one, other) == {"search.inner.lr": (one.search.inner.lr, 0.5), "seed": (0, 3)}
