"""The programs of the gauntlet, each after the manner of one that people run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parents[2] / "tests/gauntlet/programs"
# A file counts after two looks a second apart, a new folder two seconds after its last change, and
# beside something that is being written it waits five seconds more (worker/files); then it has to
# be sent. What changes at every look is copied every ten seconds, once that is known.
SETTLED_SECONDS = 9.0
RESTLESS_SECONDS = 20.0
_LAUNCHERS = Path(sys.executable).parent


@dataclass(frozen=True)
class Kind:
    """A program: its command, and what it needs.

    `resumes`: it has checkpoints. `bucket`: storage is an object store. `keys`: more of the job.
    `launches`: it ends when any of its processes does. `settles`: a checkpoint that was whole for
    so many seconds before a strike must not be lost.
    """

    name: str
    command: tuple[str, ...]
    needs: str = "torch"
    resumes: bool = True
    bucket: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    launches: bool = False
    settles: float = SETTLED_SECONDS

    @property
    def is_here(self) -> bool:
        """Whether the framework that it needs is installed."""
        return find_spec(self.needs) is not None


def _python(program: str, *arguments: str) -> tuple[str, ...]:
    return "python", str(PROGRAMS / f"{program}.py"), *arguments


def _launcher(name: str, *arguments: str) -> tuple[str, ...]:
    return str(_LAUNCHERS / name), *arguments


_PIPE = (
    f"python {PROGRAMS}/one_name.py | tee -a log.txt; code=$?; "
    f"python {PROGRAMS}/ledger.py; exit $code"
)
_NANOGPT = {"resume_args": ["--init_from=resume"], "resume_when": ["out/ckpt.pt"]}
_HUGGING_FACE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

KINDS = (
    Kind("Hugging Face Trainer", _python("hf_trainer"), "transformers", env=_HUGGING_FACE),
    Kind("Lightning", _python("lightning_fit"), "lightning"),
    Kind(
        "accelerate launch",
        _launcher("accelerate", "launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no",
                  str(PROGRAMS / "accelerated.py")),
        "accelerate",
        launches=True,
    ),
    Kind(
        "torchrun, two processes",
        _launcher("torchrun", "--standalone", "--nproc-per-node", "2",
                  str(PROGRAMS / "distributed.py")),
        launches=True,
    ),
    Kind("Hugging Face, our callback", _python("hf_callback"), "transformers", env=_HUGGING_FACE),
    Kind("Lightning, our callback", _python("lightning_callback"), "lightning"),
    Kind("Accelerate, our tracker", _python("accelerate_tracker"), "accelerate"),
    Kind("MLflow", _python("mlflow_run"), "mlflow"),
    Kind("Hydra", _python("hydra_app", "hydra.run.dir=outputs"), "hydra"),
    Kind("W&B offline", _python("wandb_run"), "wandb",
         env={"WANDB_MODE": "offline", "WANDB_SILENT": "true"}),
    Kind("Optuna study", _python("optuna_study"), "optuna", settles=RESTLESS_SECONDS),
    Kind("TensorBoard", _python("tensorboard_run"), "tensorboard"),
    Kind("nanoGPT", _python("nanogpt"), keys=_NANOGPT),
    Kind("bash, a pipe to tee", ("bash", "-o", "pipefail", "-c", _PIPE), launches=True),
    Kind("rotation with markers", _python("rotating")),
    Kind("SIGTERM ignored", _python("stubborn")),
    Kind("no checkpoints", _python("forgetful"), resumes=False),
    Kind("os.replace, saves on SIGTERM", _python("replacing")),
    Kind("shards and index", _python("sharded")),
    Kind("distributed checkpoint", _python("dcp")),
    Kind("a file that grows", _python("growing")),
    Kind("a mapped file", _python("mapped")),
    Kind("nanoGPT, object store", _python("nanogpt"), bucket=True, keys=_NANOGPT),
    Kind("rotation with markers, object store", _python("rotating"), bucket=True),
    Kind("shards and index, object store", _python("sharded"), bucket=True),
    Kind("a file that grows, object store", _python("growing"), bucket=True),
)  # fmt: skip
