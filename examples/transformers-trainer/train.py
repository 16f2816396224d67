"""transformers' Trainer as the trainer of a stage: `curriculum run base --machine hf` starts it, stage by stage."""

from __future__ import annotations

from curriculum.stream import join

stage = join()  # before torch, which takes seconds to import: from here on a signal to stop is noticed

from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed  # noqa: E402

from curriculum.integrations.transformers import StageTrainer, stage_arguments  # noqa: E402

MICRO_BATCH = 4

with stage:  # holds the stage's lock, and has verified what it resumes from
    set_seed(stage.plan.seed)
    model = LlamaForCausalLM(LlamaConfig(**stage.plan.model))
    arguments = TrainingArguments(**stage_arguments(stage, micro_batch=MICRO_BATCH), use_cpu=True, disable_tqdm=True)
    StageTrainer(model, arguments, stage=stage).train()
