"""Several trainings of one configuration that become one model: their seeds and names."""

from __future__ import annotations

from medae.seeding import seed_for


def member_seeds(seed: int, members: int) -> tuple[int, ...]:
    """The seed of each member; the first has the configuration's own, so that it is the training without others.

    The further ones are far from it: an ensemble of seed 1 shares no member with that of seed 0.
    """
    return (seed, *(seed_for(seed, "member", number) for number in range(2, members + 1)))


def member_names(arm: str, members: int) -> tuple[str, ...]:
    """The arm's name, or one a member. A stage without arms has none (an empty name)."""
    before = f"{arm}-" if arm else ""
    return (arm,) if members == 1 else tuple(f"{before}member-{number}" for number in range(1, members + 1))
