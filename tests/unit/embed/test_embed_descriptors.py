"""The warning about file descriptors: from four fifths on, at once and every ten minutes."""

import asyncio
import os
import resource
from collections.abc import Iterator

import pytest

from ratifyd.embed import descriptors
from ratifyd.embed.descriptors import DescriptorWatch

MESSAGE = "80% of file descriptors are used"


@pytest.fixture
def limit() -> Iterator[int]:
    """A limit of descriptors that is twice what is open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used, _ = descriptors.descriptors()
    lowered = 2 * used + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    yield lowered
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def warnings(caplog: pytest.LogCaptureFixture) -> list[dict[str, int]]:
    return [record.fields for record in caplog.records if record.getMessage() == MESSAGE]  # type: ignore[attr-defined]


def test_what_is_open_is_counted() -> None:
    before, _ = descriptors.descriptors()
    read, write = os.pipe()
    assert descriptors.descriptors()[0] == before + 2
    os.close(read)
    os.close(write)


def test_a_warning_while_there_are_few_left(
    limit: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "PERIOD_S", 0.0)

    async def run() -> None:
        watch = DescriptorWatch(asyncio.get_running_loop())
        watch.start()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not warnings(caplog), "half of them are free"
        used, _ = descriptors.descriptors()
        taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(limit // 5 * 4 - used)]
        try:
            while len(warnings(caplog)) < 2:
                await asyncio.sleep(0)
        finally:
            for each in taken:
                os.close(each)
        watch.stop()
        caplog.clear()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not warnings(caplog)

    asyncio.run(run())


def test_a_platform_that_does_not_tell(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_DIRECTORY", "/nowhere")

    async def run() -> None:
        DescriptorWatch(asyncio.get_running_loop()).start()

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == ["failed to get file descriptor usage"]
