"""`python -m bench NAME`: run a benchmark, print a table and one JSON line, and keep the result."""

from __future__ import annotations

import importlib
import sys

ABOUT = {
    "library.metrics": "one log_metrics call, compared with other loggers",
    "library.checkpoint": "time held, time lost and memory for a checkpoint on the CPU",
    "library.plots": "time that plots at an interval hold the training loop",
    "library.reader": "a long metrics.jsonl reduced to 2,000 points per metric",
    "library.overhead": "the whole library in the built-in training loop, in percent of step time",
    "library.model": "time per step of the wave variant, compared with the standard one",
    "library.gpu": "checkpoints of a CUDA state (needs only an NVIDIA GPU, torch and numpy)",
    "system.dispatch": "from POST to the first line of the training script, warm and cold",
    "system.submit": "what sending a directory adds to the time to the first line of its script",
    "system.recovery": "from SIGKILL and SIGTERM of a worker to the first new step on another",
    "system.scale": "claim, renew and list with 100,000 finished and 10,000 queued jobs",
    "system.storage": "a checkpoint to an object store and back, compared with boto3",
    "system.traffic": "what a growing file, 5,000 small files and a flood of output cost",
    "web.api": "submissions and the list of jobs over HTTP, beside 100,000 jobs",
    "web.pages": "what 200 open pages of the dashboard cost other calls",
    "web.slow": "what half-open, idle and slow clients cost other calls",
    "web.scroll": "how thousands of jobs scroll on the dashboard in Chromium",
    "system.series": "the curves of a million rows over HTTP, first and again, beside the rows",
    "system.stalls": "whether stalls of Redis and storage lose a healthy job (an hour)",
    "system.away": "whether a ten-minute outage of the object store costs a training step",
    "gauntlet": "whether other people's programs lose anything when they are interrupted",
    "chaos": "whether jobs keep their curves while everything is killed at random (ten minutes)",
}
MODULES = {module.rpartition(".")[2]: module for module in ABOUT}


def main() -> int:
    """Run the benchmark named on the command line; return the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in MODULES:
        print("usage: python -m bench NAME [--help]\n")
        for known, module in MODULES.items():
            print(f"  {known:12}{ABOUT[module]}")
        return 2
    status: int = importlib.import_module(f"bench.{MODULES[name]}").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
