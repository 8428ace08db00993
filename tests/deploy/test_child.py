"""Child processes: what they answer, how their mistakes and their deaths are told."""

import signal

import pytest

from kdc.deploy import child
from kdc.distill import errors

MODULE = "deploy.doctor.load"
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and errors.KdcError in kind.__bases__]


def test_a_child_answers_and_what_it_prints_is_no_answer() -> None:
    assert child.call(MODULE, {"module": "this", "function": ""}) == {"fault": ""}  # it prints the Zen of Python


def test_a_process_answers_one_request_after_the_other() -> None:
    with child.start(MODULE) as process:
        assert process.stdin and process.stdout
        for module, fault in (("json", ""), ("nothing_there", "ModuleNotFoundError: No module named 'nothing_there'")):
            process.stdin.write(f'{{"module": "{module}", "function": ""}}\n')
            process.stdin.flush()
            assert process.stdout.readline() == f'{{"fault": "{fault}"}}\n'


def test_a_death_is_reported_with_the_last_words() -> None:
    with pytest.raises(child.ChildDiedError) as caught:
        child.call(MODULE, {"module": "faulthandler", "function": "_sigsegv"})
    assert (caught.value.code, caught.value.end) == (-11, "signal SIGSEGV")
    with pytest.raises(child.ChildDiedError, match=r"died \(exit code 0\); its last message: none$"):
        child.call(MODULE, {"module": "sys", "function": "exit"})
    with pytest.raises(child.ChildDiedError, match=r"\(exit code 1\); its last message: .*No module named kdc\.none$"):
        child.call("none", {})


def test_a_signal_without_a_name_is_reported_by_its_number() -> None:
    assert child.ChildDiedError(-35, "").end == "signal 35"


def test_a_child_that_takes_too_long_is_killed() -> None:
    with pytest.raises(TimeoutError):
        child.call(MODULE, {"module": "signal", "function": "pause"}, timeout=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_mistake_is_raised_as_it_was(kind: type[errors.KdcError]) -> None:
    with pytest.raises(kind, match=r"^why$") as caught:
        child.checked({"error": "why", "exit_code": kind.exit_code})
    assert caught.value.exit_code == kind.exit_code


def test_a_killed_child_is_a_lack_of_memory() -> None:
    died = child.ChildDiedError(-signal.SIGKILL, "working\n")
    assert died.exit_code == 7 and "signal SIGKILL" in str(died) and "memory ran out: give it more" in str(died)
    assert child.ChildDiedError(-signal.SIGSEGV, "").exit_code == 5
