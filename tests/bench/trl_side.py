"""TRL's side of bench_end_to_end.py: `GRPOTrainer` with Hugging Face generation. Imports nothing of rayrl.

Settings are TRL's defaults where both sides are not told the same: weights in the compute type, one generation per step.

    python trl_side.py --model DIR --prompts FILE.jsonl --lengths FILE.jsonl --groups 32 --steps N --out FILE.json

Writes ``{"tokens": [completion tokens of step i], "ends": [end of step i, s on a monotonic clock]}``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, LogitsProcessor, LogitsProcessorList, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from vowels import share_of_vowels


class ForcedLengths(LogitsProcessor):
    """Each row ends with the end-of-sequence token at its own length and not before."""

    def __init__(self, lengths: list[int], prompt_length: int, eos: int) -> None:
        self.lengths, self.prompt_length, self.eos = torch.tensor(lengths), prompt_length, eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = self.lengths <= input_ids.shape[1] - self.prompt_length + 1
        scores[:, self.eos] = -torch.inf
        scores[ends] = -torch.inf
        scores[ends, self.eos] = 0.0
        return scores


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--prompts", "--lengths", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--groups", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    prompts = [json.loads(line)["prompt"] for line in arguments.prompts.read_text().splitlines()]
    lengths = [json.loads(line) for line in arguments.lengths.read_text().splitlines()]
    groups, size = arguments.groups, len(lengths[0])
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    step_lengths = [[n for group in lengths[i * groups : (i + 1) * groups] for n in group] for i in range(arguments.steps)]
    generated: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **kwargs) -> list[float]:
        forced = step_lengths[len(generated)]
        if [len(ids) for ids in completion_ids] != forced:
            raise RuntimeError("completions do not have the lengths that were to be forced")
        generated.append(sum(forced))
        return [share_of_vowels(completion) for completion in completions]

    config = GRPOConfig(
        output_dir=str(arguments.out.with_suffix("")),
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.micro_batch,
        gradient_accumulation_steps=groups * size // arguments.micro_batch,
        num_generations=size,
        max_completion_length=max(map(max, lengths)),
        beta=0.04,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        temperature=1.0,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        model_init_kwargs={"dtype": arguments.dtype},
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    clock = Clock()
    trainer = GRPOTrainer(
        str(arguments.model), reward, args=config, train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer, callbacks=[clock],
    )  # fmt: skip
    generate = trainer.model.generate

    def generate_with_forced_lengths(**inputs):
        forced = ForcedLengths(step_lengths[len(generated)], inputs["input_ids"].shape[1], tokenizer.eos_token_id)
        return generate(**inputs, logits_processor=LogitsProcessorList([forced]))

    trainer.model.generate = generate_with_forced_lengths
    trainer.train()
    arguments.out.write_text(json.dumps({"tokens": generated, "ends": clock.ends}))


if __name__ == "__main__":
    main()
