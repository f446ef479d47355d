"""One measured case: our figures beside each peer's, round by round."""
import math
from dataclasses import dataclass, field

from .timing import median, spread

LOWER_IS_BETTER = {"s", "GiB"}


@dataclass(frozen=True)
class Row:
    """Figures of one case in one run; the lists have one entry a round."""

    bench: str
    case: str
    unit: str
    device: str
    ours: list[float]
    peers: dict[str, list[float]] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    """Peer -> what ran there: kernels and versions."""
    notes: dict = field(default_factory=dict)
    """What else was seen, for the JSON document."""

    def ratio(self, peer):
        """Median over rounds of ours against this peer's; above 1 = ours is better."""
        pairs = zip(self.ours, self.peers[peer])
        if self.unit in LOWER_IS_BETTER:
            return median([theirs / ours for ours, theirs in pairs])
        return median([ours / theirs for ours, theirs in pairs])

    def best_peer(self):
        """Name of the peer that is hardest to beat, None without any."""
        return min(self.peers, key=self.ratio, default=None)

    def as_json(self):
        def side(figures):
            return {"median": median(figures), "spread": spread(figures), "rounds": figures}

        return {"case": self.case, "unit": self.unit, "ours": side(self.ours),
                "peers": {name: side(figures) | {"ratio": self.ratio(name)} | self._how(name)
                          for name, figures in self.peers.items()},
                "best_peer": self.best_peer(), **self.notes}

    def _how(self, peer):
        return {"how": self.how[peer]} if peer in self.how else {}

    def line(self):
        """For people: case, ours, each peer's and the ratio."""
        text = f"{self.case:32s} {figure(self.ours)} {self.unit} +-{100 * spread(self.ours):4.1f} %"
        return text + "".join(f" | {name} {figure(figures)}, ratio {self.ratio(name):.3f}"
                              for name, figures in self.peers.items())


def figure(values):
    return f"{median(values):>9,.{0 if median(values) >= 1000 else 2}f}"


def geometric_mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def summary(rows):
    """Geometric mean and worst of the ratios to each case's best peer; None without peers.

    Of speeds alone: memory and start are no means of anything together with them.
    """
    ratios = {row.case: row.ratio(row.best_peer()) for row in rows
              if row.peers and row.unit not in LOWER_IS_BETTER}
    if not ratios:
        return None
    worst = min(ratios, key=ratios.get)
    return {"geometric_mean": geometric_mean(ratios.values()), "cases": len(ratios),
            "worst": ratios[worst], "worst_case": worst}
