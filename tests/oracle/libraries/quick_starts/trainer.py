import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, Qwen3Config, Trainer, TrainingArguments

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    attention_dropout=0.1,
)


class Rows(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        ids = (torch.arange(12) * (i + 1)) % 64
        return {"input_ids": ids, "labels": ids}


torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(CONFIG)
arguments = TrainingArguments(
    "out", num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1, report_to=[],
    save_strategy="no", disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows())
trainer.remove_callback(PrinterCallback)  # which prints how long it took
trainer.train()
print([row["loss"] for row in trainer.state.log_history if "loss" in row])
print(trainer.evaluate()["eval_loss"])
trainer.save_model("saved")
again = AutoModelForCausalLM.from_pretrained("saved")
ids = torch.arange(8).reshape(2, 4)
print(
    again(ids.to(again.device)).logits.double().sum().item(), again.generate(ids, max_new_tokens=6, do_sample=False).tolist()
)
print(sum(p.double().sum().item() for p in trainer.model.parameters()))
