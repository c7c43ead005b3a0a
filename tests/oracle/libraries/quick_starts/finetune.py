import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, Qwen3Config
from trl import SFTConfig, SFTTrainer

words = Tokenizer(models.WordLevel({"<eos>": 0} | {f"w{i}": i + 1 for i in range(63)}, unk_token="<eos>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
config = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(config)
rows = Dataset.from_list([{"text": " ".join(f"w{(i * j) % 63}" for j in range(10))} for i in range(16)])
arguments = SFTConfig(
    "out", use_cpu=True, bf16=False, max_steps=4, per_device_train_batch_size=4, logging_steps=1, report_to=[],
    save_strategy="no", disable_tqdm=True,
)  # fmt: skip
trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
trainer.remove_callback(PrinterCallback)  # which prints how long it took
trainer.train()
print([row["loss"] for row in trainer.state.log_history if "loss" in row])
print(sum(p.double().sum().item() for p in trainer.model.parameters()))
