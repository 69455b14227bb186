"""How much memory tensors take at once, counted storage by storage, whatever process, allocator or device it is.

    with PeakMemory() as memory:
        hypergradient(problem, backend="higher")
    print(memory.peak)  # bytes

What an operation makes counts until nothing refers to it any more, what autograd keeps included. What was there
before does not count, nor what a kernel needs for itself while it runs. Every operation passes through Python: a
block takes up to three times as long, so time it without.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class PeakMemory(TorchDispatchMode):
    """Counts while it is entered; `peak` is the largest number of bytes alive at once, `now` the present one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, tuple[weakref.ref, int]] = {}  # storages that were made here, and their bytes
        self._makes: dict[Any, bool] = {}  # whether an operation's results have storages of their own

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` and look at what came out."""
        results = func(*args, **(kwargs or {}))
        makes = self._makes.get(func)
        if (
            makes is None
        ):  # a view, or an operation in place, says in its schema that it shares its input's storage
            makes = self._makes[func] = all(part.alias_info is None for part in func._schema.returns)
        if makes:
            for result in results if isinstance(results, tuple | list) else (results,):
                if isinstance(result, Tensor):
                    self._note(result.untyped_storage())
        return results

    def _note(self, storage: Any) -> None:
        key = id(storage)
        if key not in self._alive:
            size = storage.nbytes()
            self._alive[key] = weakref.ref(storage, self._forget(key)), size
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> Callable[[weakref.ref], None]:
        def gone(_: weakref.ref) -> None:
            self.now -= self._alive.pop(key)[1]

        return gone
