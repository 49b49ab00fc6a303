"""The leaderboard: every method on the pinned benchmark, over training seeds, with intervals.

    python -m benches.leaderboard run --seeds 0 1 2 --work DIR    train, sweep and measure; resumable
    python -m benches.leaderboard collect --work DIR              pool the seeds into the result file
    python -m benches.leaderboard shipped                         score the checkpoints in the repository
    python -m benches.leaderboard report                          write the page and its figures
    python -m benches.leaderboard check                           fail where the repository got worse
    python -m benches.leaderboard add NAME score.json             add a row of `orchard bench score`

The figures are in benches/results/leaderboard.json, the page is docs/leaderboard.md.
"""
