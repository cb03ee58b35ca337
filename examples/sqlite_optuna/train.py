"""Searches for hyperparameters with Optuna; the study is an SQLite file beside this script.

python train.py --trials 30

It knows nothing of Spectrain: it opens the study of the attempt before, and goes on with it.
"""

import argparse
import json
import time
from pathlib import Path

import optuna
import torch
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int, default=30)
parser.add_argument("--pause", type=float, default=0.8, help="seconds, as if the model were large")
args = parser.parse_args()

torch.set_num_threads(1)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial: Trial) -> float:
    """The loss of a small network after a short training."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    width = trial.suggest_int("width", 4, 64, log=True)
    torch.manual_seed(0)
    x = 6 * torch.rand(256, 1) - 3
    model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(100):
        loss = (model(x) - x.sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    time.sleep(args.pause)
    return loss.item()


study = optuna.create_study(
    study_name="sine", storage="sqlite:///study.db", load_if_exists=True, direction="minimize"
)
# The trial in which an earlier attempt died would stay RUNNING for ever.
for trial in study.get_trials(states=[TrialState.RUNNING]):
    study.tell(trial.number, state=TrialState.FAIL)
done = len(study.get_trials(states=[TrialState.COMPLETE]))
print(f"the study has {done} trials of {args.trials}")

for number in range(done + 1, args.trials + 1):
    # A sampler keeps its random state in memory. One that is seeded by the number of finished
    # trials proposes the same in a study that was interrupted.
    study.sampler = TPESampler(seed=number)
    study.optimize(objective, n_trials=1)
    last = study.get_trials(states=[TrialState.COMPLETE])[-1]
    print(f"trial {number}: loss {last.value:.6f}, best {study.best_value:.6f}", flush=True)

finished = study.get_trials(states=[TrialState.COMPLETE])
summary = {"best": study.best_params, "trials": [[t.params, t.value] for t in finished]}
Path("final.json").write_text(json.dumps(summary, indent=1))
print(f"final loss {study.best_value:.8f} with {study.best_params}")
