"""Running several ignite engines side by side, one iteration of each at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle


@contextmanager
def taking_turns(engines: Sequence[Engine]) -> Iterator[Callable[[Engine, Any], None]]:
    """Run several engines side by side, in turns of one batch each.

    ignite fires each engine's events at the same points as in a run alone: the run is interrupted after its start and
    after each iteration (`Engine.interrupt`), and resumed at the engine's next turn. All engines start at the block's
    beginning, and complete at its end. An exception, in the block or in an engine, is raised in every other engine too,
    at the point where its run was interrupted, so that its handlers of EXCEPTION_RAISED are called. Where there are
    several exceptions, the first is raised again once all engines have ended.

    Args:
        engines: Engines that are not started yet. An engine whose `state.epoch_length` is 0 only starts and completes,
            which ignite's `run` refuses; any other length must be the number of the engine's turns.

    Yields:
        A function that gives an engine a turn: one iteration with a batch. A terminated engine takes no more turns.

    Example:
        >>> words = []
        >>> engines = [Engine(lambda engine, batch, name=name: words.append(name + batch)) for name in "ab"]
        >>> for engine in engines:
        ...     _ = engine.add_event_handler(Events.COMPLETED, lambda: words.append("end"))
        >>> with taking_turns(engines) as take_turn:
        ...     for batch in "12":
        ...         for engine in engines:
        ...             take_turn(engine, batch)
        >>> words
        ['a1', 'b1', 'a2', 'b2', 'end', 'end']
    """
    with ExitStack() as stack:
        turns = _Turns(engines)
        for handle in turns.attach():
            stack.enter_context(handle)
        try:
            turns.start()
            yield turns.take
        except BaseException as error:
            with suppress(BaseException):  # exceptions after the first, which is raised below
                turns.end(error)
            raise
        turns.end()


class _Turns:
    """Engines whose runs are interrupted between their turns.

    Each run must be resumed to its end: Python ends an abandoned run with a `GeneratorExit`, which ignite hands to the
    engine's handlers like any exception.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        self._left: set[Engine] = set()
        self._batch: Any = None
        self._error: BaseException | None = None

    def attach(self) -> Iterator[RemovableEventHandle]:
        for engine in self.engines:
            engine.state.epoch_length = engine.state.epoch_length or None  # then it ends where the batches end
            yield engine.add_event_handler(Events.STARTED | Events.ITERATION_COMPLETED, Engine.interrupt)
            yield engine.add_event_handler(Events.INTERRUPT, self._leave)
            yield engine.add_event_handler(Events.GET_BATCH_STARTED | Events.EPOCH_COMPLETED, self._check)

    def start(self) -> None:
        _take_all(partial(self._go_on, engine) for engine in self.engines)

    def take(self, engine: Engine, batch: Any) -> None:
        self._batch = batch
        if engine in self._left:
            self._go_on(engine)

    def end(self, error: BaseException | None = None) -> None:
        self._batch, self._error = None, error
        _take_all(partial(self._go_on, engine) for engine in self.engines if engine in self._left)

    def _go_on(self, engine: Engine) -> None:
        self._left.discard(engine)
        Engine.run(engine, self._batches())  # `Evaluator.run`, MONAI's, would count the iterations from 0 again

    def _batches(self) -> Iterator[Any]:
        """Yield the current batch at each turn of an engine, until there is none."""
        while self._batch is not None:
            yield self._batch

    def _leave(self, engine: Engine) -> None:
        self._left.add(engine)

    def _check(self, engine: Engine) -> None:
        """Raise the exception that ended another engine's run, at the point where this engine's run is resumed."""
        if self._error is not None:
            raise self._error


def _take_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, and only then raise the first exception."""
    raised: list[BaseException] = []
    for step in steps:
        try:
            step()
        except BaseException as error:
            raised.append(error)
    if raised:
        raise raised[0]
