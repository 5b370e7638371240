"""Trees of acts, grown by Monte Carlo tree search over a policy's own continuations.

A node is a state: the question and the acts so far. A simulation walks from the root to a node from which fewer than `width`
acts have been drawn, by

    UCT     a = argmax_a  Q(s, a) + c √(ln N(s) / N(s, a))
    PUCT    a = argmax_a  Q(s, a) + c P(a | s) √N(s) / (1 + N(s, a))          P: the policy's, over the acts drawn so far

and the policy plays on from there to the end. Every act on the way becomes a node, and the return of each, with discount γ,

    G_t = r_t + γ G_{t+1}

is added to it: N counts the simulations through an act, Q is the mean of G over them. A walk that ends in an answered episode
counts its return once more and plays nothing.

Published for trainers and for labels of step reward models:

    trees = grow_trees(play, policy, envs, task_ids, TreeOptions(simulations=32), rng)
    for node in trees[0].nodes():            # every act: node.q, node.visits, node.episode, node.depth, node.siblings
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.options import choice, integer, number
from searchgym.records.episode import Episode
from searchgym.rollouts.starts import Start

from ..core.rollouts import Play

__all__ = ["Node", "SearchTree", "TreeOptions", "grow_trees"]


@dataclass(frozen=True)
class TreeOptions:
    """How trees are grown.

    Attributes:
        simulations: of each question.
        width: acts that are drawn in a state before the search walks on to one of them.
        discount: γ, per round.
        rule: how a walk chooses among the acts of a state.
        exploration: c.

    Raises:
        ConfigError: a value that cannot be used.
    """

    simulations: int = 16
    width: int = 4
    discount: float = 1.0
    rule: Literal["uct", "puct"] = "uct"
    exploration: float = 1.0

    def __post_init__(self) -> None:
        integer("simulations", self.simulations, 1)
        integer("width", self.width, 1)
        number("discount", self.discount, 0.0, 1.0)
        choice("rule", self.rule, ("uct", "puct"))
        number("exploration", self.exploration, 0.0)


@dataclass(eq=False)
class Node:
    """The state after an act.

    Attributes:
        parent: the state in which the act was chosen; None: this is the root, and no act was.
        episode: an episode that comes by here: it continues from its first `depth` rounds.
        depth: number of rounds before this state.
        logprob: of the act under the policy that drew it, summed over its tokens.
        ends: whether the act ended the episode.
        visits: N, simulations through the act.
        total: the sum of their discounted returns, from the act on.
        draws: acts that the policy drew in this state.
        children: by the text of their acts.
    """

    parent: Node | None = None
    episode: Episode | None = None
    depth: int = 0
    logprob: float = 0.0
    ends: bool = False
    visits: int = 0
    total: float = 0.0
    draws: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def q(self) -> float:
        """Q of the act that led here; of the root: the value of the question."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def value(self) -> float:
        """V of this state: the mean of its acts' Q by visits, which is 0 where the episode is over."""
        visits = sum(child.visits for child in self.children.values())
        return sum(child.total for child in self.children.values()) / visits if visits else 0.0

    @property
    def siblings(self) -> list[Node]:
        """The acts that were drawn in the same state, this one included, in the order in which they were found."""
        return [] if self.parent is None else list(self.parent.children.values())


