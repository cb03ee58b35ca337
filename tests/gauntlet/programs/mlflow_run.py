"""MLflow: one run over all attempts; its files keep the absolute places of its artifacts."""

import os
import shutil

from ledger import EVERY, STEPS, final, made, resumed, saved

import tiny  # isort: skip
import mlflow
import torch

mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment("training")
name = os.environ["SPECTRAIN_JOB_ID"]
earlier = mlflow.search_runs(filter_string=f"run_name = '{name}'", output_format="list")
run = mlflow.start_run(run_id=earlier[0].info.run_id if earlier else None, run_name=name)
model = tiny.model()
optimizer = tiny.optimizer(model)
step = 0
client = mlflow.MlflowClient()
logged = [item.path for item in client.list_artifacts(run.info.run_id)]
steps = sorted(int(path.split("-")[1].split(".")[0]) for path in logged)
if steps:
    step = steps[-1]
    path = client.download_artifacts(run.info.run_id, f"step-{step}.pt")
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
resumed(step)
while step < STEPS:
    step += 1
    loss = tiny.train(model, optimizer, step)
    if step % 10 == 0:
        mlflow.log_metric("loss", loss, step=step)
    if step % EVERY == 0:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        os.makedirs("draft", exist_ok=True)
        torch.save(state, f"draft/step-{step}.pt")
        mlflow.log_artifact(f"draft/step-{step}.pt")
        shutil.rmtree("draft")
        saved(step)
    made(step)
mlflow.end_run()
assert len(mlflow.search_runs(output_format="list")) == 1, "there is more than one run"
for item in client.list_artifacts(run.info.run_id):
    torch.load(client.download_artifacts(run.info.run_id, item.path))
final(model.state_dict())
