"""Exercises of lesson 03: who hears the classifier, gates under decided layers, a gate that knows its level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sedona_nb.exercises import answers
from sedona_nb.exercises.readings import named
from sedona_nb.exercises.trials import aside, stopped_with
from sedona_nb.exercises.verdict import Exercise, WrongKind

# Section 3.6 with seed 0 and T = 4, computed in float64 with the backends "adjoint" and "functional",
# which agree in twelve digits. It takes seconds, so the numbers stand here.
UNDECIDED, DECIDED, DECIDED_TWO_STEPS, DECIDED_DETACHED = 0.4756, 0.03455, 0.0054, 2.945
X, TARGET, RATE = 0.8, 0.5, 0.7  # the chain on which gates are tried: a_l = tanh(w_l a_{l-1}), l = 1 .. 3


def deaf_weight(answer: Any) -> str | None:
    """Layer 1 takes nothing from above; layer 2 half of it; layer 3 has the classifier's loss."""
    return answers.choice(
        answer,
        right="w1",
        slips={
            "w2": "Layer 2 mixes half and half, so half of the final error comes in. Which layer passes nothing "
            "on to its weight?",
            "w3": "Layer 3 is right below the classifier's loss and has no mixture of its own.",
            "none": "Read the pairs again: the first number is the share of the layer's own loss, the second "
            "that of the error from above. Is one of the second numbers zero?",
        },
    )


def decided_gates(answer: Any) -> str | None:
    """The printed error of pitfall 1 at T = 4 with spread = 6."""
    return answers.number(
        answer,
        DECIDED,
        tolerance=0.001,
        slips=[
            (UNDECIDED, "That is the lesson's own number. Run all cells again from the parameters on."),
            (DECIDED_TWO_STEPS, "That is the error of fewer inner steps. Read the last of the three lines."),
            (0.005, "That is the error of fewer inner steps. Read the last of the three lines."),
            (0.0, "With a single step nothing is crossed twice. Read the last of the three lines."),
            (
                DECIDED_DETACHED,
                "That is the gate of pitfall 2, in Section 3.7. The one asked for is in Section 3.6.",
            ),
            (100 * DECIDED, "Is that in percent? Give the number as it is printed."),
        ],
        otherwise="Set spread in the parameters cell, leave seed = 0, run everything again, and read T = 4 in "
        "Section 3.6.",
    )


def level_gate(answer: Any) -> str | None:
    """The class in place of the package's gate: inner steps and outer derivative against Eq. 4 written out."""
    if not isinstance(answer, type) or not callable(getattr(answer, "apply", None)):
        raise WrongKind(f"this is {named(answer)}")
    if not hasattr(answer, "inner"):
        raise WrongKind("this class has no attribute inner")
    switch = answer.inner
    try:
        for shares, about in (((0.5, 0.5), "undecided layers"), ((0.8, 0.3), "shares 0.8 and 0.3")):
            for steps in (1, 2, 3):
                hint = _gate_trial(answer, torch.tensor(shares, dtype=torch.float64), steps, about)
                if hint:
                    return hint
    finally:
        answer.inner = switch
    return None


def _gate_trial(gate: type, local: Tensor, steps: int, about: str) -> str | None:
    shares = torch.stack([local, 1 - local], 1)  # (2, 2): local, from above, of layers 1 and 2
    wanted = _train(_mixed_gradient, shares, steps)
    try:
        with aside():
            found = _train(lambda w, s: _gated_gradient(gate, w, s), shares, steps, gate)
    except (Exception, SystemExit) as error:
        raise WrongKind(f"in a training step of three layers it {stopped_with(error)}") from None
    if not torch.allclose(found[0], wanted[0], rtol=1e-9, atol=1e-12):
        plain = _train(lambda w, s: _mixed_gradient(w, torch.ones_like(s)), shares, steps)
        if torch.allclose(found[0], plain[0], rtol=1e-9, atol=1e-12):
            return "The inner gradient comes through unscaled. What should backward do while inner is set?"
        return (
            f"The inner gradient is wrong for {about}. There backward should multiply by the share it was given."
        )
    if torch.allclose(found[1], wanted[1], rtol=1e-9, atol=1e-12):
        return None
    if found[1].abs().max() == 0:
        return (
            "The inner gradient is right, but the outer derivative by the shares is zero: in backward the share "
            "must be the saved tensor, not a plain number."
        )
    if steps == 1:
        return (
            "The inner gradient is right, the outer derivative is wrong after one step already: is the share the "
            "only factor, and does backward return a gradient for it? The loss itself does not depend on it."
        )
    return (
        "Right for one inner step, wrong for more: then the outer backward crosses the gates of earlier steps. "
        "Which value has inner at that moment, and what does your backward do?"
    )


def _train(
    gradient: Callable[[Tensor, Tensor], Tensor], shares: Tensor, steps: int, gate: type | None = None
) -> tuple[Tensor, Tensor]:
    """Weights after the inner steps, and the derivative of the outer loss by the shares."""
    s = shares.clone().requires_grad_()
    w = torch.tensor([0.9, -1.1, 1.3], dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        if gate is not None:
            gate.inner = True
        w = w - RATE * gradient(w, s)
        if gate is not None:
            gate.inner = False
    outer = 0.5 * (_activations(w)[-1] - TARGET) ** 2
    (found,) = torch.autograd.grad(outer, s, materialize_grads=True, allow_unused=True)
    return w.detach(), found


def _activations(w: Tensor) -> list[Tensor]:
    a = [torch.tensor(X, dtype=torch.float64)]
    for weight in w:
        a.append(torch.tanh(weight * a[-1]))
    return a


def _mixed_gradient(w: Tensor, s: Tensor) -> Tensor:
    """Eqs. 4 and 5 as they stand, from the top; every loss is half the squared distance to the target."""
    a = _activations(w)
    delta, found = a[3] - TARGET, []
    for layer in (3, 2, 1):
        slope = 1 - a[layer] ** 2
        found.insert(0, delta * slope * a[layer - 1])
        if layer > 1:
            delta = s[layer - 2, 0] * (a[layer - 1] - TARGET) + s[layer - 2, 1] * delta * slope * w[layer - 1]
    return torch.stack(found)


def _gated_gradient(gate: type, w: Tensor, s: Tensor) -> Tensor:
    a, total = torch.tensor(X, dtype=torch.float64), 0.0
    for layer in range(3):
        a = torch.tanh(w[layer] * a)
        if layer < 2:
            total = total + 0.5 * (gate.apply(a, s[layer, 0]) - TARGET) ** 2
            a = gate.apply(a, s[layer, 1])
    total = total + 0.5 * (a - TARGET) ** 2
    return torch.autograd.grad(total, w, create_graph=True)[0]


EXERCISES = (
    Exercise(
        "03.1",
        "predict",
        "one of 'w1', 'w2', 'w3', 'none'",
        deaf_weight,
        "Layer 1 listens to its own head alone; layer 2 still hears half of the final error.",
    ),
    Exercise(
        "03.2",
        "change",
        "the relative error that Section 3.6 prints for T = 4, a number with three decimals",
        decided_gates,
        "A gate with share 1 is an identity both ways, one with share 0 is shut both ways; only undecided "
        "layers are wrong, and the search starts with those.",
    ),
    Exercise(
        "03.3",
        "extend",
        "a class LevelGate(torch.autograd.Function) with apply(x, share) and an attribute inner",
        level_gate,
        "The multiplication of the inner backward is an ordinary operation and is differentiated; the outer "
        "backward sees an identity.",
    ),
)
