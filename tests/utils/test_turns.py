"""Engines that take turns: each has the events of a run alone, whatever ends the others."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from icmoe_monai.utils.turns import taking_turns

LIFE = (
    Events.STARTED, Events.EPOCH_STARTED, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED,
    Events.TERMINATE, Events.COMPLETED,
)  # fmt: skip


def engine_of(name: str, words: list[str], *, length: int | None = None, fail_at: str | None = None) -> Engine:
    """Return an engine that says what happens to it."""

    def step(engine: Engine, batch: str) -> str:
        if batch == fail_at:
            raise ValueError(f"{name} fails")
        return batch

    def end(engine: Engine, error: BaseException) -> None:
        words.append(f"{name} {type(error).__name__}")
        raise error

    def say(engine: Engine, event: Events) -> None:
        words.append(f"{name} {event.name}")

    engine = Engine(step)
    engine.state.epoch_length = length
    for event in LIFE:
        engine.add_event_handler(event, say, event)
    engine.add_event_handler(Events.EXCEPTION_RAISED, end)
    return engine


def of(name: str, words: list[str]) -> list[str]:
    return [word.removeprefix(f"{name} ") for word in words if word.startswith(f"{name} ")]


def take_turns(engines: Sequence[Engine], batches: str, *, stop_after: BaseException | None = None) -> None:
    with taking_turns(engines) as take_turn:
        for batch in batches:
            for engine in engines:
                take_turn(engine, batch)
        if stop_after is not None:
            raise stop_after


@pytest.mark.parametrize("known", [True, False], ids=["length known", "length unknown"])
def test_each_has_the_events_of_a_run_alone(known: bool) -> None:
    alone: list[str] = []
    engine_of("a", alone).run(["1", "2"])
    words: list[str] = []
    first, second = (engine_of(name, words, length=2 if known else None) for name in "ab")
    with taking_turns([first, second]) as take_turn:
        assert words == ["a STARTED", "b STARTED"]
        for batch in "12":
            take_turn(first, batch)
            take_turn(second, batch)
            assert (first.state.output, second.state.output) == (batch, batch)
    assert of("a", words) == of("b", words) == of("a", alone)
    assert words[-1] == "b COMPLETED"
    assert words.index("a EPOCH_COMPLETED") > words.index("b ITERATION_COMPLETED")  # none ends before the block does
    assert (first.state.iteration, second.state.iteration) == (2, 2)


def test_an_engine_without_a_turn_starts_and_completes() -> None:
    words: list[str] = []
    idle, busy = engine_of("a", words, length=0), engine_of("b", words, length=1)
    with taking_turns([idle, busy]) as take_turn:
        take_turn(busy, "1")
    assert of("a", words) == ["STARTED", "EPOCH_STARTED", "EPOCH_COMPLETED", "COMPLETED"]
    assert idle.state.iteration == 0


@pytest.mark.parametrize("length", [1, 2], ids=["one has had all its turns", "both have turns to come"])
def test_an_exception_in_one_ends_the_other_by_the_same(length: int) -> None:
    words: list[str] = []
    first, second = engine_of("a", words, length=length), engine_of("b", words, length=length, fail_at="1")
    with pytest.raises(ValueError, match="b fails"):
        take_turns([first, second], "1")
    for name in "ab":
        assert "COMPLETED" not in of(name, words)
        assert of(name, words)[-1] == "ValueError"


def test_what_stops_the_block_ends_all_and_leaves_nothing_for_the_garbage() -> None:
    words: list[str] = []
    engines = [engine_of(name, words, length=2) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        take_turns(engines, "1", stop_after=KeyboardInterrupt())
    assert [of(name, words)[-1] for name in "ab"] == ["KeyboardInterrupt"] * 2
    said = list(words)
    del engines
    gc.collect()
    assert words == said  # no GeneratorExit


def test_one_that_does_not_start_ends_those_that_do() -> None:
    words: list[str] = []

    def refuse(engine: Engine) -> None:
        raise ValueError("no weights")

    first, second = engine_of("a", words, length=1), engine_of("b", words, length=1)
    first.add_event_handler(Events.STARTED, refuse)
    with pytest.raises(ValueError, match="no weights"):
        take_turns([first, second], "1")
    assert of("a", words) == ["STARTED", "ValueError"]
    assert of("b", words)[0] == "STARTED"
    assert "ITERATION_STARTED" not in of("b", words)
    assert of("b", words)[-1] == "ValueError"


def test_all_complete_before_what_one_of_them_raises_goes_on() -> None:
    words: list[str] = []

    def complain(engine: Engine) -> None:
        raise ValueError("cases failed")

    first, second = engine_of("a", words), engine_of("b", words)
    first.add_event_handler(Events.COMPLETED, complain)
    with pytest.raises(ValueError, match="cases failed"):
        take_turns([first, second], "1")
    assert of("b", words)[-1] == "COMPLETED"


def test_a_terminated_engine_takes_no_more_turns_and_the_others_do() -> None:
    words: list[str] = []
    first, second = engine_of("a", words, length=2), engine_of("b", words, length=2)
    first.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: engine.terminate())
    take_turns([first, second], "12")
    assert of("a", words).count("STARTED") == of("a", words).count("ITERATION_COMPLETED") == 1
    assert of("a", words)[-2:] == ["TERMINATE", "COMPLETED"]
    assert of("b", words).count("ITERATION_COMPLETED") == 2


def test_an_evaluator_of_monai_counts_on_and_can_run_alone_afterwards() -> None:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=[{"image": torch.ones(1, 1)}] * 2, network=torch.nn.Identity()
    )
    counted: list[int] = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: counted.append(engine.state.iteration))
    with taking_turns([evaluator]) as take_turn:
        for _ in range(2):
            take_turn(evaluator, {"image": torch.ones(1, 1)})
    assert counted == [1, 2]
    evaluator.run()
    assert counted == [1, 2, 1, 2]
