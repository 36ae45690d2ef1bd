"""Spellings of other trainers, and ours: users of TRL, verl, OpenRLHF, slime, AReaL and prime-rl find the key.

A foreign key matches the end of the path that was written: `n` alone says nothing, `rollout.n` does.
"""

from __future__ import annotations

__all__ = ["FOREIGN", "translate"]

FOREIGN: dict[str, str] = {
    "actor_learning_rate": "learner.learning_rate",
    "actor_lr": "learner.learning_rate",
    "adam_beta_1": "learner.adam_beta1",
    "adam_beta_2": "learner.adam_beta2",
    "adam_eps": "learner.adam_epsilon",
    "async_level": "max_staleness",
    "clip_eps": "learner.loss.epsilon",
    "clip_eps_high": "learner.loss.epsilon_high",
    "clip_grad": "learner.max_grad_norm",
    "clip_range": "learner.loss.epsilon",
    "clip_ratio": "learner.loss.epsilon",
    "clip_ratio_high": "learner.loss.epsilon_high",
    "clip_ratio_low": "learner.loss.epsilon",
    "eps_clip": "learner.loss.epsilon",
    "eps_clip_high": "learner.loss.epsilon_high",
    "eval_interval": "eval.every",
    "eval_steps": "eval.every",
    "experiment_name": "name",
    "global_batch_size": "batch.prompts_per_update",
    "gradient_clipping": "learner.max_grad_norm",
    "group_size": "batch.num_generations",
    "init_kl_coef": "learner.beta",
    "kl_beta": "learner.beta",
    "kl_coef": "learner.beta",
    "kl_loss_coef": "learner.beta",
    "lr": "learner.learning_rate",
    "lr_scheduler_type": "learner.schedule",
    "lr_warmup_steps": "learner.warmup_updates",
    "max_async_level": "max_staleness",
    "max_head_offpolicyness": "max_staleness",
    "max_model_len": "rollout.context_length",
    "max_new_tokens": "rollout.max_completion_length",
    "max_off_policy_steps": "max_staleness",
    "max_policy_lag": "max_staleness",
    "max_response_length": "rollout.max_completion_length",
    "max_seq_len": "rollout.context_length",
    "max_steps": "updates",
    "max_tokens": "rollout.max_completion_length",
    "model_name_or_path": "model.path",
    "model_path": "model.path",
    "n_samples": "batch.num_generations",
    "n_samples_per_prompt": "batch.num_generations",
    "num_rollout": "updates",
    "num_samples_per_prompt": "batch.num_generations",
    "num_train_steps": "updates",
    "num_updates": "updates",
    "output_dir": "runs_folder",
    "ppo_epochs": "learner.num_iterations",
    "ppo_micro_batch_size": "learner.micro_batch_tokens",
    "ppo_micro_batch_size_per_gpu": "learner.micro_batch_tokens",
    "ppo_mini_batch_size": "learner.minibatches",
    "pretrain": "model.path",
    "project_name": "logging.wandb_project",
    "random_seed": "seed",
    "rollout.n": "batch.num_generations",
    "rollout_batch_size": "batch.prompts_per_update",
    "rollout_engine": "engine",
    "run_name": "name",
    "save_freq": "checkpoint.every",
    "save_interval": "checkpoint.every",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep_last",
    "staleness_threshold": "max_staleness",
    "test_freq": "eval.every",
    "total_steps": "updates",
    "total_training_steps": "updates",
    "train_batch_size": "batch.prompts_per_update",
    "use_wandb": "logging.wandb_project",
    "wandb_project_name": "logging.wandb_project",
    "warmup_ratio": "learner.warmup_updates",
    "warmup_steps": "learner.warmup_updates",
}


def translate(path: str) -> str | None:
    """Return our key for a foreign one written as a dotted path; None where none is known."""
    parts = path.split(".")
    endings = (".".join(parts[start:]) for start in range(len(parts)))
    return next((FOREIGN[ending] for ending in endings if ending in FOREIGN), None)
