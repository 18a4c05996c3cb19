"""Every setting of rayrl, typed and documented. The string under a field is its documentation: `rayrl plan --explain KEY` prints it.

Plain dataclasses that OmegaConf reads as structured configs; no torch, no ray. Cross-field rules live in `config/checks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class RunConfig:
    name: str = "run"
    """Name of the run; also the name of its folder and of its wandb run."""
    dir: str = "runs/${run.name}"
    """Run folder: config, metrics, rollouts, checkpoints, spans, logs."""
    seed: int = 0
    """Seed of everything that draws: prompt order, sampling, initialisation."""
    steps: int = 100
    """Learner steps to reach. A run that ends earlier exits non-zero."""
    tokens: int = 0
    """Budget of sampled tokens (those the policy chose): once spent, the run has reached its goal whatever `steps` says; 0 is off."""
    deterministic: bool = False
    """Bit-reproducible on CPU in synchronous mode: one torch thread per learner rank, ordered batches."""


@dataclass
class ModelConfig:
    path: str = MISSING
    """Folder or hub name of a Hugging Face causal language model: the initial policy."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer; null takes it from the model."""
    dtype: str = "bfloat16"
    """Compute type of the learner and of the engines: bfloat16 or float32."""
    max_length: int = 512
    """Context limit in tokens: prompt and all turns."""
    trust_remote_code: bool = False
    """Run code that ships with the checkpoint. Off unless you trust its author."""


@dataclass
class DataConfig:
    source: str = MISSING
    """Where prompts come from: a .jsonl or .parquet file, a Hugging Face dataset name or folder, or `task:NAME` for a generated task."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    eval_source: str | None = None
    """Held-out prompts, same forms as `source`; null cuts `eval_size` rows off the training source."""
    eval_split: str = "test"
    """Split of `eval_source`."""
    eval_size: int = 256
    """Held-out prompts used by an evaluation."""
    shots: int = 0
    """Train on this many prompts again and again (one-shot and few-shot RL), the same ones for every `run.seed`; 0 is all of them."""
    prompt_field: str = "prompt"
    """Field with the question: a string, or a list of {role, content} messages."""
    answer_field: str | None = "answer"
    """Field with the ground truth; null where there is none."""
    answer_pattern: str | None = None
    """Regular expression whose first group is cut out of the answer field (GSM8K: `#### (.*)`)."""
    completions_field: str | None = None
    """Field (of a generated task: metadata) with a list of completions that join the prompt's group as if they had been sampled, at most
    `batch.group_size` of them: demonstrations, hard negatives. They bear the policy's own log-probs; evaluation never sees them."""
    task_field: str | None = None
    """Field that names the task of a row; null calls every row `default`."""
    system_prompt: str | None = None
    """System message put before every prompt that is a string."""
    chat_template: bool = True
    """Render with the tokenizer's chat template where it has one; false feeds the raw string."""
    shuffle: bool = True
    """New order every epoch, from `run.seed`."""
    max_prompt_length: int = 256
    """Longest prompt in tokens; longer rows are refused at loading time or skipped, see `too_long`."""
    too_long: str = "error"
    """What to do with longer rows: error or skip (counted)."""
    task_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of a generated task."""


@dataclass
class SamplingConfig:
    max_tokens: int = 64
    """Most tokens of one completion (one turn)."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 is off."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the most likely; 0 is off."""
    stop: list[str] = field(default_factory=list)
    """Stop strings, kept in the completion."""
    ignore_eos: bool = False
    """Sample on to max_tokens (benchmarks)."""


@dataclass
class RolloutConfig:
    engine: str = "auto"
    """vllm, torch, fake, or auto (vllm where it runs, else torch with a line that says why)."""
    num_engines: int = 1
    """Rollout actors."""
    tensor_parallel: int = 1
    """GPUs per engine."""
    gpu_memory_utilization: float = 0.85
    """Share of a GPU's memory that vLLM may take."""
    kv_cache_gib: float = 1.0
    """Key/value cache of a CPU engine in GiB."""
    max_running: int = 256
    """Sequences that one engine runs at once."""
    prefix_caching: bool = True
    """Share key/value blocks of common prefixes; never across weight versions."""
    enforce_eager: bool = True
    """No graph capture: quick start. Set false on GPUs."""
    cpu_threads: int = 0
    """torch threads of a CPU engine; 0: in synchronous runs it has its share of all cores (at most 8), in asynchronous ones 1."""
    max_turns: int = 1
    """Most policy turns of one episode."""
    env: str | None = None
    """Multi-turn environment by registry name or `module:Class`; null is single-turn."""
    env_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    length_limits: str | None = None
    """JSONL file with one list of n token limits per prompt ordinal (benchmarks with forced lengths)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class RewardComponent:
    verifier: str | None = None
    """Source of the scores: registry name or `module:function` of a verifier. Each component has exactly one source."""
    judge: str | None = None
    """Source of the scores: the judge of `feedback`, asked with this prompt template: of kind score or class, pair (the value is a
    win rate), ranking (the value is a place) or steps."""
    reward_model: str | None = None
    """Source of the scores: a model of `reward_models`, by name."""
    head: int | None = None
    """Which head of the reward model scores it, or which pass with dropout where the model has passes; null is their mean."""
    deviation: bool = False
    """The head's own standard deviation instead of its value (objective gaussian)."""
    weight: float = 1.0
    """Factor in the weighted sum; 0 only measures."""
    tasks: list[str] | None = None
    """Tasks it applies to (0 elsewhere); null is all."""
    separator: str = "\n\n"
    """Where a judge that rates steps cuts a sample into them; the same as algorithm.args.separator, where each step is paid."""
    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the verifier."""


@dataclass
class RewardsConfig:
    components: dict[str, RewardComponent] = field(default_factory=dict)
    """Reward components by name; every one is logged."""
    aggregate: str = "weighted_sum"
    """How components become one reward (algorithms/aggregation.py)."""
    aggregate_args: dict[str, Any] = field(default_factory=dict)
    """Knobs of the aggregator (algorithms/tables.py says which it has)."""
    on_failure: str = "drop"
    """A sample whose score failed: drop (not trained on) or fallback (takes `fallback_value`), counted in both cases; or rescore: a
    judge's late answer is waited for beyond `deadline_s`, while the learner goes on, until the group is too stale."""
    fallback_value: float = 0.0
    """Reward of a failed sample when on_failure is fallback."""
    deadline_s: float = 60.0
    """Longest time that a group waits for a judge, or for a reward model that has not learned yet; then its score has failed."""
    timeout_s: float = 5.0
    """Time limit of one verifier call."""
    workers: int = 1
    """Processes of the verifier pool."""
    memory_mib: int = 2048
    """Address-space cap of a verifier process."""


