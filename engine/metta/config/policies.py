"""Several policies in one run: the tables `[policies.NAME]`, and the settings of each policy that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Protocol

from pydantic import Field, ValidationError

from metta.config.agent import AgentModelConfig
from metta.config.batch_plan import BatchPlan, plan_batch
from metta.config.env.env_config import EnvConfig
from metta.config.self_play import SelfPlayConfig, agents_of_groups, num_opponents, self_play_problems
from metta.config.training import (
    ExperienceConfig,
    KickstartingConfig,
    LRScheduleConfig,
    NormalizationConfig,
    OptimizerConfig,
    PPOConfig,
    PrioritizedSamplingConfig,
    VTraceConfig,
)
from metta.config.validation.error_messages import problems_in
from metta.config.validation.file_paths import FilePath
from metta.config.validation.frozen_model import MAX_NAME, FrozenModel
from metta.config.validation.overrides import Overrides
from metta.errors import Problem, did_you_mean


class PolicyConfig(FrozenModel):
    """A policy that plays some groups of agents. Without any such table, one policy plays all agents.

    Each of its tables `agent` to `self_play` holds the keys of that table of the file that have other values for this
    policy.
    """

    groups: list[str] = Field(
        min_length=1,
        description="names of the groups of agents that the policy plays; each group is played by one policy",
    )
    train: bool = Field(
        default=True,
        description="train the policy; false: it is frozen, and its network and weights are those of init_from",
    )
    init_from: FilePath = Field(
        default="",
        description="policy checkpoint, or a run, whose weights the policy starts with, as far as they fit; :NAME at "
        "the end picks one of several policies, else it is the one of the same name; empty: run.init_from",
    )
    share: bool = Field(
        default=True,
        description="all agents of the groups share one network; false: each has its own policy, NAME_0, NAME_1, ...",
    )
    agent: Overrides[AgentModelConfig] = Field(
        default_factory=Overrides, description="keys of [agent], with values for this policy"
    )
    optimizer: Overrides[OptimizerConfig] = Field(
        default_factory=Overrides, description="keys of [optimizer], with values for this policy"
    )
    lr_schedule: Overrides[LRScheduleConfig] = Field(
        default_factory=Overrides, description="keys of [lr_schedule], with values for this policy"
    )
    ppo: Overrides[PPOConfig] = Field(
        default_factory=Overrides, description="keys of [ppo], with values for this policy"
    )
    vtrace: Overrides[VTraceConfig] = Field(
        default_factory=Overrides, description="keys of [vtrace], with values for this policy"
    )
    prioritized_sampling: Overrides[PrioritizedSamplingConfig] = Field(
        default_factory=Overrides, description="keys of [prioritized_sampling], with values for this policy"
    )
    normalization: Overrides[NormalizationConfig] = Field(
        default_factory=Overrides, description="keys of [normalization], with values for this policy"
    )
    kickstarting: Overrides[KickstartingConfig] = Field(
        default_factory=Overrides, description="keys of [kickstarting], with values for this policy"
    )
    self_play: Overrides[SelfPlayConfig] = Field(
        default_factory=Overrides, description="keys of [self_play], with values for this policy, among its agents"
    )

    def overrides(self, table: str) -> Overrides[Any]:
        """The values of this policy for one of the `POLICY_TABLES`."""
        values: Overrides[Any] = getattr(self, table)
        return values


@dataclass(frozen=True)
class PolicySettings:
    """One policy of a run: which agents it plays, and its settings with every value."""

    name: str
    """empty for the policy of a run without `[policies]`"""
    groups: tuple[str, ...]
    """the groups that it plays; empty: all agents"""
    member: int | None
    """index, among the agents of the groups, of the only agent that it plays; None: it plays all of them"""
    train: bool
    """False: the policy is frozen"""
    init_from: str
    agent: AgentModelConfig
    optimizer: OptimizerConfig
    lr_schedule: LRScheduleConfig
    ppo: PPOConfig
    vtrace: VTraceConfig
    prioritized_sampling: PrioritizedSamplingConfig
    normalization: NormalizationConfig
    kickstarting: KickstartingConfig
    self_play: SelfPlayConfig


POLICY_TABLES: Final = tuple(field.name for field in fields(PolicySettings))[5:]
"""The tables of a file whose keys can have other values for a policy."""


class PlayedAgents(Protocol):
    """What says which agents a policy plays: its settings, or its role in the worlds of a run."""

    @property
    def groups(self) -> Sequence[str]:
        """The groups that it plays; empty: all agents."""

    @property
    def member(self) -> int | None:
        """Index of the only agent that it plays among those of its groups; None: it plays all of them."""


def num_agents_of(policy: PlayedAgents, env: EnvConfig) -> int:
    """Number of agents per world that the policy plays, also those that opponents of self-play control in its place."""
    if policy.member is not None:
        return 1
    if not policy.groups:
        return env.game.num_agents
    counts = agents_of_groups(env)
    return sum(counts.get(group, 0) for group in set(policy.groups))


def num_learners_of(policy: PolicySettings, env: EnvConfig) -> int:
    """Number of agents per world from whose steps the policy learns: none if it is frozen, else those it plays.

    Agents that opponents of self-play control in its place are not counted.
    """
    agents = num_agents_of(policy, env)
    return agents - num_opponents(policy.self_play, env, agents) if policy.train else 0


def keeps_worlds(policy: PolicySettings) -> bool:
    """Whether minibatches of the policy keep the learners of a world together, because its critic reads them all."""
    return policy.train and policy.agent.critic != "own"


def plan_of(policy: PolicySettings, joint: BatchPlan, env: EnvConfig) -> BatchPlan:
    """The batch plan of a policy in training, a part of the `joint_plan`."""
    return joint.of_policy(num_learners_of(policy, env), keeps_worlds(policy))


def joint_plan(experience: ExperienceConfig, policies: Sequence[PolicySettings], env: EnvConfig) -> BatchPlan:
    """The batch plan of all policies in training together, in worlds such as `env`."""
    learners = [num for policy in policies if (num := num_learners_of(policy, env))]
    num_agents = env.game.num_agents
    return plan_batch(experience, num_agents, num_agents - sum(learners), min(learners))


def resolve_policies(
    shared: PolicySettings, policies: Mapping[str, PolicyConfig], env: EnvConfig
) -> tuple[PolicySettings, ...]:
    """The policies of a run in worlds such as `env`: `shared`, if no others are configured.

    `shared` has the settings of the file's own tables, of which `policies` changes some. A frozen policy has no teacher
    and no opponents.
    """
    if not policies:
        return (shared,)
    off = {"kickstarting": KickstartingConfig(), "self_play": SelfPlayConfig()}
    resolved = []
    for name, policy in policies.items():
        tables: dict[str, Any] = {
            table: policy.overrides(table).merged_into(getattr(shared, table)) for table in POLICY_TABLES
        }
        settings = replace(
            shared,
            name=name,
            groups=tuple(policy.groups),
            train=policy.train,
            init_from=policy.init_from or shared.init_from,
            **(tables if policy.train else tables | off),
        )
        if policy.share:
            resolved.append(settings)
        else:
            members = range(num_agents_of(settings, env))
            resolved += [replace(settings, name=f"{name}_{member}", member=member) for member in members]
    return tuple(resolved)


def policies_problems(shared: PolicySettings, policies: Mapping[str, PolicyConfig]) -> list[Problem]:
    """The problems with `[policies]` in any world; paths are relative to that table."""
    problems = [problem for name, policy in policies.items() for problem in _policy_problems(name, policy, shared)]
    if policies and not any(policy.train for policy in policies.values()):
        problems.append(Problem((), "must have a policy that trains; train = false in all of them"))
    played: dict[str, str] = {}
    for name, policy in policies.items():
        for index, group in enumerate(policy.groups):
            if group in played:
                other = played[group]
                twice = "is listed twice" if other == name else f"is played by policies.{other} too; remove it from one"
                problems.append(Problem((name, "groups", index), f'the group "{group}" {twice}'))
            played.setdefault(group, name)
    return problems


def _policy_problems(name: str, policy: PolicyConfig, shared: PolicySettings) -> Iterator[Problem]:
    if policy.train:
        for table in POLICY_TABLES:
            try:
                policy.overrides(table).merged_into(getattr(shared, table))
            except ValidationError as error:
                merged = getattr(shared, table).model_dump(exclude_unset=True) | policy.overrides(table)
                for problem in problems_in(error, type(getattr(shared, table)), merged):
                    yield replace(problem, path=(name, table, *problem.path))
        return
    if not policy.init_from and not shared.init_from:
        message = "is needed by a frozen policy (train = false): a policy checkpoint or a run with its weights"
        yield Problem((name, "init_from"), message)
    for table in POLICY_TABLES:
        if policy.overrides(table):
            reason = "its network is that of init_from" if table == "agent" else "only training uses it"
            yield Problem((name, table), f"has no effect on a frozen policy (train = false): {reason}; remove it")


def world_problems(shared: PolicySettings, policies: Mapping[str, PolicyConfig], env: EnvConfig) -> list[Problem]:
    """The problems with `[policies]` and `[self_play]` in worlds such as `env`, if there are no `policies_problems`.

    Paths are relative to the whole file.
    """
    if problems := list(_group_problems(policies, env)):
        return problems
    settings = resolve_policies(shared, policies, env)
    problems += _name_problems(settings)
    for policy in settings:
        own = policies[table_of(policy)].self_play if policies else {}
        agents = num_agents_of(policy, env)
        groups = policy.groups or tuple(env.game.groups)
        for problem in self_play_problems(policy.self_play, env, groups, agents):
            is_own = problem.path[0] in own
            place = ("policies", table_of(policy), "self_play") if is_own else ("self_play",)
            own_key = f"policies.{table_of(policy)}.self_play.{problem.path[0]}"
            hint = f"; policy {policy.name} can have another value: {own_key}" if policies and not is_own else ""
            problems.append(Problem((*place, *problem.path), problem.message + hint))
    return list(dict.fromkeys(problems))


def table_of(policy: PolicySettings) -> str:
    """The name of the table `[policies.NAME]` that describes the policy."""
    return policy.name if policy.member is None else policy.name.removesuffix(f"_{policy.member}")


def by_table(policies: Iterable[PolicySettings]) -> dict[str, list[PolicySettings]]:
    """The policies of each table `[policies.NAME]`, by its name: several with `share = false`, all alike."""
    tables: dict[str, list[PolicySettings]] = {}
    for policy in policies:
        tables.setdefault(table_of(policy), []).append(policy)
    return tables


def _group_problems(policies: Mapping[str, PolicyConfig], env: EnvConfig) -> Iterator[Problem]:
    """Groups that do not exist, have no agents or no policy."""
    counts = agents_of_groups(env)
    for name, policy in policies.items():
        unknown = [(index, group) for index, group in enumerate(policy.groups) if group not in counts]
        for index, group in unknown:
            message = f'unknown group "{group}"{did_you_mean(group, list(counts))}'
            yield Problem(("policies", name, "groups", index), message)
        if not unknown and not any(counts[group] for group in policy.groups):
            yield Problem(("policies", name, "groups"), "have no agents in this world; name groups that do")
    played = {group for policy in policies.values() for group in policy.groups}
    for group, count in counts.items() if policies else ():
        if count and group not in played:
            yield Problem(("policies",), f'no policy plays the group "{group}"; add it to the groups of one')


def _name_problems(settings: Sequence[PolicySettings]) -> list[Problem]:
    """Names of the policies of `share = false` that another policy has, or that are too long; one for each table."""
    times = Counter(policy.name for policy in settings)
    problems = {}
    for policy in settings:
        path = ("policies", table_of(policy), "share")
        if policy.member is not None and times[policy.name] > 1:
            message = f'makes a policy "{policy.name}", the name of another one; rename one of them'
            problems[path] = Problem(path, message)
        elif policy.member is not None and len(policy.name) > MAX_NAME:
            message = f'makes a policy "{policy.name}", whose name has more than {MAX_NAME} characters; shorten it'
            problems[path] = Problem(path, message)
    return list(problems.values())
