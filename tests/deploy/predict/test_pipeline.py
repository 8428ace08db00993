"""The queues on both sides of the network: order, errors, and an end at any moment."""

import time

import pytest

from kdc.deploy.predict import pipeline


def test_ahead_hands_over_errors_and_closes_what_it_takes_from():
    closed = []

    def numbers(bad):
        try:
            for i in range(100):
                if i == bad:
                    raise ValueError("bad")
                yield i
        finally:
            closed.append(bad)

    got = []
    with pytest.raises(ValueError, match="bad"):
        got.extend(pipeline.Ahead(numbers(5), lambda _: False, lambda: False))
    assert closed == [5]
    for i in (turns := iter(pipeline.Ahead(numbers(None), lambda _: False, lambda: False))):
        if i == 3:
            turns.close()
            break
    assert closed == [5, None]
    assert list(pipeline.Ahead(numbers(None), lambda _: False, lambda: False)) == list(range(100))


def test_behind_does_all_in_order_and_hands_over_errors():
    done = []
    behind = pipeline.Behind(done.append)
    for i in range(50):
        behind(i)
    behind.close()
    assert done == list(range(50))

    def fail(_):
        raise ValueError("full")

    behind = pipeline.Behind(fail)
    with pytest.raises(ValueError, match="full"):
        for i in range(50):
            behind(i)
    with pytest.raises(ValueError, match="full"):
        behind.close()


def test_ahead_lets_the_oldest_go_where_nothing_may_wait():
    ahead = pipeline.Ahead(iter_of(range(100)), lambda _: True, lambda: False)
    got = []
    for i in ahead:
        time.sleep(0.02)
        got.append(i)
    assert got == sorted(got) and got[-1] == 99
    assert len(got) + ahead.dropped == 100 and ahead.dropped > 80


def test_reading_ahead_ends_on_request_although_nothing_comes():
    def silent():
        yield 1
        time.sleep(1)

    got = []
    for i in pipeline.Ahead(silent(), lambda _: False, lambda: bool(got)):
        got.append(i)
    assert got == [1]


def iter_of(numbers):
    yield from numbers
