"""Training with 16 bits where rounding does little harm: what stays float32, and that both trainers agree."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from sedona_nb import data, pipeline, precision, runs, training
from sedona_nb.blocks import Block, BlockNetwork, LocalLoss, decouple
from sedona_nb.decoding import decode
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.losses import predsim_loss
from sedona_nb.networks import NetworkConfig, build_network
from sedona_nb.precision import Arithmetic
from sedona_nb.records import RunSpec, protocol, spec_hash
from sedona_nb.train_config import TrainConfig

LAYERS = 8
CONFIG = TrainConfig(steps=7, batch_size=32, lr=0.05, warmup_steps=3, evaluate_every=3, precision="bfloat16")


def spec_of(config: TrainConfig = CONFIG, blocks: int = 2) -> RunSpec:
    pictures = data.load("digits")
    network = NetworkConfig("vgg11", 1 / 16, dropout=0.3)
    decoupling = Decoupling.uniform(LAYERS, blocks, head="aux2")
    return RunSpec(pictures.name, pictures.fingerprint, network, "given", config, decoupling, seed=3)


def serial(spec: RunSpec, folder=None, **more) -> tuple[training.TrainOutcome, BlockNetwork]:
    network = runs.build(spec, data.load("digits"))
    return training.train(network, data.load("digits"), spec.train, spec.seed, folder=folder, **more), network


def batch(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, size, size, generator=draw), torch.randint(10, (4,), generator=draw)


@pytest.fixture
def half_on_cpu(tmp_path, monkeypatch) -> None:
    """float16 here and in child processes: a CPU can, slowly, which is enough for a test."""
    monkeypatch.setattr(precision, "check", lambda *_: None)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "import os\n"
        "if 'RANK' in os.environ:\n"
        "    from sedona_nb import precision\n"
        "    precision.check = lambda *_: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hooks))


@pytest.fixture
def small_scale(monkeypatch) -> None:
    """Scales begin with 8, where nothing overflows, and grow every third step."""
    make = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: make(device, init_scale=8.0, growth_interval=3))


@pytest.mark.parametrize("head", ["aux1", "aux4", "mlp-sr", "predsim"])
@pytest.mark.parametrize(("name", "layers"), [("vgg11", 8), ("resnet18", 8), ("resnet50", 16)])
def test_a_block_hands_on_16_bits_and_keeps_losses_and_gradients_in_32(name, layers, head):
    network = build_network(name, 1 / 16, 10, 32, seed=0)
    blocks = decouple(network, Decoupling.uniform(layers, 3, head=head), 10, 1 / 16, seed=0).train()
    x, labels = batch()
    arithmetic = Arithmetic("bfloat16")
    for block in blocks.blocks:
        with arithmetic.autocast():  # already of that type, so that handing on rounds nothing
            assert block.layers(x).dtype == torch.bfloat16
            activations, scores = block(x)
        assert (activations.dtype, scores.dtype) == (torch.bfloat16, torch.float32)
        handed, loss = block.local_step(x, labels, LocalLoss(), 0, None, arithmetic)
        assert (handed.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
        assert {parameter.grad.dtype for parameter in block.parameters()} == {torch.float32}
        assert {value.dtype for value in block.state_dict().values()} <= {torch.float32, torch.int64}
        x = handed


def test_similarities_are_those_of_float32_on_rounded_maps():
    network = build_network("vgg11", 1 / 16, 10, 32, seed=0)
    block = decouple(network, Decoupling.uniform(8, 2, head="predsim"), 10, 1 / 16, seed=0).blocks[0].train()
    x, labels = batch()
    with Arithmetic("bfloat16").autocast():
        activations, scores = block(x)
        features = block.head.similarity_features(activations).float()
        found = block.loss(activations, scores, labels, LocalLoss())
    assert torch.equal(found, predsim_loss(scores, features, labels, 0.99))


def test_bfloat16_is_near_float32_and_not_the_same():
    (low, network), (plain, _) = serial(spec_of()), serial(spec_of(replace(CONFIG, precision="float32")))
    assert low.curve != plain.curve
    assert low.curve[0][1] == pytest.approx(plain.curve[0][1], rel=0.05)  # later on, differences grow
    assert {value.dtype for value in network.state_dict().values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_both_trainers_agree_bit_for_bit(kind, tmp_path, one_thread, half_on_cpu):
    steps = 7 if kind == "bfloat16" else 4
    spec = spec_of(replace(CONFIG, precision=kind, steps=steps))
    wanted, network = serial(spec, tmp_path / "serial")
    found = pipeline.train(spec, "digits", tmp_path / "blocks", threads=1)
    assert (found.curve, found.best, found.last) == (wanted.curve, wanted.best, wanted.last)
    kept = torch.load(tmp_path / "serial" / "training.pt", weights_only=True)["arithmetics"]
    for number, block in enumerate(network.blocks, 1):
        saved = torch.load(tmp_path / "blocks" / f"block-{number}" / f"step-{steps}.pt", weights_only=True)
        assert all(torch.equal(saved["block"][name], value) for name, value in block.state_dict().items())
        assert saved["arithmetic"] == kept[number - 1]
        assert bool(saved["arithmetic"]) == (kind == "float16")


def test_each_block_has_a_scale_of_its_own(half_on_cpu, small_scale):
    base = build_network("vgg11", 1 / 16, 10, 32, seed=0)
    network = decouple(base, Decoupling.uniform(8, 2), 10, 1 / 16, seed=0)
    config = TrainConfig(precision="float16")
    optimizers = training.make_optimizers(network, config)
    arithmetics = [Arithmetic("float16") for _ in optimizers]
    step = Block.local_step

    def broken(block, *rest):
        found = step(block, *rest)
        if block.first == 1:
            next(block.parameters()).grad[0] = float("inf")
        return found

    before = [[p.detach().clone() for p in block.parameters()] for block in network.blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "local_step", broken)
        training.train_step(network, optimizers, batch(), 0.1, LocalLoss(), 0, arithmetics)
    assert [arithmetic.scaler.get_scale() for arithmetic in arithmetics] == [4.0, 8.0]
    same = [
        all(torch.equal(p, old) for p, old in zip(block.parameters(), held, strict=True))
        for block, held in zip(network.blocks, before, strict=True)
    ]
    assert same == [True, False]  # the first block's step was skipped
    assert [len(optimizer.state) > 0 for optimizer in optimizers] == [False, True]  # momentum, too


def test_scales_survive_an_interruption(tmp_path, half_on_cpu, small_scale):
    """A scale that grows every third step, interrupted behind the second."""
    spec = spec_of(replace(CONFIG, precision="float16", steps=4, evaluate_every=2))
    wanted, undisturbed = serial(spec, tmp_path / "undisturbed")

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 3:
            raise Stop

    def kept(name: str) -> list[tuple[float, int]]:
        states = torch.load(tmp_path / name / "training.pt", weights_only=True)["arithmetics"]
        return [(state["scale"], state["_growth_tracker"]) for state in states]

    with pytest.raises(Stop):
        serial(spec, tmp_path / "resumed", on_step=stop)
    assert kept("resumed") == [(8.0, 2)] * 2
    found, resumed = serial(spec, tmp_path / "resumed")
    assert kept("resumed") == kept("undisturbed") == [(16.0, 1)] * 2
    assert found.curve == wanted.curve
    for one, other in zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_continuous_decisions_train_in_16_bits():
    spec = spec_of()
    alpha, beta = (tuple((0.0,) * columns for _ in range(LAYERS - 1)) for columns in (2, 4))
    spec = replace(spec, method="continuous", decoupling=None, alpha=alpha, beta=beta)
    low, _ = serial(replace(spec, train=replace(CONFIG, steps=2, warmup_steps=0)))
    plain, _ = serial(replace(spec, train=replace(CONFIG, steps=2, warmup_steps=0, precision="float32")))
    assert low.curve != plain.curve
    assert low.curve[0][1] == pytest.approx(plain.curve[0][1], rel=0.05)


def test_float16_is_refused_where_there_is_no_cuda(tmp_path):
    with pytest.raises(SedonaError, match="unknown precision 'half'; allowed: float32, bfloat16, float16"):
        TrainConfig(precision="half")
    spec = spec_of(replace(CONFIG, precision="float16"))
    words = "precision 'float16' needs CUDA, not 'cpu'; allowed there: float32, bfloat16"
    with pytest.raises(SedonaError, match=words):
        serial(spec)
    with pytest.raises(SedonaError, match=words):
        pipeline.train(spec, "digits", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_of_before_keep_their_names_and_are_read():
    """The field came later: a record without it is one in float32."""
    spec = RunSpec(
        "digits", "0" * 16, NetworkConfig("vgg11", 0.125), "given", TrainConfig(), Decoupling.uniform(8, 2)
    )
    assert spec_hash(spec) == "92ee449c9c09"  # as before there was the field
    low = replace(spec, train=replace(spec.train, precision="bfloat16"))
    assert spec_hash(low) != spec_hash(spec)
    assert protocol(low) == protocol(spec) + ", bfloat16"
    content = asdict(low)
    assert decode(RunSpec, content) == low
    del content["train"]["precision"]
    assert decode(RunSpec, content) == spec
