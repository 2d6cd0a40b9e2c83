"""Use of processor, memory, disk, network and GPU while a run is going on, sampled by a thread.

MLflow's own monitor thread asks the store before every sample and gives up for good when it does not answer; its measuring
classes are used here, and the numbers go the way of all others, through the tracker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psutil
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

logger = logging.getLogger(__name__)

FIRST_PAUSE = 1.0


class SystemSampler:
    """Calls ``send`` with ``{"system/...": value}`` every ``interval`` seconds until ``stop``."""

    def __init__(self, send: Callable[[dict[str, float]], None], interval: float) -> None:
        """Start sampling. The first numbers come after a second, so that a short run has some too."""
        self._send = send
        self._interval = interval
        self._stopped = threading.Event()
        self._monitors = _monitors()
        self._sample()  # psutil counts processor use from the call before, so the first one is void
        self._thread = threading.Thread(target=self._run, name="medae-system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait until no more numbers are sent."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause = min(FIRST_PAUSE, self._interval)
        while not self._stopped.wait(pause):
            pause = self._interval
            try:
                values = self._sample()
            except (OSError, psutil.Error) as error:
                logger.debug("The system metrics could not be read: %s", error)
            else:
                self._send(values)

    def _sample(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return values


def _monitors() -> list[BaseMetricsMonitor]:
    monitors: list[BaseMetricsMonitor] = []
    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        try:
            monitors.append(kind())
        except (ImportError, RuntimeError, OSError, AttributeError) as error:  # no GPU; containers without a network
            logger.debug("%s is left out: %s", kind.__name__, error)
    return monitors
