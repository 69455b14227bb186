import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

from sedona_nb import atomic, paper
from sedona_nb.decoupling import Decoupling, count_configurations, rank_layers
from sedona_nb.errors import SedonaError, TieWarning
from sedona_nb.heads import HEADS

SPLITS_K4 = {"vgg19": (6, 13, 14), "resnet50": (10, 11, 12), "resnet101": (7, 11, 12), "resnet152": (11, 13, 17)}
HEADS_K4 = {name: ("aux4", "aux1", "aux1") if name == "vgg19" else ("aux4",) * 3 for name in SPLITS_K4}


def tensors(root: Path, network: str) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(atomic.load_tensors(root / network / f"{name}.pt") for name in ("alpha", "beta"))


def from_files(root: Path, network: str, num_blocks: int) -> Decoupling:
    return Decoupling.from_files(root / network / "alpha.pt", root / network / "beta.pt", num_blocks)


# ---- the value ----


def test_blocks_and_text():
    cut = Decoupling(16, (6, 13, 14), ("aux4", "aux1", "aux1"))
    assert cut.num_blocks == 4
    assert cut.blocks == ((1, 6), (7, 13), (14, 14), (15, 16))
    assert str(cut) == "16 layers, 4 blocks: 1-6 aux4 | 7-13 aux1 | 14 aux1 | 15-16 classifier"
    assert str(Decoupling.backprop(1)) == "1 layer, 1 block: 1 classifier"


def test_equality_ignores_the_source_and_lists_become_tuples():
    one = Decoupling(4, [2], ["aux1"], "here")
    two = Decoupling(4, torch.tensor([2]), ("aux1",), "there")
    assert one == two
    assert hash(one) == hash(two)
    assert one != Decoupling(4, (2,), ("aux2",), "here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (), ()), "num_layers is 0; allowed: 1 or more"),
        ((4, (4,), ("aux1",)), "allowed for 4 layers: 1..3"),
        ((4, (0,), ("aux1",)), "allowed for 4 layers: 1..3"),
        ((4, (2, 1), ("aux1", "aux1")), "ascending, each layer once"),
        ((4, (2, 2), ("aux1", "aux1")), "ascending, each layer once"),
        ((4, (2,), ()), "0 heads for 1 splits"),
        ((4, (2,), ("aux5",)), "unknown head 'aux5'"),
        ((4, (1.5,), ("aux1",)), "a split is 1.5"),
        ((True, (), ()), "num_layers is True"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    with pytest.raises(SedonaError, match=message.replace("(", r"\(")) as caught:
        Decoupling(*arguments)
    assert "\n" not in str(caught.value)


def test_json_round_trip(tmp_path):
    cut = Decoupling.published("vgg19", 4)
    again = Decoupling.from_json(cut.to_json())
    assert (again, again.source) == (cut, cut.source)
    assert Decoupling.load(cut.save(tmp_path / "cuts" / "vgg19.json")) == cut
    with pytest.raises(SedonaError, match="no file"):
        Decoupling.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"num_layers": 4, "splits": [2], "heads": ["aux1"], "source": "x", "colour": 1}',
        '{"num_layers": 4, "splits": [2], "heads": ["aux1"]}',
        '{"num_layers": 4, "splits": [2], "heads": "aux1", "source": "x"}',
        '{"num_layers": 4, "splits": ["2"], "heads": ["aux1"], "source": "x"}',
        '{"num_layers": 4.0, "splits": [2], "heads": ["aux1"], "source": "x"}',
        '{"num_layers": 4, "splits": [2], "heads": [["aux1"]], "source": "x"}',
        '{"num_layers": 4, "splits": [2], "heads": ["aux1"], "source": null}',
    ],
)
def test_json_is_strict(text):
    with pytest.raises(SedonaError):
        Decoupling.from_json(text)


# ---- baselines ----


@pytest.mark.parametrize(
    ("num_layers", "splits"), [(16, (4, 8, 12)), (33, (8, 16, 24)), (50, (12, 25, 37))], ids=["16", "33", "50"]
)
def test_uniform_as_released(num_layers, splits):
    cut = Decoupling.uniform(num_layers, 4)
    assert (cut.splits, cut.heads) == (splits, ("mlp-sr",) * 3)


@pytest.mark.parametrize("num_layers", [16, 33, 50])
@pytest.mark.parametrize("num_blocks", [1, 2, 4, 8, 12, 16])
def test_uniform_is_the_released_linspace(num_layers, num_blocks):
    released = torch.linspace(-1, num_layers - 1, num_blocks + 1)[1:-1].long() + 1
    assert Decoupling.uniform(num_layers, num_blocks).splits == tuple(released.tolist())


def test_uniform_as_dgl():
    assert Decoupling.uniform(50, 4, convention="dgl").splits == (12, 25, 38)
    assert Decoupling.uniform(50, 2, "aux1", "dgl") == Decoupling.uniform(50, 2, "aux1")
    assert Decoupling.uniform(50, 1, convention="dgl") == Decoupling.backprop(50)
    with pytest.raises(SedonaError, match="fewer than 16 blocks"):
        Decoupling.uniform(50, 16, convention="dgl")
    with pytest.raises(SedonaError, match="unknown convention"):
        Decoupling.uniform(50, 4, convention="even")