@dataclass
class JudgeSamplingConfig:
    temperature: float = 0.1
    """Sampling temperature of the judge."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    max_tokens: int = 512
    """Most tokens of one answer; one that is cut off there counts as failed."""
    stop: list[str] = field(default_factory=list)
    """Stop strings."""


@dataclass
class BudgetConfig:
    labels: int | None = None
    """Most questions that are asked of the judge, resumed or not; null is no cap. `rayrl labels` sweeps it."""
    tokens: int | None = None
    """Most tokens (prompts and answers) of the run, resumed or not; null is no cap. A question that might exceed it is not asked."""
    usd: float | None = None
    """Most money of the whole run; null is no cap. Needs the two prices."""
    usd_per_million_input: float = 0.0
    """Price of a million prompt tokens."""
    usd_per_million_output: float = 0.0
    """Price of a million answer tokens."""
    requests_per_minute: float = 0.0
    """Rate limit; 0 is off."""
    tokens_per_minute: float = 0.0
    """Rate limit in tokens; 0 is off."""


@dataclass
class RetryConfig:
    max_attempts: int = 3
    """Attempts per question; then it is failed for good and stays without a label."""
    backoff_s: float = 0.5
    """Pause before the second attempt; doubled for each further one, with jitter. A server's Retry-After wins when it is longer."""
    backoff_max_s: float = 30.0
    """Longest pause between two attempts."""
    breaker_failures: int = 16
    """Failures of the server in a row after which nothing is sent for `breaker_s`; then one question tries again."""
    breaker_s: float = 10.0
    """How long the circuit breaker stays open."""


@dataclass
class PairsConfig:
    swap: bool = True
    """Ask each pair in both orders: a judge that prefers a position contradicts itself then."""
    inconsistent: str = "tie"
    """A pair whose two orders contradict each other: tie (0.5) or failed."""
    select: str = "shown"
    """How pairs of sighted texts are chosen: shown (in proportion to the episodes that showed them lately), random (every text alike),
    or uncertainty (those that the reward model is least sure about)."""


