"""Images of the backend on their way out."""

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from ratifyd.ports import BackendView, Worker
from ratifyd.server.parts import Image
from ratifyd.storage.exchange import Export, export_image
from ratifyd.storage.worker import GivenUp, Pauses

log = logging.getLogger("ratifyd.embed")


class _Image:
    """A laid out image over a view of its own."""

    def __init__(self, view: BackendView, export: Export, worker: Worker) -> None:
        self.view = view
        self._worker = worker
        self.size = export.size
        self._chunks = export.chunks

    def open(self) -> Iterator[bytes]:
        """The bytes, once."""
        return self._chunks

    def read(self, done: Callable[[bytes | None, BaseException | None], None]) -> None:
        """The next piece, made on the worker."""
        self._worker.submit(lambda: next(self._chunks, None), done)

    def close(self) -> None:
        """Let go of the view."""
        self.view.close()


class Pinnable(Protocol):
    """A backend whose last commit can be pinned for another thread."""

    def own_view(self) -> BackendView: ...


class BackendImages:
    """`server.parts.Images` over the live backend."""

    def __init__(self, backend: Pinnable, worker: Worker) -> None:
        self._backend = backend
        self._worker = worker
        self._pauses = Pauses()

    def stop(self) -> None:
        """Lay out no more: who wanted it is gone."""
        self._pauses.give_up()

    def prepare(self, done: Callable[[Image | None, BaseException | None], None]) -> None:
        """Pin the last commit and lay its image out on the worker."""
        view = self._backend.own_view()

        def laid_out(export: Export | None, error: BaseException | None) -> None:
            if export is None:
                view.close()
                if not isinstance(error, GivenUp):
                    log.error("failed to make an image of the backend", exc_info=error)
                done(None, error)
            else:
                done(_Image(view, export, self._worker), None)

        self._worker.submit(lambda: export_image(view, self._pauses), laid_out)
