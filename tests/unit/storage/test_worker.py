"""Workers: order, answers on the loop, errors, closing."""

import asyncio
import threading
from typing import Any

from ratifyd.storage.worker import SoonWorker, ThreadWorker


def test_jobs_run_in_order_off_the_loop_and_answer_on_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = ThreadWorker(loop)
        finished = loop.create_future()
        answers: list[tuple[int, bool]] = []

        def done(result: tuple[int, bool] | None, error: BaseException | None) -> None:
            assert error is None
            assert result is not None
            answers.append((result[0], result[1] and threading.current_thread() is threading.main_thread()))
            if len(answers) == 200:
                finished.set_result(None)

        for number in range(200):
            worker.submit(
                lambda number=number: (number, threading.current_thread() is not threading.main_thread()),  # type: ignore[misc]
                done,
            )
        await asyncio.wait_for(finished, 10)
        assert answers == [(number, True) for number in range(200)]
        await worker.close()

    asyncio.run(main())


def test_errors_are_answers_and_do_not_stop_the_worker() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = ThreadWorker(loop)
        errors: list[BaseException | None] = []
        finished = loop.create_future()

        def fail() -> None:
            raise OSError("disk")

        worker.submit(fail, lambda _, error: errors.append(error))
        worker.submit(lambda: 7, lambda result, _: finished.set_result(result))
        assert await asyncio.wait_for(finished, 10) == 7
        assert isinstance(errors[0], OSError)
        await worker.close()

    asyncio.run(main())


def test_a_failing_answer_does_not_swallow_the_next() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[str] = []
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        worker = ThreadWorker(loop)
        gate = threading.Event()
        finished = loop.create_future()

        def bad(_: object, __: object) -> None:
            raise ValueError("bug")

        worker.submit(gate.wait, bad)
        worker.submit(lambda: None, lambda _, __: finished.set_result(None))
        gate.set()
        await asyncio.wait_for(finished, 10)
        assert reported == ["bug"]
        await worker.close()

    asyncio.run(main())


def test_close_drains_and_delivers() -> None:
    async def main() -> None:
        worker = ThreadWorker(asyncio.get_running_loop())
        answers: list[int | None] = []
        for number in range(50):
            worker.submit(lambda number=number: number, lambda result, _: answers.append(result))  # type: ignore[misc]
        await worker.close()
        await worker.close()
        assert answers == list(range(50))

    asyncio.run(main())


def test_the_loop_turns_while_a_worker_is_closed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = ThreadWorker(loop)
        gate = threading.Event()
        answers: list[bool | None] = []
        worker.submit(lambda: gate.wait(10), lambda result, _: answers.append(result))
        loop.call_soon(lambda: loop.call_soon(gate.set))
        await worker.close()
        assert answers == [True]

    asyncio.run(main())


def test_answers_during_the_close_may_fail_or_ask_for_more() -> None:
    """All the others are given; what was asked for too late is answered with an error, and never run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[str] = []
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        worker = ThreadWorker(loop)
        gate = threading.Event()
        answers: list[Any] = []
        refused = loop.create_future()

        def bad(_: object, __: object) -> None:
            worker.submit(lambda: answers.append("run"), lambda _, error: refused.set_result(error))
            assert not refused.done(), "nobody is told from inside a call"
            raise ValueError("bug")

        worker.submit(lambda: gate.wait(10), bad)
        worker.submit(lambda: 7, lambda result, _: answers.append(result))
        loop.call_soon(gate.set)
        await worker.close()
        assert answers == [7] and reported == ["bug"]
        assert isinstance(await asyncio.wait_for(refused, 10), RuntimeError)
        assert answers == [7]

    asyncio.run(main())


def test_a_close_that_is_cancelled_waits_for_the_thread() -> None:
    """What its jobs use is closed next."""

    async def main() -> None:
        worker = ThreadWorker(asyncio.get_running_loop())
        begun, gate = threading.Event(), threading.Event()
        ended: list[bool] = []

        def job() -> None:
            begun.set()
            ended.append(gate.wait(10))

        worker.submit(job, lambda *_: None)
        closing = asyncio.create_task(worker.close())
        assert await asyncio.to_thread(begun.wait, 10)
        closing.cancel()
        threading.Timer(0.05, gate.set).start()
        await asyncio.wait((closing,))
        assert closing.cancelled() and ended == [True]

    asyncio.run(main())


def test_a_worker_without_a_thread_answers_later() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = SoonWorker(loop.call_soon)
        finished = loop.create_future()
        worker.submit(lambda: 3, lambda result, _: finished.set_result(result))
        assert not finished.done()
        assert await asyncio.wait_for(finished, 10) == 3
        failed = loop.create_future()
        worker.submit(lambda: 1 // 0, lambda _, error: failed.set_result(error))
        assert isinstance(await asyncio.wait_for(failed, 10), ZeroDivisionError)

    asyncio.run(main())
