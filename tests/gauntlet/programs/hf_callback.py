"""A Hugging Face Trainer with our callback: dropout, shuffled data, a checkpoint at the stop."""

from ledger import EVERY, STEPS, curve, final, made, resumed, saved, stopped

import torch  # isort: skip
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from monitoring import preemption
from monitoring.integrations.huggingface import SpectrainCallback, latest_checkpoint

torch.set_num_threads(1)
torch.manual_seed(1337)
config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
model = GPT2LMHeadModel(config)
tokens = torch.randint(0, 64, (512, 16), generator=torch.Generator().manual_seed(1))
dataset = [{"input_ids": row, "labels": row} for row in tokens]


class Report(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        resumed(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        made(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        saved(state.global_step)
        if preemption.was_requested():
            stopped(state.global_step)


args = TrainingArguments(
    output_dir="results",
    save_steps=EVERY,
    save_total_limit=2,
    max_steps=STEPS,
    per_device_train_batch_size=4,
    logging_steps=1,
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
    seed=1337,
)
trainer = Trainer(
    model=model, args=args, train_dataset=dataset, callbacks=[Report(), SpectrainCallback()]
)
trainer.train(resume_from_checkpoint=latest_checkpoint("results"))
final({"model": model.state_dict(), "curve": curve()})
