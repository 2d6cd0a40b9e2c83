"""What is sent now, what waits, and when the next attempt is made. Nothing here raises because of the store."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from medae.tracking.client import reason, refused, shown
from medae.tracking.delivery import Delivery, is_file
from medae.tracking.spool import Entry, Spool

logger = logging.getLogger(__name__)

FIRST_PAUSE = 15.0
LONGEST_PAUSE = 300.0


class _Lane:
    """When the next attempt is made: at once, or after failures ever later."""

    def __init__(self) -> None:
        self.pause = 0.0
        self.next_try = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self.next_try

    def failed(self) -> None:
        self.pause = min(max(2 * self.pause, FIRST_PAUSE), LONGEST_PAUSE)
        self.next_try = time.monotonic() + self.pause


class Outbox:
    """Sends entries in order. While the store does not answer they wait in the spool, and attempts become rarer.

    Files go in a lane of their own: they often lie in another service, whose failure must not hold numbers up.
    """

    def __init__(self, client: MlflowClient, folder: Path) -> None:
        """Take up what waits in ``folder``."""
        self._store = shown(client.tracking_uri)
        self._spool = Spool(folder)
        self._delivery = Delivery(client, self._spool)
        self._lock = threading.RLock()
        self._lanes = {False: _Lane(), True: _Lane()}
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
            files = is_file(entry)
            if not self._delivery.next_group(files) and self._lanes[files].due() and self._sent([entry], original):
                return
            if original is not None:
                entry["path"] = self._spool.keep(original)
            self._spool.append(entry)
            self.drain()

    def drain(self, *, at_once: bool = False) -> None:
        """Send what waits, if it is time for another attempt, or ``at_once``."""
        with self._lock:
            waited = any(lane.pause for lane in self._lanes.values())
            for files, lane in self._lanes.items():
                if at_once:
                    lane.next_try = 0.0
                while lane.due() and (group := self._delivery.next_group(files)):
                    if self._sent(group, None):
                        self._spool.drop(group)
                        lane.pause = 0.0
            if waited and not self._spool:
                logger.warning("The tracking store answers again; all that waited has been sent.")

    def failed(self, error: BaseException, run: str, *, files: bool = False) -> None:
        """Put further attempts off. The first failure is told."""
        if not any(lane.pause for lane in self._lanes.values()):
            logger.warning(
                "The tracking store %s cannot be reached: %s. The work goes on; what is logged waits in %s of its folder.",
                self._store,
                reason(error),
                self._spool.name,
            )
        self._delivery.forget(run)
        self._lanes[files].failed()

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
        files = is_file(group[0])
        try:
            self._delivery.send(group, original)
        except Exception as error:  # stores of files raise what their libraries like; none of it may end a training
            lost = files and isinstance(error, FileNotFoundError)
            if not refused(error) and not lost:
                self.failed(error, group[0]["run"], files=files)
                return False
            self._tell(f"The tracking store refuses {group[0]['kind']}: {reason(error)}")
        return True

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)
