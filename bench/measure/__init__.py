"""What the benchmark scripts share: statistics, the servers under test, the record of the machine."""