@dataclass
class JudgeEngineConfig:
    actors: int = 1
    """Judge workers of this cluster, each with an engine."""
    engine: str = "auto"
    """vllm, torch, fake, or auto, as in rollout.engine."""
    tensor_parallel: int = 1
    """GPUs per judge worker."""
    gpu_memory_utilization: float = 0.85
    """Share of a GPU's memory that vLLM may take."""
    kv_cache_gib: float = 1.0
    """Key/value cache of a CPU engine in GiB."""
    max_length: int = 4096
    """Context limit in tokens: prompt and answer."""
    dtype: str = "bfloat16"
    """Compute type: bfloat16 or float32."""
    cpu_threads: int = 1
    """torch threads of a CPU engine."""


@dataclass
class FeedbackConfig:
    judge: str = "none"
    """Who answers: http (an OpenAI-compatible server), vllm (engines of this cluster), replay (the log of an earlier run) or none."""
    base_url: str = "http://127.0.0.1:8000/v1"
    """Address of the OpenAI-compatible server, up to /v1."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key; null sends none. The key itself is never written anywhere."""
    model: str = "judge"
    """Model name as the server knows it; a folder or hub name for judge vllm."""
    replay: str | None = None
    """Label file (feedback.sqlite) of an earlier run, for judge replay: same questions, same answers, no judge."""
    template: str = "score"
    """Prompt template: a name of rayrl/feedback/templates, or a path to a file of your own."""
    goal: str = "default"
    """Goal that the template's text asks about: a name among the template's goals, or a sentence of your own."""
    sampling: JudgeSamplingConfig = field(default_factory=JudgeSamplingConfig)
    concurrency: int = 32
    """Questions in flight at once."""
    flush_s: float = 0.1
    """Longest time that a waiting question rests while a slot is free."""
    deadline_s: float = 60.0
    """Limit of one attempt, from sending to the last byte."""
    max_queued: int = 10000
    """Questions that wait; beyond it the least urgent is evicted and counted."""
    max_known: int = 200000
    """Questions without label that are remembered, queued or not; beyond it the one not seen for longest is forgotten and counted."""
    max_text: int = 20000
    """Longest text in characters; a longer one is refused and counted."""
    priority: str = "first_sightings"
    """Which sighted question goes first: first_sightings (shown first in most episodes), frequency, uncertainty or lifo (newest)."""
    engine: JudgeEngineConfig = field(default_factory=JudgeEngineConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)


@dataclass
class AgentNetworkConfig:
    size: str = "oni"
    """Preset of the widths below: oni (2.8 M parameters) or small (0.24 M)."""
    channels: int | None = None
    """Channels of the convolutions over the characters; null takes the preset's."""
    hidden: int | None = None
    """Width of the recurrent state (GRU); null takes the preset's."""
    features: int | None = None
    """Width of the map's feature vector; null takes the preset's."""


@dataclass
class InferenceConfig:
    """Where env workers have their network computed."""

    actors: int = 0
    """Actors that compute it for all workers, each for its share of them; 0: every worker computes it itself, on its core."""
    gpus: float = 0.0
    """GPUs of each actor where there are any (`placement.mode`); a fraction shares one, with the learner for instance."""
    cpu_threads: int = 1
    """Compute threads of each actor without a GPU."""


@dataclass
class IntrinsicConfig:
    kind: str = "none"
    """Where r̂ comes from: none, count (1 for every text), retrieval (labels of the annotator), classification or ranking (a model that
    learns from the annotator's labels while the agent plays), or cosine (similarity to `goal`)."""
    coef: float = 1.0
    """b: weight of r̂·N^-β in the reward."""
    count_exponent: float = 3.0
    """β: how fast a text loses its worth within an episode (N sightings, the present one included)."""
    threshold: float | None = None
    """Classification: probability above which r̂ is 1 (null is 0.5). Ranking: standardised score at or below which r̂ is 0 (null is -0.5).
    Cosine: similarity below which r̂ is 0 (null is 0)."""
    goal: str = ""
    """Text that the cosine baseline compares with."""
    reward_model: str | None = None
    """Classification and ranking: which of reward_models rates the texts."""
    pays: str = "next_action"
    """Whom a text pays, b·r̂·N^-β: next_action, chosen with the text in view (ONI), or last_action, which led to it, discounted by one
    step. Discounted returns are the same but for an episode's first text; an advantage then has no part that no action could change."""
    relabel: bool = False
    """Rate a batch again before each further pass over it (learner.epochs), by what was learned meanwhile. Whatever waits for its first
    pass is always rated by the newest labels."""


