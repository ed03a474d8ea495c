"""The arithmetic under every ratio. Method: values whose answer is known by hand or by theory."""

import os
import random
import statistics
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from measure import stats  # noqa: E402


class Rank(unittest.TestCase):
    def test_is_the_smallest_value_that_covers_the_share(self):
        values = list(range(1, 101))
        self.assertEqual(stats.rank(values, 0.5), 50)
        self.assertEqual(stats.rank(values, 0.99), 99)
        self.assertEqual(stats.rank(values, 1.0), 100)
        self.assertEqual(stats.rank(values, 0.0), 1)
        self.assertEqual(stats.rank(list(range(1, 31)), 0.1), 3)

    def test_of_nothing_is_an_error(self):
        with self.assertRaises(ValueError):
            stats.rank([], 0.5)


class Ratios(unittest.TestCase):
    def test_are_taken_within_rounds(self):
        """The machine doubles its speed half way; ratios within rounds do not notice."""
        rounds = [{"a": {"p": 2.0 * speed}, "b": {"p": 1.0 * speed}} for speed in (1, 1, 1, 2, 2, 2)]
        self.assertEqual(stats.ratios(rounds, "a", "b", "p"), [2.0] * 6)
        self.assertEqual(stats.compare(rounds, "a", "b", "p"),
                         {"median": 2.0, "low": 2.0, "high": 2.0, "rounds": 6})

    def test_leave_out_rounds_where_one_side_is_unknown(self):
        rounds = [{"a": {"p": 3.0}, "b": {"p": None}}, {"a": {"p": 3.0}, "b": {"p": 2.0}}, {"a": {}}]
        self.assertEqual(stats.ratios(rounds, "a", "b", "p"), [1.5])
        self.assertIsNone(stats.compare(rounds[:1], "a", "b", "p"))

    def test_middle_is_unknown_if_any_round_does_not_know(self):
        self.assertIsNone(stats.middle([{"a": {"p": 1}}, {"a": {"p": None}}], "a", "p"))
        self.assertEqual(stats.middle([{"a": {"p": 1}}, {"a": {"p": 5}}, {"a": {"p": 2}}], "a", "p"), 2)


class Bootstrap(unittest.TestCase):
    def test_few_rounds_have_no_interval(self):
        self.assertIsNone(stats.bootstrap_interval([1.0] * (stats.ROUNDS_MIN - 1)))

    def test_same_rounds_give_the_same_interval(self):
        values = [1.0, 1.1, 0.9, 1.05, 1.2, 0.95, 1.0]
        self.assertEqual(stats.bootstrap_interval(values), stats.bootstrap_interval(values))

    def test_one_outlier_does_not_move_the_interval(self):
        calm = [1.0 + i / 1000 for i in range(20)]
        low, high = stats.bootstrap_interval(calm[:-1] + [50.0])
        self.assertGreaterEqual(low, calm[0])
        self.assertLess(high, calm[-1])

    def test_interval_covers_the_truth_about_as_often_as_it_says(self):
        """200 samples of 20 from a known distribution; binomial(200, 0.95) is below 175 with p < 1e-4.

        The bootstrap of a median is known to cover a little less than it says, hence 170."""
        seed = int(os.environ.get("MIDGE_SEED", random.SystemRandom().randrange(2**32)))
        print(f"seed {seed}", file=sys.stderr)
        generator = random.Random(seed)
        covered = 0
        for _ in range(200):
            values = [generator.lognormvariate(0, 0.2) for _ in range(20)]
            low, high = stats.bootstrap_interval(values, resamples=400, seed=generator.random())
            covered += low <= 1.0 <= high
        self.assertGreaterEqual(covered, 170)

    def test_interval_lies_around_the_median(self):
        values = [float(i) for i in range(1, 22)]
        low, high = stats.bootstrap_interval(values)
        self.assertLess(low, statistics.median(values))
        self.assertGreater(high, statistics.median(values))


class Order(unittest.TestCase):
    def test_every_round_has_every_subject_once(self):
        names = ["a", "b", "c", "d"]
        for index in range(20):
            self.assertEqual(sorted(stats.order(names, index)), names)

    def test_every_subject_has_every_place_equally_often(self):
        names = ["a", "b", "c", "d"]
        for name in names:
            places = [stats.order(names, index).index(name) for index in range(16)]
            self.assertEqual([places.count(place) for place in range(4)], [4, 4, 4, 4])

    def test_a_subject_does_not_always_follow_the_same_one(self):
        names = ["a", "b", "c"]
        before = set()
        for index in range(6):
            order = stats.order(names, index)
            if order.index("b") > 0:
                before.add(order[order.index("b") - 1])
        self.assertEqual(before, {"a", "c"})


if __name__ == "__main__":
    unittest.main()
