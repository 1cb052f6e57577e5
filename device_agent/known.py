"""What is known of machines and links: what tiers told of themselves, and what answers have brought since."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from device_agent.planner import Beliefs
from services.bundle import Manifest
from services.domain import LinkEstimate, Tier, TierProfile
from services.profile import corrected
from services.response import Response

_NO_LIMIT = 1e12
_LINKS = (Tier.DEVICE, Tier.EDGE)


@dataclass(slots=True)
class Known:
    """Notes news as they come, which every request pays for, and works them in when somebody wants to know."""

    manifest: Manifest
    _profiles: dict[Tier, TierProfile] = field(default_factory=dict)
    _links: dict[Tier, LinkEstimate] = field(default_factory=dict)
    _news: dict[int, Response] = field(default_factory=dict)
    _least_rtt: dict[Tier, float] = field(default_factory=dict)

    def answered(self, response: Response) -> None:
        """An answer says how loaded each tier is and how its links are, not all that a tier can run.

        Only the last one is kept of those that came from as far.
        """
        reached = len(response.profiles)
        self._news.pop(reached, None)
        self._news[reached] = response

    def told(self, profiles: Iterable[TierProfile], links: Iterable[LinkEstimate]) -> list[TierProfile]:
        """Whole profiles, in place of what was known of these tiers, as they are kept."""
        self._work_in()
        kept, sources = [self._kept(profile) for profile in profiles], set()
        for link in links:
            self._links[link.source] = link
            sources.add(link.source)
        if Tier.EDGE not in sources and any(profile.tier is Tier.EDGE for profile in kept):
            self._links.pop(Tier.EDGE, None)  # an edge that leads nowhere, any more
        return kept

    def _kept(self, profile: TierProfile) -> TierProfile:
        """Parts that did not change stay the same object, by which tables are kept."""
        known = self._profiles.get(profile.tier)
        if known is not None and known.segments == profile.segments:
            profile = replace(profile, segments=known.segments)
        if known is not None and known.codecs == profile.codecs:
            profile = replace(profile, codecs=known.codecs)
        self._profiles[profile.tier] = profile
        return profile

    def beliefs(self) -> Beliefs:
        """All of it, as it is now."""
        self._work_in()
        for source, link in self._links.items():
            if link.rtt_seconds is not None:
                self._least_rtt[source] = min(link.rtt_seconds, self._least_rtt.get(source, link.rtt_seconds))
        return Beliefs(self.manifest, dict(self._profiles), dict(self._links))

    def at_best(self) -> Beliefs:
        """The same with links as good as they may become: of any rate, and with the shortest RTT that they ever had."""
        links = {tier: LinkEstimate(tier, self._least_rtt.get(tier, 0.0), _NO_LIMIT) for tier in _LINKS}
        return replace(self.beliefs(), links=links)

    def _work_in(self) -> None:
        """In the order in which they came."""
        for response in self._news.values():
            for profile in response.profiles:
                if profile.tier in self._profiles:
                    self._profiles[profile.tier] = _loaded(self._profiles[profile.tier], profile)
            for link in response.links:
                self._links[link.source] = link
        self._news.clear()


def _loaded(known: TierProfile, lately: TierProfile) -> TierProfile:
    """`known` with how loaded the tier is lately, and what its codecs make of what it sends."""
    codecs = corrected(known.codecs, lately.codecs) if lately.codecs else known.codecs
    return TierProfile(
        known.tier, lately.queue_seconds, known.segments, codecs, lately.slowdown, lately.holds or known.holds
    )