class SearchTree:
    """The tree of one question.

    Args:
        task_id: the question.
        options: how it is grown.

    Attributes:
        root: the question.
        episodes: the simulations in the tree.
        played: those and the ones that failed.
    """

    def __init__(self, task_id: str, options: TreeOptions) -> None:
        self.task_id, self.options = task_id, options
        self.root = Node()
        self.episodes: list[Episode] = []
        self.played: list[Episode] = []

    def select(self) -> Node:
        """The state from which the next simulation is played, or the end of an episode."""
        node = self.root
        while not node.ends and node.draws >= self.options.width:
            node = self._best(node)
        return node

    def start_at(self, node: Node) -> Start:
        """How to play on from a state of this tree that has been visited."""
        if node.episode is None:
            return Start(self.task_id)
        return Start(self.task_id, prefix=node.episode, fork_round=node.depth)

    def add(self, episode: Episode) -> None:
        """Add a simulation: a new episode, or a branch of one that was added. One that failed only counts as played."""
        self.root.episode = (
            self.root.episode or episode
        )  # the question can be played again, even if this one failed
        self.played.append(episode)
        if not episode.valid_for_training:
            return
        self.episodes.append(episode)
        logprobs = _round_logprobs(episode)
        node, path = self.root, []
        for t, record in enumerate(episode.rounds):
            if t >= (episode.fork_round or 0):
                node.draws += 1
            child = node.children.get(record.text)
            if child is None:
                ends = t == len(episode.rounds) - 1
                child = node.children[record.text] = Node(node, episode, t + 1, logprobs[t], ends)
            node = child
            path.append(node)
        self._back_up(path, [record.reward for record in episode.rounds])

    def revisit(self, node: Node) -> None:
        """Count the return of an ended episode once more.

        Args:
            node: where it ended.
        """
        path = [node]
        while path[0].parent is not None:
            path.insert(0, path[0].parent)
        assert node.episode is not None
        self._back_up(path[1:], [record.reward for record in node.episode.rounds[: node.depth]])

    def nodes(self) -> Iterator[Node]:
        """Every act of the tree, parents before children."""
        waiting = list(self.root.children.values())
        while waiting:
            node = waiting.pop(0)
            yield node
            waiting += node.children.values()

    def path(self, episode: Episode) -> list[Node]:
        """The states after each round of an episode that was added."""
        node, found = self.root, []
        for record in episode.rounds:
            node = node.children[record.text]
            found.append(node)
        return found

    def round_values(self, episode: Episode) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """V of the state before each round of an episode, and Q of each round's act, both [R]."""
        path = self.path(episode)
        before = [self.root, *path[:-1]]
        return np.array([node.value for node in before]), np.array([node.q for node in path])

    def levels(self, episode: Episode) -> NDArray[np.float64]:
        """The rewards so far plus V of the state, before the first round of an episode and after each, [R + 1]."""
        earned = np.cumsum([0.0, *(record.reward for record in episode.rounds)])
        values: NDArray[np.float64] = earned + [node.value for node in (self.root, *self.path(episode))]
        return values

    def _back_up(self, path: Sequence[Node], rewards: Sequence[float]) -> None:
        returned = 0.0
        for node, reward in zip(reversed(path), reversed(rewards), strict=True):
            returned = reward + self.options.discount * returned
            node.visits += 1
            node.total += returned
        self.root.visits += 1
        self.root.total += returned

    def _best(self, node: Node) -> Node:
        children = list(node.children.values())
        visits, c = sum(child.visits for child in children), self.options.exploration
        if self.options.rule == "uct":
            bonus = [math.sqrt(math.log(visits) / child.visits) for child in children]
        else:
            peak = max(child.logprob for child in children)
            weights = [math.exp(child.logprob - peak) for child in children]
            bonus = [
                weight / sum(weights) * math.sqrt(visits) / (1 + child.visits)
                for weight, child in zip(weights, children, strict=True)
            ]
        scores = [child.q + c * extra for child, extra in zip(children, bonus, strict=True)]
        return children[scores.index(max(scores))]


def grow_trees(
    play: Play,
    policy: Policy,
    envs: SearchVectorEnv,
    task_ids: Sequence[str],
    options: TreeOptions,
    rng: np.random.Generator,
) -> list[SearchTree]:
    """Grow the tree of each question; all trees play their next simulation together.

    A simulation that infrastructure failures cut short gives no value.

    Args:
        play: e.g. `TrainContext.play`.
        policy: plays; its weights must not change meanwhile.
        envs: the environments.
        task_ids: the questions.
        options: how to grow them.
        rng: draws episode ids.

    Returns:
        One tree per question, each with a group of its own.
    """
    trees = [SearchTree(task, options) for task in task_ids]
    for tree, group in zip(trees, play(policy, envs, task_ids, 1, rng), strict=True):
        tree.add(group[0])
    for _ in range(options.simulations - 1):
        chosen = [(tree, tree.select()) for tree in trees]
        for tree, node in chosen:
            if node.ends:
                tree.revisit(node)
        walks = [(tree, node) for tree, node in chosen if not node.ends]
        branches = play.branch(policy, envs, [tree.start_at(node) for tree, node in walks], rng)
        for (tree, _), episode in zip(walks, branches, strict=True):
            tree.add(episode)
    return trees


def _round_logprobs(episode: Episode) -> list[float]:
    """The log-probability of each round's sampled tokens together."""
    found = [0.0] * len(episode.rounds)
    for segment in episode.segments:
        for index, logprob in zip(segment.rounds, segment.logprobs, strict=True):
            found[index] += logprob  # 0 where a token was not sampled
    return found