@pytest.mark.parametrize("num_blocks", [0, 17, -1, 2.0, True])
def test_number_of_blocks_is_checked(num_blocks):
    for build in (
        lambda: Decoupling.uniform(16, num_blocks),
        lambda: Decoupling.random(16, num_blocks, 0),
        lambda: Decoupling.from_search(torch.randn(15, 2), torch.randn(15, 4), num_blocks),
        lambda: Decoupling.published("vgg19", num_blocks),
        lambda: count_configurations(16, num_blocks),
    ):
        with pytest.raises(SedonaError, match=r"1\.\.16"):
            build()


def test_random_is_uniform_over_all_configurations():
    drawn = Counter(Decoupling.random(4, 3, seed, ("aux1", "aux2")) for seed in range(6000))
    assert len(drawn) == count_configurations(4, 3, 2) == 12
    expected = 6000 / 12
    chi_squared = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert chi_squared < 31  # 11 degrees of freedom: beyond this once in a thousand


def test_random_repeats():
    assert Decoupling.random(16, 4, 3) == Decoupling.random(16, 4, 3)
    assert Decoupling.random(5, 5, 0).splits == (1, 2, 3, 4)
    # Spelled out, so that no version of Python changes what a seed in a record means.
    assert str(Decoupling.random(16, 4, 0)) == (
        "16 layers, 4 blocks: 1-4 aux2 | 5-8 aux4 | 9-13 aux4 | 14-16 classifier"
    )


def test_counting():
    assert count_configurations(4, 3, 3) == 3 * 9  # Figure 2
    assert count_configurations(50, 4) == 18424 * 64
    assert count_configurations(7, 1) == 1


def test_other_heads():
    cut = Decoupling.published("resnet101", 4)
    assert cut.with_heads("mlp-sr").heads == ("mlp-sr",) * 3
    assert cut.with_random_heads(1).splits == cut.splits
    assert cut.with_random_heads(1) == cut.with_random_heads(1)
    assert {head for seed in range(40) for head in cut.with_random_heads(seed).heads} == set(HEADS)
    with pytest.raises(SedonaError, match="2 heads for 3 splits"):
        cut.with_heads(("aux1", "aux2"))
    with pytest.raises(SedonaError, match="no heads"):
        cut.with_random_heads(1, ())


# ---- discretization ----


def test_from_search_on_a_toy():
    alpha = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [3.0, 2.5]])
    beta = torch.eye(4)[[0, 3, 1, 2]]
    assert rank_layers(alpha).order == (2, 3, 4, 1)
    assert rank_layers(alpha).confidence[0] == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    cuts = [Decoupling.from_search(alpha, beta, k) for k in range(1, 6)]
    assert [cut.splits for cut in cuts] == [(), (2,), (2, 3), (2, 3, 4), (1, 2, 3, 4)]
    assert cuts[-1].heads == ("aux1", "aux4", "aux2", "aux3")
    assert cuts[0] == Decoupling.backprop(5)


def test_an_untrained_search_is_one_tie():
    alpha, beta = torch.zeros(3, 2), torch.zeros(3, 4)
    ranking = rank_layers(alpha)
    assert (ranking.order, ranking.ties) == ((1, 2, 3), ((1, 2, 3),))
    with pytest.warns(TieWarning) as caught:
        assert Decoupling.from_search(alpha, beta, 2) == Decoupling(4, (1,), ("aux1",))
    texts = [str(warning.message) for warning in caught]
    assert texts == [
        "layers 1-3 are equal in single precision, "
        "and K = 2 cuts at only 1 of them: 1, by float64 and then by index",
        "single precision cannot tell the best heads apart at 1; float64 chose 1 aux1",
    ]


def test_a_tie_inside_the_chosen_set_is_silent():
    alpha = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    beta = torch.eye(4)[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Decoupling.from_search(alpha, beta, 3).splits == (1, 2)
        assert Decoupling.from_search(alpha, beta, 4).splits == (1, 2, 3)
    with pytest.warns(TieWarning, match="layers 1, 2 are equal"):
        Decoupling.from_search(alpha, beta, 2)


def test_float64_tells_apart_what_float32_cannot():
    alpha = torch.tensor([[1e-12, 0.0], [2e-12, 0.0]])
    assert rank_layers(alpha).order == (2, 1)
    assert rank_layers(alpha).ties == ((2, 1),)


@pytest.mark.parametrize(
    ("alpha", "beta", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 4), r"alpha has shape \(2, 3\); allowed: \(L-1, 2\)"),
        (torch.zeros(3, 2), torch.zeros(4, 3), r"beta has shape \(4, 3\); allowed: \(3, 4\)"),
        (torch.zeros(3, 2), torch.zeros(4, 4), r"beta has shape \(4, 4\); allowed: \(3, 4\)"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 4), "alpha is torch.int64"),
        ([[0.0, 0.0]], torch.zeros(3, 4), "alpha is list"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 4), "alpha holds NaN"),
        (torch.randn(3, 2), torch.full((3, 4), torch.inf), "beta holds NaN or infinity"),
    ],
)
def test_bad_search_results(alpha, beta, message):
    with pytest.raises(SedonaError, match=message):
        Decoupling.from_search(alpha, beta, 2)


