"""Trains with several learning rates, a job for each, and prints what came out.

    python sweep.py --lr 0.003 0.01 0.03 0.1

Stop it whenever you like: the jobs go on. Started again, it finds them by the name of the sweep,
submits what is missing, and waits for the rest.
"""

import argparse
from pathlib import Path

from spectrain import Client

parser = argparse.ArgumentParser()
parser.add_argument("--sweep", default="lr", help="name of the sweep, which is a label of its jobs")
parser.add_argument("--lr", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.1])
parser.add_argument("--pause", type=float, default=0.25, help="seconds a step")
args = parser.parse_args()

with Client() as client:  # of SPECTRAIN_URL, or of a profile
    jobs = {}
    for lr in args.lr:
        job = client.submit(
            {
                "name": "ablation",
                "command": ["python", "train.py", "--lr", str(lr), "--pause", str(args.pause)],
                "workspace": {"path": str(Path(__file__).parent)},  # sent once for all
                "labels": {"sweep": args.sweep, "lr": str(lr)},
            },
            # A second submission with the same key returns the first one's job.
            idempotency_key=f"{args.sweep}-lr-{lr}",
        )
        print(f"lr {lr:<6g} is {job.id}")
        jobs[lr] = job.id

    print(f"\n{'lr':<8}{'job':<20}{'state':<12}{'attempts':>8}{'val_loss':>12}")
    for lr, job_id in jobs.items():
        job = client.wait(job_id)
        found = [row["val_loss"] for row in client.metrics(job_id) if "val_loss" in row]
        val_loss = f"{found[-1]:.8f}" if found else ""
        print(f"{lr:<8g}{job_id:<20}{job.state:<12}{len(job.attempts):>8}{val_loss:>12}")
