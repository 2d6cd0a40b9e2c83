"""What is sent now, what waits, and when the next attempt is made. Nothing here raises because of the store."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from medae.tracking.client import STORE_ERRORS, reason, refused, shown
from medae.tracking.delivery import Delivery
from medae.tracking.spool import Entry, Spool

logger = logging.getLogger(__name__)

FIRST_PAUSE = 15.0
LONGEST_PAUSE = 300.0


class Outbox:
    """Sends entries in order. While the store does not answer they wait in the spool, and attempts become rarer."""

    def __init__(self, client: MlflowClient, folder: Path) -> None:
        """Take up what waits in ``folder``."""
        self._store = shown(client.tracking_uri)
        self._spool = Spool(folder)
        self._delivery = Delivery(client, self._spool)
        self._lock = threading.RLock()
        self._pause = 0.0
        self._next_try = 0.0
        self._told: set[str] = set()

    def __len__(self) -> int:
        return len(self._spool)

    def reopen(self, run: str) -> None:
        """``run`` goes on: its end, if it waits, no longer holds, and what it has logged is to be asked for."""
        self._spool.discard("end", run)
        self._delivery.forget(run)

    def put(self, kind: str, run: str, *, original: Path | None = None, **content: Any) -> None:
        """Deliver an entry after all that waits, or let it wait. ``original``: the file or folder to be stored."""
        entry: Entry = {"kind": kind, "run": run, "time": int(time.time() * 1000), **content}
        with self._lock:
            if not self._spool and self._due() and self._sent([entry], original):
                return
            if original is not None:
                entry["path"] = self._spool.keep(original)
            self._spool.append(entry)
            self.drain()

    def drain(self, *, at_once: bool = False) -> None:
        """Send what waits, if it is time for another attempt, or ``at_once``."""
        with self._lock:
            waited = bool(self._pause)
            if at_once:
                self._next_try = 0.0
            while self._spool and self._due():
                group = self._delivery.next_group()
                if self._sent(group, None):
                    self._spool.drop(len(group))
            if waited and not self._spool:
                self._pause = 0.0
                logger.warning("The tracking store answers again; all that waited has been sent.")

    def failed(self, error: BaseException, run: str) -> None:
        """Put further attempts off. The first failure is told."""
        if not self._pause:
            logger.warning(
                "The tracking store %s cannot be reached: %s. The work goes on; what is logged waits in %s of its folder.",
                self._store,
                reason(error),
                self._spool.name,
            )
        self._delivery.forget(run)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._next_try = time.monotonic() + self._pause

    def close(self, run: str) -> None:
        """A last attempt, and a word on what still waits."""
        self.drain(at_once=True)
        if self._spool:
            logger.warning(
                "%d entries of run %s still wait for the tracking store %s, in %s of the run's folder. "
                "They are sent when the run is resumed while the store answers.",
                len(self._spool),
                run,
                self._store,
                self._spool.name,
            )

    def _sent(self, group: list[Entry], original: Path | None) -> bool:
        """Whether ``group`` is done with: delivered, or refused for good."""
        try:
            self._delivery.send(group, original)
        except STORE_ERRORS as error:
            lost = group[0]["kind"] == "artifact" and isinstance(error, FileNotFoundError)
            if not refused(error) and not lost:
                self.failed(error, group[0]["run"])
                return False
            self._tell(f"The tracking store refuses {group[0]['kind']}: {reason(error)}")
        return True

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)

    def _due(self) -> bool:
        return time.monotonic() >= self._next_try