def test_tensors_that_require_gradients_are_welcome(device):
    alpha = torch.arange(6.0, device=device).reshape(3, 2).mul(-1).square().requires_grad_()
    beta = torch.eye(4, device=device)[:3].requires_grad_()
    assert Decoupling.from_search(alpha, beta, 2).splits == (1,)


def test_missing_file(tmp_path):
    with pytest.raises(SedonaError, match="no file"):
        Decoupling.from_files(tmp_path / "alpha.pt", tmp_path / "beta.pt", 4)


# ---- the paper's tables and the authors' files ----


@pytest.mark.parametrize("network", paper.NETWORKS)
def test_published_splits(network):
    cut = Decoupling.published(network, 4)
    assert (cut.splits, cut.heads) == (SPLITS_K4[network], HEADS_K4[network])
    assert cut.num_layers == paper.NUM_LAYERS[network]


def test_published_stops_where_the_table_stops():
    assert Decoupling.published("vgg19", 16).splits == tuple(range(1, 16))
    assert Decoupling.published("resnet101", 17).num_blocks == 17
    with pytest.raises(SedonaError, match=r"1\.\.17, as Table 11 prints 16 of 32 layers"):
        Decoupling.published("resnet101", 18)
    with pytest.raises(SedonaError, match="did you mean 'resnet101'"):
        Decoupling.published("resnet100", 4)


def test_published_at_eight_blocks():
    assert Decoupling.published("resnet152", 8).splits == (11, 13, 17, 19, 22, 23, 25)
    assert [head[-1] for head in Decoupling.published("resnet152", 8).heads] == list("4443242")
    assert Decoupling.published("vgg19", 8).splits == (6, 8, 11, 12, 13, 14, 15)
    assert [head[-1] for head in Decoupling.published("vgg19", 8).heads] == list("4121111")


@pytest.mark.parametrize("network", paper.NETWORKS)
def test_released_files_give_the_published_cuts_up_to_eight_blocks(released_root, network):
    for num_blocks in range(1, 9):  # and without a TieWarning, which the settings of pytest make an error
        assert from_files(released_root, network, num_blocks) == Decoupling.published(network, num_blocks)
    assert from_files(released_root, network, 4).splits == SPLITS_K4[network]


@pytest.mark.parametrize("network", ["vgg19", "resnet50"])
def test_released_order_is_tables_12_and_13(released_root, network):
    ranking = rank_layers(tensors(released_root, network)[0])
    assert ranking.order == paper.LEARNED[network][0]
    assert ranking.ties == ()
    assert all(from_files(released_root, network, k) == Decoupling.published(network, k) for k in range(1, 17))


def test_released_order_is_table_11_up_to_one_tie(released_root):
    ranking = rank_layers(tensors(released_root, "resnet101")[0])
    printed = paper.LEARNED["resnet101"][0]
    assert ranking.ties == ((19, 29),)
    assert ranking.order[:16] == (*printed[:7], 19, 29, *printed[9:])
    assert set(ranking.order[:16]) == set(printed)
    with pytest.warns(TieWarning, match="layers 19, 29 are equal"):
        assert from_files(released_root, "resnet101", 9) != Decoupling.published("resnet101", 9)
    for num_blocks in (10, 12, 16, 17):
        assert from_files(released_root, "resnet101", num_blocks) == Decoupling.published("resnet101", num_blocks)


def test_released_order_is_table_10_up_to_two_ties(released_root):
    ranking = rank_layers(tensors(released_root, "resnet152")[0])
    printed = paper.LEARNED["resnet152"][0]
    assert [set(tie) for tie in ranking.ties] == [{28, 29}, set(range(31, 50))]
    assert ranking.order[:8] == printed[:8]
    assert set(ranking.order[8:10]) == set(printed[8:10]) == {28, 29}
    assert set(printed[10:]) <= set(ranking.ties[1])
    assert set(ranking.order[10:29]) == set(ranking.ties[1])


@pytest.mark.parametrize(("num_blocks", "splits_open"), [(9, 0), (10, 1), (11, 0), (12, 1), (16, 1), (30, 0)])
def test_ties_of_resnet152(released_root, num_blocks, splits_open):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_files(released_root, "resnet152", num_blocks)
    about_splits = [w for w in caught if str(w.message).startswith("layers")]
    assert len(about_splits) == splits_open
    assert all(w.category is TieWarning for w in caught)


@pytest.mark.parametrize("network", paper.NETWORKS)
def test_every_printed_head_is_a_best_one_in_single_precision(released_root, network):
    """All 62 printed heads have the largest float32 softmax, the last one where several do."""
    share = torch.softmax(tensors(released_root, network)[1].double(), dim=1).float()
    for layer, head in zip(*paper.LEARNED[network], strict=True):
        row = share[layer - 1]
        assert head == max(column + 1 for column in range(4) if row[column] == row.max())
