"""Every paper on the list, in one table: what it is called, where it would live, whether it works here, and what was measured.

``status`` works: the method is whole, tested and has a recipe. partly: ``why`` says what is left out. not yet: ``why`` says what is
missing. A test holds this table to the recipes and tests that it names; `rayrl methods` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass

WORKS, PARTLY, NOT_YET = "works", "partly", "not yet"


@dataclass(frozen=True)
class Paper:
    number: int
    title: str
    arxiv: str
    """Empty where this table knows none."""
    room: str
    status: str
    why: str = ""
    recipes: tuple[str, ...] = ()
    test: str = ""
    """File that protects it."""
    measured: str = ""
    """Last outcome of its acceptance check, as it was."""


PAPERS = (
    Paper(1, "CARINOX: category-aware noise optimisation and exploration", "", "diffusion", NOT_YET, "needs an image sampler"),
    Paper(
        2,
        "PURE: min-form credit",
        "2504.15275",
        "credit",
        WORKS,
        recipes=("methods/02-pure",),
        test="tests/unit/algorithms/test_step_credit.py",
        measured="tabular, 3 seeds: sum form 4.5 to 6.3 steps long (hacked), min form 1.0 step and 99 % right",
    ),
    Paper(
        3,
        "MNPO: multiplayer Nash preference optimisation",
        "2509.23102",
        "preference losses",
        WORKS,
        "opponents: the frozen start, the policy that sampled, and any checkpoints that reference.opponents names",
        recipes=("methods/03-mnpo",),
        test="tests/unit/algorithms/test_preference.py",
        measured="rock-paper-scissors: last policy alone cycles (deviation 0.66 from uniform), with a fixed start 0.000",
    ),
    Paper(
        4,
        "Mirage or Method: model-task alignment",
        "2508.21188",
        "credit, evaluation",
        PARTLY,
        "estimators, pass@k and the alignment label; no one-command study over all rewards and shots",
        recipes=(
            "methods/04-negative-reinforcement",
            "methods/04-positive-reinforcement",
        ),
        test="tests/unit/algorithms/test_group_credit.py",
    ),
    Paper(5, "MPO: evolving judge rubric", "", "judges", NOT_YET, "needs a judge whose rubric is rewritten during the run"),
    Paper(
        6,
        "TRPA: trust region preference approximation",
        "2504.04524",
        "policy losses",
        WORKS,
        recipes=("methods/06-trpa",),
        test="tests/unit/algorithms/test_preference.py",
    ),
    Paper(
        7,
        "Pref-GRPO: win rates as rewards",
        "2508.20751",
        "credit",
        WORKS,
        "the form for text",
        recipes=("methods/07-pref-grpo", "feedback_win_rate"),
        test="tests/unit/algorithms/test_shaping.py",
        measured="a hack worth .0005: point-wise advantages above .5, with ties exactly 0",
    ),
    Paper(
        8,
        "Reward-robust RLHF (BRME)",
        "2409.15360",
        "aggregation",
        PARTLY,
        "nominal and worst head, heads with their own deviation from an online model; no second stage on the scores of a first model",
        recipes=(
            "methods/08-reward-robust",
            "hacking/robust",
            "feedback_reward_robust",
        ),
        test="tests/unit/algorithms/test_resampling_and_ensembles.py",
        measured="tabular: true value .10 for w = 1, .39 for .6, .59 for .4, .60 for .2; "
        "hacking/robust (w .4), 3 seeds: true accuracy 24.6 % to 91.0 %, where one judge alone ends at 6.9 %",
    ),
    Paper(
        9,
        "HARMO: hybrid and multi-aspect rewards",
        "2510.05283",
        "aggregation",
        PARTLY,
        "routing by task, aspects and the length penalty; no embedding reward, no images",
        recipes=("methods/09-harmo",),
        test="tests/unit/algorithms/test_shaping.py",
    ),
    Paper(
        10,
        "iREPO: implicit reward pairwise difference regression",
        "2405.15230",
        "preference losses",
        WORKS,
        recipes=("methods/10-irepo",),
        test="tests/unit/algorithms/test_pairs.py",
        measured="tabular, 3 seeds: expected reward rises in each of 5 rounds; hard labels drift 4 times as far from the start",
    ),
    Paper(11, "Ferret: red-team search", "", "search", NOT_YET, "no quality-diversity archive"),
    Paper(
        12,
        "RiskPO: risk-based policy optimisation",
        "2510.00911",
        "credit",
        WORKS,
        recipes=("methods/12-riskpo",),
        test="tests/unit/algorithms/test_risk.py",
        measured="tabular, 3 seeds: entropy at update 50 is 2.3 (GRPO .8, risk-seeking .2); accuracy at 300 .96 (page: .98)",
    ),
    Paper(13, "ID-Aligner", "", "diffusion", NOT_YET, "needs an image sampler"),
    Paper(
        14,
        "PRDP: proximal reward difference prediction",
        "2402.08714",
        "policy losses",
        WORKS,
        "the form for text",
        recipes=("methods/14-prdp",),
        test="tests/unit/algorithms/test_preference.py",
        measured="tabular: reaches the optimum to 1e-14 in log-probability",
    ),
    Paper(15, "CoMAS: co-evolving agents", "", "multi-agent", NOT_YET, "one policy per run"),
    Paper(
        16,
        "Verifier-based against verifier-free",
        "2502.12118",
        "evaluation",
        PARTLY,
        "both sides and their diagnostics; the table of both under one token budget is `rayrl compare` by hand",
        recipes=(
            "methods/16-verifier-based",
            "methods/16-verifier-free",
        ),
        test="tests/unit/evaluation/test_estimators.py",
    ),
    Paper(
        17,
        "DDRO: pairwise relevance optimisation",
        "2504.05181",
        "preference losses",
        PARTLY,
        "loss, pairs and ranking measures; no constrained decoding over document ids",
        recipes=("methods/17-ddro",),
        test="tests/unit/algorithms/test_preference.py",
    ),
    Paper(
        18,
        "PF-PPO: policy filtration",
        "2409.06957",
        "filters",
        WORKS,
        recipes=("methods/18-pf-ppo",),
        test="tests/unit/algorithms/test_resampling_and_ensembles.py",
    ),
    Paper(
        19,
        "Flex-DPO and the 3D properties of DPO",
        "2406.07327",
        "preference losses",
        WORKS,
        recipes=("methods/19-flex-dpo",),
        test="tests/unit/algorithms/test_preference.py",
        measured="shared features: DPO lowers both answers and raises an unseen one to .99; with the likelihood term the chosen one rises",
    ),
    Paper(
        20,
        "LASER and LASER-D: step-shaped length rewards",
        "2505.15612",
        "shaping",
        PARTLY,
        "targets come from the answers of the run; LASER-DE, which pays wrong long answers, is left out",
        recipes=(
            "methods/20-laser",
            "methods/20-laser-d",
        ),
        test="tests/unit/algorithms/test_shaping.py",
    ),
    Paper(21, "ReAgent-V: video understanding", "2506.01300", "agents", NOT_YET, "no video"),
    Paper(22, "ChipSeek-R1: hierarchical reward for RTL", "2507.04736", "rewards", NOT_YET, "no hardware simulator"),
    Paper(23, "RTSoG: tree search over knowledge graphs", "2505.12476", "search", NOT_YET, "no search room"),
    Paper(24, "Tree-structured preference data", "2402.10184", "preference data", NOT_YET, "no tree of responses"),
    Paper(25, "Health text simplification", "2401.15043", "rewards", NOT_YET, "no readability rewards"),
    Paper(26, "ReST-RL", "2508.19576", "search", NOT_YET, "no tree search"),
    Paper(27, "Particle filtering for test-time scaling", "2502.01618", "search", NOT_YET, "no search room"),
    Paper(28, "Bag of tricks for inference-time computation", "2502.07191", "evaluation", NOT_YET, "no search room"),
    Paper(29, "LaMo: language models for offline RL", "2310.20587", "offline RL", NOT_YET, "no offline learner"),
    Paper(
        30,
        "Reward model ensembles",
        "2310.02743",
        "aggregation",
        WORKS,
        recipes=(
            "methods/30-ensemble-worst-case",
            "hacking/worst_case",
            "hacking/uncertainty_weighted",
            "hacking/mean",
        ),
        test="tests/unit/algorithms/test_resampling_and_ensembles.py",
        measured="best of 1000 by 5 noisy members, 30 seeds: gold .02 for one, 2.55 worst case, 2.58 uncertainty-weighted; "
        "hacking, 3 seeds, true accuracy from 24.6 %: worst case 92.3 %, uncertainty-weighted 87.6 %, mean 7.6 %, one judge 6.9 %",
    ),
    Paper(
        31,
        "Diffusion-DRO: ranking above own samples",
        "2510.18353",
        "preference losses",
        WORKS,
        "the form for text, with verified answers as demonstrations",
        recipes=("methods/31-ranking-hinge",),
        test="tests/unit/algorithms/test_preference.py",
    ),
    Paper(32, "MOREC: dynamics reward", "", "offline RL", NOT_YET, "no world model"),
    Paper(33, "GradeSQL: outcome reward model for SQL", "", "reward models", NOT_YET, "no recipe yet"),
    Paper(34, "Entropic particle filtering", "", "search", NOT_YET, "no search room"),
    Paper(35, "Job-shop scheduling with a solver as teacher", "", "environments", NOT_YET, "no constraint solver"),
    Paper(36, "Lessons of PRMs", "", "reward models", NOT_YET, "no step labels by consensus"),
    Paper(37, "BaseReward", "", "reward models", NOT_YET, "no recipe yet"),
    Paper(38, "Agent-R: revision trajectories", "", "search", NOT_YET, "no tree search"),
    Paper(
        39,
        "UPO: uncertainty-filtered preference optimisation",
        "2409.11212",
        "preference losses",
        PARTLY,
        "screening, sampling, loss, and passes with dropout of a model that learns online; no self-evolution loop over rounds of data",
        recipes=("methods/39-upo", "feedback_upo"),
        test="tests/unit/algorithms/test_pairs.py",
    ),
    Paper(
        40, "GRPO-lambda", "2505.18086", "shaping", WORKS, recipes=("methods/40-grpo-lambda",), test="tests/unit/algorithms/test_shaping.py"
    ),
    Paper(41, "Marginalization models", "", "generative models", NOT_YET, "no any-order policy"),
    Paper(
        42,
        "PAMA: Pareto multi-objective alignment",
        "2508.07768",
        "aggregation",
        WORKS,
        recipes=("methods/42-pama",),
        test="tests/unit/algorithms/test_group_credit.py",
    ),
    Paper(
        43,
        "PACS: outcomes as classification",
        "2509.02522",
        "policy losses",
        WORKS,
        recipes=("methods/43-pacs",),
        test="tests/unit/algorithms/test_preference.py",
    ),
    Paper(44, "SRPO: progress reward from own successes", "", "rewards", NOT_YET, "no world-model encoder"),
    Paper(
        45,
        "ONI: online intrinsic rewards from LLM feedback",
        "2410.23022",
        "intrinsic reward",
        PARTLY,
        "retrieval, count and cosine rewards; classification and ranking are tested functions that no agent learns from yet",
        recipes=("oni_chain", "oni_nethack"),
        test="tests/unit/algorithms/test_intrinsic.py",
    ),
    Paper(46, "Search-Gen-V: nugget rubric verifier", "2510.14660", "judges", NOT_YET, "no recipe yet"),
    Paper(47, "RewardBench 2", "2506.01937", "evaluation", NOT_YET, "no reward-model benchmark"),
    Paper(48, "ReSeek: search agent", "2510.00568", "agents", NOT_YET, "no search tool"),
    Paper(49, "MRMBench: probing reward models", "2511.12464", "evaluation", NOT_YET, "no probes"),
    Paper(50, "ToolRL: tool-call rewards", "2504.13958", "rewards", NOT_YET, "no recipe yet"),
    Paper(51, "RewardAnything", "2506.03637", "judges", NOT_YET, "no listwise judge"),
    Paper(52, "Audio jailbreak", "", "out of scope", NOT_YET, "out of scope: a defensive note only"),
    Paper(
        53,
        "Clip and Delta for process rewards",
        "2410.15115",
        "credit",
        WORKS,
        recipes=("methods/53-clip-delta",),
        test="tests/unit/algorithms/test_step_credit.py",
    ),
    Paper(54, "Job-application screening reward", "2511.16073", "rewards", NOT_YET, "no recipe yet"),
    Paper(55, "Reasoning-SQL", "2503.23157", "rewards", NOT_YET, "no recipe yet"),
    Paper(56, "PageLLM", "2506.09084", "rewards", NOT_YET, "no recipe yet"),
    Paper(57, "ReST-MCTS*", "2406.03816", "search", NOT_YET, "no tree search"),
    Paper(58, "MM-R5: reranking reward", "2506.12364", "rewards", NOT_YET, "no recipe yet"),
)
