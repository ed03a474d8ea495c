"""Ratios within rounds, their median and its interval.

Two servers are compared inside one round, where the machine is the same for both, and never across
rounds. The figure is the median of the rounds' ratios. Its interval comes from the bootstrap: draw as
many rounds as there are, with replacement, take the median, many times; the middle 95 % of those medians
is the interval. The seed is fixed, so the same rounds always give the same interval.
"""

import math
import random
import statistics

RESAMPLES = 10000
CONFIDENCE = 0.95
ROUNDS_MIN = 6  # with 5 not even smallest to largest covers the median in 95 % of cases: 1 - 2 / 2**5


def rank(sorted_values, share):
    """Nearest-rank percentile of sorted values; share in 0..1."""
    if not sorted_values:
        raise ValueError("no values")
    index = math.ceil(share * len(sorted_values) - 1e-9) - 1  # 1e-9: 0.1 * 30 is above 3 in floats
    return sorted_values[min(max(index, 0), len(sorted_values) - 1)]


def bootstrap_interval(values, resamples=RESAMPLES, confidence=CONFIDENCE, seed=1):
    """Interval of the median of `values`, or None if there are too few."""
    if len(values) < ROUNDS_MIN:
        return None
    generator = random.Random(seed)
    medians = sorted(
        statistics.median(generator.choices(values, k=len(values))) for _ in range(resamples)
    )
    tail = (1 - confidence) / 2
    return rank(medians, tail), rank(medians, 1 - tail)


def ratios(rounds, subject, base, key):
    """Value of `key` of subject over that of base, for each round that has both."""
    found = []
    for one in rounds:
        if subject not in one or base not in one:
            continue
        above, below = one[subject].get(key), one[base].get(key)
        if above is not None and below:
            found.append(above / below)
    return found


def compare(rounds, subject, base, key, seed=1):
    """Median ratio with its interval: {"median", "low", "high", "rounds"}, or None without rounds."""
    values = ratios(rounds, subject, base, key)
    if not values:
        return None
    interval = bootstrap_interval(values, seed=seed)
    low, high = interval if interval else (None, None)
    return {"median": statistics.median(values), "low": low, "high": high, "rounds": len(values)}


def middle(rounds, subject, key):
    """Median over the rounds of one subject's value, or None if any round does not know it."""
    values = [one[subject].get(key) for one in rounds if subject in one]
    if not values or None in values:
        return None
    return statistics.median(values)


def order(names, round_index):
    """Order of a round: rotated by one each round, and reversed in every other turn of the wheel, so that
    each subject comes at each place equally often and does not always follow the same one."""
    shift = round_index % len(names)
    rotated = names[shift:] + names[:shift]
    return rotated[::-1] if (round_index // len(names)) % 2 else rotated
