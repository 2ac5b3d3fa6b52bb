"""Workers: order, answers on the loop, errors, closing."""

import asyncio
import threading

import pytest

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
        worker.close()

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
        worker.close()

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
        worker.close()

    asyncio.run(main())


def test_close_drains_and_delivers() -> None:
    async def main() -> None:
        worker = ThreadWorker(asyncio.get_running_loop())
        answers: list[int | None] = []
        for number in range(50):
            worker.submit(lambda number=number: number, lambda result, _: answers.append(result))  # type: ignore[misc]
        worker.close()
        worker.close()
        assert answers == list(range(50))
        with pytest.raises(RuntimeError, match="closed"):
            worker.submit(lambda: 1, lambda *_: None)

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
