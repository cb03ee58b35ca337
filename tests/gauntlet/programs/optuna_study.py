"""An Optuna study in SQLite: a trial for each step."""

from ledger import STEPS, final, made, resumed, saved

import optuna  # isort: skip
from optuna.trial import TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    study_name="study", storage="sqlite:///study.db", load_if_exists=True, direction="minimize"
)
for trial in study.get_trials(states=[TrialState.RUNNING]):
    study.tell(trial.number, state=TrialState.FAIL)
done = study.get_trials(states=[TrialState.COMPLETE])
for number, trial in enumerate(done, start=1):
    assert trial.user_attrs["step"] == number, "a trial is missing"
resumed(len(done))
for step in range(len(done) + 1, STEPS + 1):
    study.sampler = optuna.samplers.RandomSampler(seed=step)
    trial = study.ask()
    x = trial.suggest_float("x", -10, 10)
    trial.set_user_attr("step", step)
    study.tell(trial, (x - 2) ** 2)
    saved(step)
    made(step)
done = study.get_trials(states=[TrialState.COMPLETE])
final([(trial.params, trial.value, trial.user_attrs["step"]) for trial in done])
