"""What becomes of callers' requests for optimisations in a pod: which are one, and how often there is news of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from despina.wire import OptimizeRequest
from despina_runtime.paths import places
from despina_runtime.process.wishes import APART_SECONDS, MOST, Wishes


class Pod:
    """Requests at moments that a test says; a wish is written `MODULE NUMBER`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wishes = Wishes(lambda: self.now)

    def ask(self, module: str, at: float) -> int | None:
        self.now = at
        request = self.wishes.ask(module)
        return request.number if request else None

    def told(self, at: float) -> str:
        self.now = at
        return ", ".join(f"{r.module} {r.number}" for r in self.wishes.told())


ASKED = {
    "the first is told at once": ([("a", 5)], [1], {5: "a 1"}),
    "a second later it is another wish, in the first one's place": ([("a", 5), ("a", 6)], [1, 2], {6: "a 2"}),
    "within a second it is the same one": ([("a", 5), ("a", 5.5), ("a", 5.9)], [1, 1, 1], {7: "a 1"}),
    "a day later, too, it is another one": ([("a", 5), ("a", 86405)], [1, 2], {86405: "a 2"}),
    "another module has its own number, and waits for its second": (
        [("a", 5), ("b", 5.5)], [1, 2], {5.5: "a 1", 5.9: "a 1", 6: "a 1, b 2"},
    ),
    "those that wait are told together": (
        [("a", 5), ("b", 5.5), ("c", 5.9), ("b", 5.9)], [1, 2, 3, 2], {5.9: "a 1", 6: "a 1, b 2, c 3"},
    ),
    "an earlier wish is told until a later one for its module is": (
        [("a", 5), ("b", 6.5), ("a", 6.6), ("a", 6.7)], [1, 2, 3, 3], {6.7: "a 1, b 2", 7.4: "a 1, b 2", 7.5: "b 2, a 3"},
    ),
    "of so many modules the last are told": (
        [(f"m{n}", 2 * n) for n in range(20)], list(range(1, 21)), {40: ", ".join(f"m{n} {n + 1}" for n in range(4, 20))},
    ),
    "no more wait than can be told": (
        [("a", 5), *((f"m{n}", 5.5) for n in range(17)), ("m16", 6)], [1, *range(2, 18), None, 18],
        {6: ", ".join(f"m{n} {n + 2}" for n in range(16)), 7: ", ".join(f"m{n} {n + 2}" for n in range(1, 17))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", ASKED)
def test_requests_and_what_is_told_of_them(sentence):
    asked, numbers, told = ASKED[sentence]
    pod = Pod()
    assert [pod.ask(module, at) for module, at in asked] == numbers
    assert {at: pod.told(at) for at in told} == told


def test_however_many_are_asked_for_it_keeps_few():
    pod = Pod()
    for n in range(1000):
        pod.ask(f"m{n}", n / 10)
        assert len(pod.wishes._wishes) <= 2 * MOST


def test_what_can_be_no_path_is_no_wish():
    pod = Pod()
    for module in ("x" * 300, 7, None, ["a"]):
        with pytest.raises(ValueError, match="validation error"):
            pod.ask(module, 1)
    assert pod.told(9) == ""


STEPS = st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.25]), st.sampled_from([f"m{n}" for n in range(40)]))


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, max_size=60))
def test_whatever_is_asked_there_is_news_once_a_second_and_a_wish_is_told_unless_others_took_its_place(steps):
    pod, asked, news = Pod(), list[tuple[float, OptimizeRequest]](), dict[float, int]()
    for pause, module in steps:
        since = pod.now
        for n in range(1, int(4 * pause) + 1):
            _look(pod, since + n / 4, asked, news)
        if (request := pod.wishes.ask(module)) is not None:
            asked.append((pod.now, request))
            assert request.module == module
        _look(pod, pod.now, asked, news)
    moments = sorted(news)
    assert all(later - sooner >= APART_SECONDS for sooner, later in pairwise(moments))


def _look(pod: Pod, moment: float, asked: list[tuple[float, OptimizeRequest]], news: dict[float, int]) -> None:
    pod.now = moment
    told = pod.wishes.told()
    assert len(told) <= MOST
    assert len({r.module for r in told}) == len(told)
    assert [r.number for r in told] == sorted(r.number for r in told)
    last = max((r.number for r in told), default=0)
    if last > max(news.values(), default=0):
        news[moment] = last
    for at, request in asked:
        if at + APART_SECONDS <= moment:
            instead = [r for r in told if r.number >= request.number and r.module == request.module]
            assert instead or sum(r.number > request.number for r in told) == MOST


def test_the_modules_with_a_predictor_are_those_that_it_is_in_and_itself():
    assert places(["answer.predict", "steps[0].predict", "steps[1]", "self"]) == (
        "answer", "answer.predict", "steps", "steps[0]", "steps[0].predict", "steps[1]", "self",
    )  # fmt: skip