@dataclass
class AgentConfig:
    """An environment agent instead of a language model. Defaults are ONI's."""

    env: str | None = None
    """Agent environment by registry name or `module:Class`; null trains a language model."""
    env_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    message_key: str | None = None
    """Entry of a Gymnasium environment's observation or info that holds its text; null takes the only text of the observation."""
    mask_numbers: bool = False
    """Texts that differ in numbers alone are one text to judge and reward: "$ - 17 gold pieces." is asked about, and rewarded, as
    "$ - # gold pieces.". How often an episode showed a text is still counted by the exact one."""
    workers: int = 2
    """Env workers: one process each, one compute thread, with a copy of the policy unless `inference` computes it."""
    envs_per_worker: int = 16
    """Environments that one worker steps side by side."""
    compile: bool = False
    """An env worker that computes the policy itself does it by a compiled library of the network: made once per machine by a C++
    compiler (10 to 20 s), kept in ~/.cache/rayrl."""
    fragment_length: int = 32
    """Steps of each environment in one fragment: the unit that is trained on, and the length of backpropagation through time."""
    credit: str = "vtrace"
    """Value targets and advantages: vtrace, or gae (PPO)."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """GAE lambda."""
    rho_clip: float = 1.0
    """V-trace: upper bound ρ̄ of the importance weight of a temporal difference."""
    c_clip: float = 1.0
    """V-trace: upper bound c̄ of the trace weight."""
    clip: float = 0.1
    """Policy ratios are clipped to [1/(1+clip), 1+clip]."""
    clip_around: str = "behavior"
    """Policy in the denominator of those ratios: behavior (the one that acted; ONI) or proximal (the one before this learner step, each
    action weighed by its truncated importance weight): what was sampled some versions ago still teaches then."""
    value_coef: float = 0.5
    """Weight of the value loss, half the squared error: ONI's 0.5 of the whole squared error is 1.0 here."""
    value_clip: float = 1.0
    """Clip range of the value update; 0 is off."""
    entropy_coef: float = 0.003
    """Weight of the entropy bonus."""
    normalize_advantages: bool = True
    """Subtract the mean and divide by the standard deviation over the minibatch."""
    reward_scale: float = 1.0
    """s: factor of the extrinsic reward before clipping."""
    reward_clip: float = 10.0
    """The scaled extrinsic reward is clipped to ± this."""
    extrinsic_coef: float = 1.0
    """a: weight of the extrinsic reward after clipping; 0 is reward-free."""
    separate_values: bool = False
    """Own value heads (and own advantages, summed) for extrinsic and intrinsic reward."""
    eval_episodes: int = 32
    """Episodes of one evaluation, all workers together."""
    watched_frames: int = 500
    """Every evaluation also plays one episode to look at, recorded for at most so many frames (NetHack: whole terminals, about 100 bytes
    each on disk); 0 records none."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    network: AgentNetworkConfig = field(default_factory=AgentNetworkConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)


@dataclass
class RewardModelConfig:
    network: str = "transformer"
    """transformer (a head on a Hugging Face checkpoint) or char_cnn (a small character network for texts of at most 256 bytes)."""
    path: str | None = None
    """Checkpoint that the transformer starts from: a language model or a saved reward model; null takes model.path."""
    objective: str = "ranking"
    """ranking (pairs, Bradley-Terry), plackett_luce (ranked lists as a whole), classification (classes, cross entropy), regression
    (scores, squared error or Huber's) or gaussian (scores, a mean and a standard deviation per head)."""
    classes: int = 2
    """Classes of a classification; a text's score is the probability of the last one."""
    class_balance: bool = False
    """Weigh each class by the inverse of its share (classification)."""
    centring: float = 0.001
    """Weight of the mean squared score, which keeps scores near 0 (ranking, plackett_luce)."""
    huber: float = 0.0
    """Distance beyond which an error counts linearly (regression); 0 squares all."""
    ties: str = "half"
    """What a tie is (ranking): half (of a victory for each) or davidson (an outcome of its own, as likely as this judge likes ties)."""
    heads: int = 1
    """Heads on the one trunk, each fitted to a bootstrap sample: their mean is the score, their disagreement the uncertainty."""
    dropout: float = 0.0
    """Share of the last layer's inputs that is dropped, while it learns and in passes."""
    passes: int = 0
    """Thinned networks, each with its own dropout mask, that components can name as heads (Monte-Carlo dropout); 0 is none."""
    max_length: int = 512
    """Most tokens of a text (transformer); longer ones keep their end."""
    lr: float = 1e-4
    """Step size of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    grad_clip: float = 10.0
    """Largest gradient norm; 0 is off."""
    batch_size: int = 64
    """Labels per gradient step."""
    updates_per_arrival: int = 32
    """Gradient steps whenever new labels arrived."""
    min_labels: int = 32
    """Labels before the first fit."""
    min_accuracy: float = 0.0
    """Scores count only while the share of held-out comparisons that the model is right about is above this, beyond chance (lower end of
    a one-sided 95 % interval); else all samples score 0, which teaches nothing. 0.5 guards against a judge whose opinions mean nothing,
    and a model that has not understood them; 0 is off (objective ranking, components of rewards)."""
    warmup_updates: int = 0
    """Gradient steps before it scores anything: a model that has learned next to nothing teaches nonsense."""
    fit_before_scoring: bool = False
    """Make the steps that are owed before new samples are scored. It costs time, and keeps a policy from outrunning the model of what
    is wanted: one that learns faster than its reward model learns to fool it."""
    rescore: bool = False
    """Score samples that wait in the buffer again whenever the model has learned, so that a batch is rewarded by the newest version."""
    capacity: int = 25000
    """Labels kept; beyond it the oldest go."""
    validation_share: float = 0.1
    """Share of the labels that is never fitted to and measures quality. Chosen by content."""
    online: bool = True
    """Learn from the judge of `feedback` while the run goes on; false scores with the checkpoint as it is."""
    questions_per_group: int = 2
    """Questions asked about one group of samples: pairs (ranking), else single samples."""
    listwise: bool = False
    """Ask one ranking of up to `questions_per_group` samples (template of kind ranking) instead of pairs: fitted to as all comparisons
    that it implies (objective ranking) or as a whole (plackett_luce)."""
    choose: str = "uncertainty"
    """Which are asked: uncertainty (those that the model is least sure about) or random."""
    normalize: bool = True
    """Standardise scores by running mean and deviation of all scores given out."""
    gpus: float = 0.0
    """GPUs of its actor; 0 runs it on the CPU."""
    cpu_threads: int = 1
    """torch threads of its actor on the CPU."""


@dataclass
class KLConfig:
    coef: float = 0.0
    """Weight of the KL penalty against the reference model; 0 starts no reference model."""
    place: str = "loss"
    """Where it goes: loss or reward."""
    estimator: str = "k3"
    """k1, k2 or k3 (Schulman)."""


@dataclass
class CorrectionConfig:
    mode: str = "auto"
    """none, truncated, masked, decoupled; auto is none when max_staleness is 0 and truncated otherwise."""
    cap: float = 2.0
    """Upper bound of the importance weight (truncated), or above which a token is masked (masked, decoupled)."""
    floor: float = 0.5
    """Below which a token is masked (masked)."""
    level: str = "token"
    """token or sequence."""


@dataclass
class AlgorithmConfig:
    name: str = "grpo"
    """Preset that fills advantage, loss and filter where they are null: see `rayrl methods`."""
    advantage: str | None = None
    """Advantage estimator; null takes the preset's."""
    loss: str | None = None
    """Policy loss; null takes the preset's."""
    loss_reduction: str | None = None
    """token_mean, sequence_mean or fixed_length (Dr. GRPO); null takes the preset's."""
    filter: str | None = None
    """Group filter: none or zero_variance; null takes the preset's."""
    shaping: str | None = None
    """What is done to the rewards of a whole batch before advantages (length terms, win rates); null takes the preset's."""
    steps: str | None = None
    """What each step of a trajectory is paid, where a reward component scores steps; null takes the preset's."""
    pairs: str | None = None
    """Who is preferred to whom, for losses on pairs; null takes the preset's."""
    resample: str | None = None
    """How often each trajectory of the batch is trained on; null takes the preset's (once)."""
    args: dict[str, Any] = field(default_factory=dict)
    """Knobs of the parts above, by name (algorithms/tables.py says which each has; `rayrl methods --knobs` lists them)."""
    clip_low: float | None = None
    """Lower clip of the ratio; null takes the preset's (0.2, or 0.0003 for GSPO, whose ratio is a mean over the sequence)."""
    clip_high: float | None = None
    """Upper clip of the ratio; null takes the preset's (clip_low, or 0.28 for DAPO)."""
    gamma: float = 1.0
    """Discount (GAE, REINFORCE++)."""
    lam: float = 0.95
    """GAE lambda."""
    value_coef: float = 0.5
    """Weight of the value loss (PPO)."""
    value_clip: float = 0.2
    """Clip range of the value update (PPO); 0 is off."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus; the entropy itself is always measured."""
    kl: KLConfig = field(default_factory=KLConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)


@dataclass
class OptimConfig:
    lr: float = 1e-6
    """Peak learning rate."""
    critic_lr: float = 1e-5
    """Peak learning rate of the critic."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    """Adam moments."""
    eps: float = 1e-8
    """Adam epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 is off."""
    warmup_steps: int = 0
    """Linear warm-up in optimiser steps."""
    schedule: str = "constant"
    """After warm-up: constant, linear or cosine, down to `min_lr_ratio` at run.steps."""
    min_lr_ratio: float = 0.0
    """Final learning rate as a share of the peak."""


@dataclass
class LearnerConfig:
    backend: str = "deepspeed"
    """deepspeed, or torch (plain, one rank: the reference implementation)."""
    ranks: int = 1
    """Learner actors (data-parallel)."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage 0 to 3."""
    offload: bool = False
    """Keep optimiser states in host memory (ZeRO 2 and 3 on GPUs)."""
    token_budget: int = 8192
    """Most tokens (padding included) of one micro-batch; gradient accumulation follows from it."""
    packing: bool = False
    """Concatenate sequences without padding (block-diagonal attention); false sorts by length and pads."""
    epochs: int = 1
    """Passes over a batch."""
    minibatches: int = 1
    """Optimiser updates per pass."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    critic: bool | None = None
    """Train a value model; null follows the algorithm (PPO)."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, saved beside the policy; 0 is off."""
    cpu_threads: int = 0
    """torch threads of a CPU rank; 0 divides the cores."""
    attention: str = "auto"
    """Attention of padded rows: auto, or what the Hugging Face model offers: sdpa, eager, flash_attention_2. auto is sdpa, on CPUs
    in half precision with a backward pass that is several times as fast."""
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass
class OpponentConfig:
    path: str = ""
    """Its checkpoint: the policy of an earlier run, of an earlier step, or one that was aligned to another reward."""
    weight: float = 1.0
    """Share among the opponents, which are scaled to sum 1; all 0 is equal shares."""


@dataclass
class ReferenceConfig:
    path: str | None = None
    """Frozen reference model; null takes model.path. Started only when algorithm.kl.coef is not 0 or the loss compares with it."""
    actors: int = 1
    """Reference actors."""
    token_budget: int = 16384
    """Tokens per forward pass."""
    cpu_threads: int = 0
    """torch threads of a CPU actor; 0 divides the cores."""
    opponents: dict[str, OpponentConfig] = field(default_factory=dict)
    """Further frozen policies by name, for losses that measure the policy against several (mnpo)."""


@dataclass
class BatchConfig:
    groups_per_step: int = 32
    """Prompts (groups) per learner step."""
    group_size: int = 8
    """Samples per prompt."""


@dataclass
class BufferConfig:
    max_staleness: int = 0
    """Bound in weight versions: 0 synchronous, 1 one step off, k asynchronous with a bound. Enforced when sampling."""
    max_bytes: int = 2147483648
    """Bytes of buffered trajectories; beyond it nothing new is leased to rollout."""
    max_groups: int = 100000
    """Groups in the buffer."""
    select: str = "oldest"
    """Which ready groups are sampled first: oldest (by version, then ordinal), priority or newest."""
    max_refill: float = 8.0
    """With a group filter: most prompts admitted for one step, as a multiple of groups_per_step."""
    lease_s: float = 600.0
    """Lease of a prompt or a scoring job; an expired lease is reissued."""
    max_attempts: int = 3
    """Leases of one prompt before it is dropped as failed."""


@dataclass
class SyncConfig:
    transport: str = "auto"
    """How weights reach the engines: store (object store; every bucket's bytes are proven), nccl (broadcast between GPUs), ipc (the
    engine opens the memory of the learner on its own GPU). auto: store on CPUs, with vLLM on GPUs nccl, or ipc if colocated."""
    bucket_mib: int = 64
    """Bucket size."""
    canary: bool = True
    """Compare log-probs of a fixed prompt between learner and engine after every sync."""
    canary_tolerance: float = 0.05
    """Largest mean gap in nats; beyond it the run stops."""


@dataclass
class PlacementConfig:
    mode: str = "auto"
    """disaggregated (own GPUs per role), colocated (engines sleep while the learner works), cpu; auto looks for GPUs."""
    runtime: str = "ray"
    """ray, or in_process: every role on threads of this process, without Ray. For tiny models on one machine, many short runs, and
    debuggers: it starts in seconds and isolates nothing, a role that crashes takes the run along."""
    learner_gpus_per_rank: float = 1.0
    """GPUs of a learner rank in GPU modes."""
    nodes: int = 1
    """Nodes the run expects (checked by `rayrl plan`)."""
    gpus_per_node: int = 0
    """GPUs per node (checked by `rayrl plan`)."""
    cpus_per_node: int = 0
    """Cores per node; 0 looks at this machine."""
    ray_address: str | None = None
    """Cluster to join; null joins the one of the environment, or starts a local one."""
    object_store_mib: int = 512
    """Object store of a local Ray."""
    node_groups: dict[str, str] = field(default_factory=dict)
    """Role (rollout, learner, reference, judge) -> custom Ray resource that only its group of nodes has: who may live where."""
    max_rollout: int = 0
    """Most rollout workers (engines or env workers) while the run goes on: beyond the first ones some start wherever a node has room,
    also one that joins later, and leave with it; 0 keeps the number."""
    pin: bool = True
    """On a small CPU machine keep engine and learner on different cores when asynchronous."""


@dataclass
class DeadlinesConfig:
    """Seconds. No wait in rayrl is without one of these."""

    start_s: float = 300.0
    """A role's constructor: import, model load, first compile."""
    generate_s: float = 600.0
    """Waiting for the rollouts of one batch, without any progress."""
    score_s: float = 300.0
    """Waiting for rewards, without any progress."""
    learn_s: float = 1800.0
    """One learner step."""
    sync_s: float = 300.0
    """One weight update on all engines."""
    save_s: float = 1800.0
    """Writing a checkpoint."""
    call_s: float = 60.0
    """Any other call between roles."""
    drain_s: float = 120.0
    """Ending a run."""
    placement_s: float = 60.0
    """Placement group pending."""


@dataclass
class CheckpointConfig:
    every: int = 0
    """Steps between commits; 0 saves only at the end and on interruption."""
    keep: int = 2
    """Commits kept."""
    export: bool = True
    """Write a Hugging Face checkpoint of the policy at the end."""


@dataclass
class EvaluationConfig:
    every: int = 0
    """Steps between evaluations on held-out prompts; 0 is only before the first and after the last step."""
    enabled: bool = True
    """Evaluate at all."""
    temperature: float = 0.0
    """0 is greedy."""
    samples: int = 1
    """Samples per prompt."""
    component: str | None = None
    """Reward component that counts as correct (value ≥ `threshold`); null takes the first one."""
    threshold: float = 1.0
    """Smallest component value that counts as correct."""
    returns: str | None = None
    """Reward component with a bi-level return: its spread within a prompt's samples (heterogeneity) and the share well above its mean
    (anti-concentration) are measured too (arXiv 2502.12118)."""


@dataclass
class TelemetryConfig:
    wandb: str = "offline"
    """online, offline or off."""
    wandb_project: str = "rayrl"
    """wandb project."""
    rollouts: bool = True
    """Write every trained trajectory to Parquet in the run folder."""
    spans: bool = True
    """Write spans (Perfetto) to the run folder."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard event files to the run folder."""
    report: bool = True
    """Write the run as a page to look at (report.html) when it ends, also when it fails."""
    print_samples: int = 3
    """Sample generations shown before and after."""


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    reward_models: dict[str, RewardModelConfig] = field(default_factory=dict)
    """Reward models by name; components refer to them."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
